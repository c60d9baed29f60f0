"""Chooses the next token of every row: transformers' processors, then the largest or a draw."""

import hashlib
import secrets
import struct
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor
from transformers import GenerationConfig
from transformers.generation import logits_process as processors

from adaptive_moe.errors import ConfigurationError
from adaptive_moe.models.language_model import EncodedPrompt, LanguageModel

# Settings that another decoding loop would need, with the values that leave them off.
_UNSUPPORTED: Mapping[str, tuple[object, ...]] = {
    "num_beams": (1,),
    "num_beam_groups": (1,),
    "early_stopping": (False,),
    "length_penalty": (1.0,),
    "diversity_penalty": (0.0,),
    "num_return_sequences": (1,),
    "constraints": (),
    "force_words_ids": (),
    "penalty_alpha": (0.0,),
    "prompt_lookup_num_tokens": (0,),
    "use_mtp": (False,),
    "guidance_scale": (1.0,),
    "dola_layers": (),
    "watermarking_config": (),
    "encoder_repetition_penalty": (1.0,),
    "encoder_no_repeat_ngram_size": (0,),
    "exponential_decay_length_penalty": (),
    "forced_bos_token_id": (),
    "forced_eos_token_id": (),
    "min_length": (0,),
    "max_time": (),
    "token_healing": (False,),
    "renormalize_logits": (False,),
    "use_cache": (True,),
    "cache_implementation": ("dynamic",),
    "cache_config": (),
    "max_cache_len": (),
    "prefill_chunk_size": (),
    "low_memory": (False,),
    "compile_config": (),
    "continuous_batching_config": (),
    "output_attentions": (False,),
    "output_hidden_states": (False,),
    "output_scores": (False,),
    "output_logits": (False,),
    "return_dict_in_generate": (False,),
    "decoder_start_token_id": (),
    "is_assistant": (False,),
    "num_assistant_tokens": (),
    "num_assistant_tokens_schedule": (),
    "assistant_confidence_threshold": (),
    "max_matching_ngram_size": (),
    "assistant_early_exit": (),
    "assistant_lookbehind": (),
    "target_lookbehind": (),
    "assistant_ensemble_weight": (),
    "speculation_type": (),
}
# In the order of transformers' generate: (setting, value that leaves it off, what builds it).
# Factories get the value, the end ids, the width of the prompt, and the device.
_Factory = Callable[[Any, list[int], int, Any], processors.LogitsProcessor]
_PROCESSORS: tuple[tuple[str, object, _Factory], ...] = (
    ("sequence_bias", None, lambda v, *_: processors.SequenceBiasLogitsProcessor(v)),
    ("repetition_penalty", 1.0, lambda v, *_: processors.RepetitionPenaltyLogitsProcessor(v)),
    ("no_repeat_ngram_size", 0, lambda v, *_: processors.NoRepeatNGramLogitsProcessor(v)),
    ("bad_words_ids", None, lambda v, eos, *_: processors.NoBadWordsLogitsProcessor(v, eos)),
    (
        "min_new_tokens",
        0,
        lambda v, eos, width, device: processors.MinNewTokensLengthLogitsProcessor(
            width, v, eos, device=device
        ),
    ),
    ("remove_invalid_values", False, lambda *_: processors.InfNanRemoveLogitsProcessor()),
    (
        "suppress_tokens",
        None,
        lambda v, _eos, _width, device: processors.SuppressTokensLogitsProcessor(v, device=device),
    ),
    (
        "begin_suppress_tokens",
        None,
        lambda v, _eos, width, device: processors.SuppressTokensAtBeginLogitsProcessor(
            v, width, device=device
        ),
    ),
)
_SAMPLING_PROCESSORS: tuple[tuple[str, object, _Factory], ...] = (
    ("temperature", 1.0, lambda v, *_: processors.TemperatureLogitsWarper(v)),
    ("top_h", None, lambda v, *_: processors.TopHLogitsWarper(top_h=v)),
    ("top_k", 0, lambda v, *_: processors.TopKLogitsWarper(v)),
    ("top_p", 1.0, lambda v, *_: processors.TopPLogitsWarper(v)),
    ("min_p", 0.0, lambda v, *_: processors.MinPLogitsWarper(v)),
    ("typical_p", 1.0, lambda v, *_: processors.TypicalLogitsWarper(v)),
    ("epsilon_cutoff", 0.0, lambda v, *_: processors.EpsilonLogitsWarper(v)),
    (
        "eta_cutoff",
        0.0,
        lambda v, _eos, _width, device: processors.EtaLogitsWarper(v, device=device),
    ),
)


def check_supported(settings: Mapping[str, object]) -> None:
    """Refuse what decoding one answer token by token on a growing cache would leave undone.

    Raises ConfigurationError naming the first such setting; None is off.
    """
    for name, off in _UNSUPPORTED.items():
        value = settings.get(name)
        if value is not None and value not in off:
            raise ConfigurationError(
                f"generation setting {name}={value!r} is not supported: answers are decoded token "
                "by token, greedily or by sampling; leave it out"
            )


def numbered(prompts: Sequence[EncodedPrompt]) -> list[int]:
    """For each prompt, how often it stood before in the batch."""
    seen: Counter[EncodedPrompt] = Counter()
    numbers = []
    for prompt in prompts:
        numbers.append(seen[prompt])
        seen[prompt] += 1
    return numbers


class TokenChooser:
    """Greedy choice or sampling for one batch, as its GenerationConfig asks.

    A setting left None is off. A row draws from a generator of its own, seeded by `seed`, its
    prompt and its number among equal prompts (`occurrences`, by default counted in the batch), so
    it samples the same alone and in any batch. Raises ConfigurationError for settings that this
    loop cannot honour.
    """

    def __init__(
        self,
        language_model: LanguageModel,
        prompts: Sequence[EncodedPrompt],
        *,
        generation: GenerationConfig,
        eos_ids: frozenset[int],
        max_new_tokens: int,
        seed: int | None,
        occurrences: Sequence[int] | None = None,
    ) -> None:
        check_supported({name: getattr(generation, name, None) for name in _UNSUPPORTED})
        device = language_model.device
        width = max(prompt.length for prompt in prompts)
        settings = _PROCESSORS + (_SAMPLING_PROCESSORS if generation.do_sample else ())
        self._processors = processors.LogitsProcessorList(
            _build(name, getattr(generation, name), factory, (sorted(eos_ids), width, device))
            for name, off, factory in settings
            if getattr(generation, name, None) not in (None, off)
        )
        self._history: Tensor | None = None
        if self._processors:
            self._history = _history(prompts, width, language_model.vocab_size).to(device)
        self._uniforms: Tensor | None = None
        if generation.do_sample:
            self._uniforms = _uniforms(
                prompts, max_new_tokens, seed, occurrences or numbered(prompts)
            ).to(**_draw_kind(device))
        self._step = 0

    @property
    def is_greedy(self) -> bool:
        """Whether every chosen token is the largest of its raw logits."""
        return self._history is None and self._uniforms is None

    def choose(self, logits: Float[Tensor, "batch vocab"]) -> Int[Tensor, " batch"]:
        """The next token of every row; `logits` are raw and stay as they are."""
        if self._history is not None:
            history = cast("torch.LongTensor", self._history)
            logits = self._processors(history, cast("torch.FloatTensor", logits.float()))
        tokens = logits.argmax(dim=-1) if self._uniforms is None else self._draw(logits)
        if self._history is not None:
            self._history = torch.cat([self._history, tokens[:, None]], dim=1)
        self._step += 1
        return tokens

    def _draw(self, logits: Float[Tensor, "batch vocab"]) -> Int[Tensor, " batch"]:
        """Inverse of the cumulative distribution: one uniform number per row and token."""
        assert self._uniforms is not None
        probabilities = torch.softmax(logits.float(), dim=-1)
        cumulative = probabilities.to(self._uniforms.dtype).cumsum(dim=-1)
        points = self._uniforms[:, self._step, None] * cumulative[:, -1:]
        drawn = torch.searchsorted(cumulative, points, right=True)[:, 0]
        return drawn.clamp_max(logits.shape[-1] - 1)


def _build(
    name: str, value: object, factory: _Factory, context: tuple[list[int], int, torch.device]
) -> processors.LogitsProcessor:
    eos_ids, width, device = context
    try:
        return factory(value, eos_ids, width, str(device))
    except (ValueError, TypeError) as error:
        raise ConfigurationError(f"generation setting {name}={value!r}: {error}") from error


def _history(
    prompts: Sequence[EncodedPrompt], width: int, vocab_size: int
) -> Int[Tensor, "batch time"]:
    """Ids so far. Padding is one past the vocabulary, which the processors leave out of account."""
    rows = [[*prompt.prompt_ids, *prompt.header_ids] for prompt in prompts]
    return torch.tensor([[vocab_size] * (width - len(row)) + row for row in rows])


def _uniforms(
    prompts: Sequence[EncodedPrompt], steps: int, seed: int | None, occurrences: Sequence[int]
) -> Float64[Tensor, "batch step"]:
    seed = secrets.randbits(63) if seed is None else seed
    rows = []
    for prompt, occurrence in zip(prompts, occurrences, strict=True):
        ids = (*prompt.prompt_ids, *prompt.header_ids)
        generator = torch.Generator().manual_seed(_row_seed(seed, ids, occurrence))
        rows.append(torch.rand(steps, generator=generator, dtype=torch.float64))
    return torch.stack(rows)


def _row_seed(seed: int, ids: Sequence[int], occurrence: int) -> int:
    content = struct.pack(f"<{len(ids)}q", *ids)
    digest = hashlib.sha256(f"{seed} {occurrence} ".encode() + content).digest()
    return int.from_bytes(digest[:7], "little")


def _draw_kind(device: torch.device) -> dict[str, Any]:
    return {"device": device, "dtype": torch.float32 if device.type == "mps" else torch.float64}
