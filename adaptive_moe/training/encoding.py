"""Examples as token ids that fit the model's context."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from adaptive_moe.errors import DataError, PromptError, TooFewExamplesError
from adaptive_moe.models.chat_format import split_prompt
from adaptive_moe.models.language_model import LanguageModel
from adaptive_moe.training.synthesis import Example

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class EncodedExample:
    """Ids of the prompt before the generation header, and of the answer with its end token."""

    prompt_ids: tuple[int, ...]
    answer_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class EncodedSet:
    """Encoded examples in the given order, with what had to be changed to fit.

    `cut` prompts lost tokens at their left end; `dropped` holds (example, reason) of those whose
    answer alone is too long or that the model cannot write down.
    """

    examples: tuple[EncodedExample, ...]
    cut: int
    dropped: tuple[tuple[Example, str], ...]


def encode_examples(language_model: LanguageModel, examples: Sequence[Example]) -> EncodedSet:
    """Encode all examples; raises TooFewExamplesError when not one can be used."""
    encoded: list[EncodedExample] = []
    dropped: list[tuple[Example, str]] = []
    cut = 0
    for example in examples:
        try:
            item, was_cut = encode_example(language_model, example)
        except (DataError, PromptError) as error:
            dropped.append((example, str(error)))
            continue
        encoded.append(item)
        cut += was_cut
    if examples and not encoded:
        example, reason = dropped[0]
        raise TooFewExamplesError(
            f"none of {len(examples)} examples can be used; the first is {example.file}, "
            f"row {example.line}: {reason}"
        )
    if cut or dropped:
        _log.warning("%d prompts cut to fit the context, %d examples dropped", cut, len(dropped))
    return EncodedSet(tuple(encoded), cut, tuple(dropped))


def fits_whole(language_model: LanguageModel, example: Example) -> bool:
    """Whether the example can be encoded, and without a cut."""
    try:
        return not encode_example(language_model, example)[1]
    except (DataError, PromptError):
        return False


def encode_example(language_model: LanguageModel, example: Example) -> tuple[EncodedExample, bool]:
    """The ids, and whether the prompt was cut from the left; the answer never is.

    Raises DataError where the answer leaves no room for a prompt or cannot be written down, and
    PromptError where the chat template refuses the conversation.
    """
    answer_ids = language_model.encode_answer(example.answer)
    room = language_model.context_length - len(language_model.header_ids) - len(answer_ids)
    if room < 1:
        raise DataError(
            f"the answer takes {len(answer_ids)} tokens of the context's "
            f"{language_model.context_length}"
        )
    messages = [{"role": role, "content": text} for role, text in example.prompt]
    prompt_ids = split_prompt(language_model.tokenizer, language_model.chat_format, messages)
    if not prompt_ids:
        raise DataError("the prompt holds no token that this model knows")
    return EncodedExample(prompt_ids[-room:], answer_ids), len(prompt_ids) > room
