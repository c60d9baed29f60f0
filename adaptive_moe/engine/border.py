"""Checks what a caller hands over, prompts and settings, before anything is computed."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, cast

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, Strict, ValidationError
from transformers import GenerationConfig

from adaptive_moe.config.loading import explain
from adaptive_moe.config.settings import GenerationSettings
from adaptive_moe.engine.request import Forced, Request
from adaptive_moe.errors import ConfigurationError, PromptError
from adaptive_moe.models.language_model import Prompt
from adaptive_moe.models.token_choice import check_supported

_WANTED = "give a text, a list of messages, or a list of such prompts"


def _listed(value: object) -> object:
    return [value] if isinstance(value, str | int) else value


def _paired(value: object) -> object:
    return list(value.items()) if isinstance(value, Mapping) else value


_Count = Annotated[int, Field(ge=0)]
_Length = Annotated[int, Field(ge=1)]
_Share = Annotated[float, Field(ge=0, le=1)]
_PositiveShare = Annotated[float, Field(gt=0, le=1)]
_Cutoff = Annotated[float, Field(ge=0, lt=1)]
_Positive = Annotated[float, Field(gt=0)]
_Ids = Annotated[list[_Count], Strict(False)]
_Word = Annotated[_Ids, Field(min_length=1)]
_Words = Annotated[list[_Word], Strict(False), Field(min_length=1)]
_Bias = Annotated[tuple[_Word, Annotated[float, Field(allow_inf_nan=True)]], Strict(False)]
_Biases = Annotated[list[_Bias], BeforeValidator(_paired), Strict(False), Field(min_length=1)]
_Ends = Annotated[
    list[Annotated[int, Field(ge=-1)]], BeforeValidator(_listed), Strict(False), Field(min_length=1)
]
_Stops = Annotated[
    list[Annotated[str, Field(min_length=1)]], BeforeValidator(_listed), Strict(False)
]


class _Overrides(BaseModel):
    """Type and range of every generation setting that is followed; nothing is coerced."""

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)

    max_new_tokens: _Length | None = None
    max_length: _Length | None = None
    min_new_tokens: _Count | None = None
    min_length: _Count | None = None
    max_time: _Positive | None = None
    stop_strings: _Stops | None = None
    eos_token_id: _Ends | None = None
    do_sample: bool | None = None
    seed: _Count | None = None
    num_return_sequences: _Length | None = None
    temperature: _Positive | None = None
    top_k: _Count | None = None
    top_p: _Share | None = None
    top_h: _PositiveShare | None = None
    min_p: _Share | None = None
    typical_p: _PositiveShare | None = None
    epsilon_cutoff: _Cutoff | None = None
    eta_cutoff: _Cutoff | None = None
    repetition_penalty: _Positive | None = None
    no_repeat_ngram_size: _Count | None = None
    exponential_decay_length_penalty: Annotated[tuple[_Count, _Positive], Strict(False)] | None = (
        None
    )
    suppress_tokens: _Ids | None = None
    begin_suppress_tokens: _Ids | None = None
    bad_words_ids: _Words | None = None
    sequence_bias: _Biases | None = None
    remove_invalid_values: bool | None = None
    renormalize_logits: bool | None = None


def as_batch(prompt: object) -> tuple[list[Prompt], bool]:
    """A batch, and whether it was one prompt: a text, or messages.

    Raises PromptError for anything else, and for a list that mixes messages with prompts.
    """
    if isinstance(prompt, str):
        return [checked_prompt(prompt)], True
    if not isinstance(prompt, Sequence) or isinstance(prompt, bytes):
        raise PromptError(f"a prompt cannot be {_kind(prompt)}; {_WANTED}")
    messages = [isinstance(each, Mapping) for each in prompt]
    if any(messages):
        if not all(messages):
            raise PromptError(
                "the list mixes messages with prompts; put the messages of a conversation into a "
                "list of their own"
            )
        return [checked_prompt(prompt)], True
    return [checked_prompt(each) for each in prompt], False


def checked_prompt(prompt: object) -> Prompt:
    """The prompt, if it is a text or a list of messages that can be written as UTF-8.

    Raises PromptError. Roles and their order are the language model's to check.
    """
    if isinstance(prompt, str):
        _check_text(prompt)
        return prompt
    if not isinstance(prompt, Sequence) or isinstance(prompt, bytes):
        raise PromptError(f"a prompt cannot be {_kind(prompt)}; {_WANTED}")
    for message in prompt:
        if not isinstance(message, Mapping):
            raise PromptError(
                f"a message cannot be {_kind(message)}; give each as a mapping with role and "
                "content"
            )
        _check_text(message.get("content"))
    return cast("Prompt", prompt)


def checked_route(experts: object) -> Forced:
    """The route, if it is one, each expert named once. Raises ConfigurationError."""
    if experts is None or experts == "auto":
        return cast("Forced", experts)
    if isinstance(experts, Sequence) and not isinstance(experts, str | bytes):
        names = [name for name in experts if isinstance(name, str)]
        if len(names) == len(experts):
            _check_once(names)
            return names
    raise ConfigurationError(
        f'experts={experts!r}: give "auto", None for the base, or a list of names'
    )


@dataclass(frozen=True, slots=True)
class Given:
    """What a caller says beside the settings of generation, as it comes."""

    experts: object
    attribution: bool
    seed: int | None
    stop: Callable[[], bool] | None = None


def request_of(
    overrides: Mapping[str, object],
    defaults: GenerationSettings,
    given: Given,
) -> Request:
    """The settings of one call over the configured ones.

    A `max_length` of the call takes the place of the configured `max_new_tokens`. Raises
    ConfigurationError for a setting that is unknown, out of range, or not supported here.
    """
    unknown = sorted(set(overrides) - set(GenerationConfig().to_dict()))
    if unknown:
        raise ConfigurationError(
            f"{unknown[0]!r} is not a setting of transformers' GenerationConfig; correct its name "
            "or leave it out"
        )
    check_supported({**overrides, "num_return_sequences": None})
    try:
        asked = _Overrides.model_validate({**overrides, "seed": given.seed}).model_dump(
            exclude_unset=True
        )
    except ValidationError as error:
        raise ConfigurationError(f"generation settings: {explain(error)}") from error
    chosen, samples = asked.pop("seed"), asked.pop("num_return_sequences", None) or 1
    config = _generation_config(asked, defaults)
    if samples > 1 and not config.do_sample:
        raise ConfigurationError(
            f"num_return_sequences={samples} needs do_sample=True: without sampling every answer "
            "would be the same"
        )
    return Request(
        generation=config,
        experts=checked_route(given.experts),
        attribution=given.attribution,
        seed=defaults.seed if chosen is None else int(chosen),
        stop=given.stop,
        samples=samples,
    )


def _generation_config(asked: Mapping[str, Any], defaults: GenerationSettings) -> GenerationConfig:
    values: dict[str, object] = {"do_sample": defaults.do_sample}
    if asked.get("max_length") is None:
        values["max_new_tokens"] = defaults.max_new_tokens
    if defaults.do_sample or asked.get("do_sample"):
        values |= {"temperature": defaults.temperature, "top_p": defaults.top_p}
    try:
        config = GenerationConfig(**{**values, **asked})
    except (ValueError, TypeError, AttributeError) as error:
        raise ConfigurationError(f"generation settings: {error}") from error
    for least, most in (("min_new_tokens", "max_new_tokens"), ("min_length", "max_length")):
        low, high = getattr(config, least), getattr(config, most)
        if None not in (low, high) and low > high:
            raise ConfigurationError(
                f"generation settings: {least}={low} is more than {most}={high}; "
                f"lower {least} or raise {most}"
            )
    return config


def _check_once(names: Sequence[str]) -> None:
    for place, name in enumerate(names):
        if name in names[:place]:
            raise ConfigurationError(
                f"experts={names!r}: expert {name!r} is named twice; name each expert once"
            )


def _check_text(text: object) -> None:
    if not isinstance(text, str):
        return
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise PromptError(
            f"character {error.start + 1} of the prompt is half of a pair "
            f"(U+{ord(text[error.start]):04X}) and cannot be written; decode the text anew or "
            "remove it"
        ) from error


def _kind(value: object) -> str:
    return "None" if value is None else f"a {type(value).__name__}"
