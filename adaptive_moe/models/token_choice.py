"""Chooses the next token of every row: transformers' processors, then the largest or a draw."""

import hashlib
import math
import secrets
import struct
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, cast

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor
from transformers import GenerationConfig
from transformers.generation import logits_process as processors

from adaptive_moe.errors import ConfigurationError
from adaptive_moe.models.language_model import EncodedPrompt, LanguageModel

_BEAMS = "it belongs to beam search, and answers are decoded greedily or by sampling"
_LOOP = "it needs a decoding loop of its own, and answers are decoded greedily or by sampling"
_ASSISTED = "it belongs to assisted decoding, and every token here is the answering model's own"
_ENCODER = "it acts on encoder-decoder models, and the base is a decoder"
_CACHE = "the cache and the passes over it are the runtime's own"
_OUTPUT = "an answer brings its text and statistics, and no other output of the model"
# By setting: why it is refused, and the values beside None that leave it off.
_UNSUPPORTED: Mapping[str, tuple[str, tuple[object, ...]]] = {
    "num_beams": (_BEAMS, (1,)),
    "num_beam_groups": (_BEAMS, (1,)),
    "early_stopping": (_BEAMS, (False,)),
    "length_penalty": (_BEAMS, (1.0,)),
    "diversity_penalty": (_BEAMS, (0.0,)),
    "constraints": (_BEAMS, ()),
    "force_words_ids": (_BEAMS, ()),
    "penalty_alpha": (_LOOP, (0.0,)),
    "dola_layers": (_LOOP, ()),
    "low_memory": (_LOOP, (False,)),
    "prompt_lookup_num_tokens": (_ASSISTED, (0,)),
    "use_mtp": (_ASSISTED, (False,)),
    "is_assistant": (_ASSISTED, (False,)),
    "num_assistant_tokens": (_ASSISTED, ()),
    "num_assistant_tokens_schedule": (_ASSISTED, ()),
    "assistant_confidence_threshold": (_ASSISTED, ()),
    "max_matching_ngram_size": (_ASSISTED, ()),
    "assistant_early_exit": (_ASSISTED, ()),
    "assistant_lookbehind": (_ASSISTED, ()),
    "target_lookbehind": (_ASSISTED, ()),
    "assistant_ensemble_weight": (_ASSISTED, ()),
    "speculation_type": (_ASSISTED, ()),
    "guidance_scale": ("it needs a second pass for every token, without the prompt", (1.0,)),
    "watermarking_config": ("answers carry no watermark", ()),
    "bos_token_id": ("prompts begin as the chat template says", ()),
    "disable_compile": ("base.compile says what is compiled", (False,)),
    "forced_eos_token_id": ("an answer that reaches its limit is cut there as it is", ()),
    "num_return_sequences": ("every row of a batch has one answer", (1,)),
    "token_healing": ("it rewrites the end of the prompt, which is the chat format's", (False,)),
    "encoder_repetition_penalty": (_ENCODER, (1.0,)),
    "encoder_no_repeat_ngram_size": (_ENCODER, (0,)),
    "forced_bos_token_id": (_ENCODER, ()),
    "decoder_start_token_id": (_ENCODER, ()),
    "use_cache": (_CACHE, (True,)),
    "cache_implementation": (_CACHE, ("dynamic",)),
    "cache_config": (_CACHE, ()),
    "max_cache_len": (_CACHE, ()),
    "prefill_chunk_size": (_CACHE, ()),
    "compile_config": (_CACHE, ()),
    "continuous_batching_config": (_CACHE, ()),
    "output_attentions": (_OUTPUT, (False,)),
    "output_hidden_states": (_OUTPUT, (False,)),
    "output_scores": (_OUTPUT, (False,)),
    "output_logits": (_OUTPUT, (False,)),
    "return_dict_in_generate": (_OUTPUT, (False,)),
}


class _MinLength(processors.LogitsProcessor):
    """Bars the end ids from rows that are too short; padding does not count."""

    def __init__(self, min_length: int, eos_ids: Tensor) -> None:
        self._min_length = min_length
        self._eos_ids = eos_ids

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        is_id = input_ids < scores.shape[-1]
        is_short = is_id.sum(dim=-1, keepdim=True) < self._min_length
        return torch.where(is_short, scores.index_fill(1, self._eos_ids, -math.inf), scores)


# In the order of transformers' generate: (setting, value that leaves it off, what builds it).
# Factories get the value, the end ids, the width of the prompt, and the device.
_Factory = Callable[[Any, list[int], int, Any], processors.LogitsProcessor]
_PROCESSORS: tuple[tuple[str, object, _Factory], ...] = (
    ("sequence_bias", None, lambda v, *_: processors.SequenceBiasLogitsProcessor(v)),
    ("repetition_penalty", 1.0, lambda v, *_: processors.RepetitionPenaltyLogitsProcessor(v)),
    ("no_repeat_ngram_size", 0, lambda v, *_: processors.NoRepeatNGramLogitsProcessor(v)),
    ("bad_words_ids", None, lambda v, eos, *_: processors.NoBadWordsLogitsProcessor(v, eos)),
    ("min_length", 0, lambda v, eos, _, device: _MinLength(v, _tensor(eos, device))),
    (
        "min_new_tokens",
        0,
        lambda v, eos, width, device: processors.MinNewTokensLengthLogitsProcessor(
            width, v, eos, device=device
        ),
    ),
    ("remove_invalid_values", False, lambda *_: processors.InfNanRemoveLogitsProcessor()),
    (
        "exponential_decay_length_penalty",
        None,
        lambda v, eos, width, device: processors.ExponentialDecayLengthPenalty(
            v, _tensor(eos, device), width
        ),
    ),
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
_LAST_PROCESSORS: tuple[tuple[str, object, _Factory], ...] = (
    ("renormalize_logits", False, lambda *_: processors.LogitNormalization()),
)


def check_supported(settings: Mapping[str, object]) -> None:
    """Refuse what decoding one answer token by token on a growing cache would leave undone.

    Raises ConfigurationError naming the first such setting and why; None is off.
    """
    for name, (reason, off) in _UNSUPPORTED.items():
        value = settings.get(name)
        if value is not None and value not in off:
            raise ConfigurationError(
                f"generation setting {name}={value!r} is not supported: {reason}; leave it out"
            )


def check_vocabulary(generation: GenerationConfig, vocab_size: int) -> None:
    """Refuse token ids that the model does not know; an end id of -1 is one that never comes.

    Raises ConfigurationError naming the setting, the id, and the range.
    """
    biases = generation.sequence_bias or ()
    sequences = biases if isinstance(biases, Mapping) else [ids for ids, _ in biases]
    stated = generation.eos_token_id
    given: dict[str, Iterable[int]] = {
        "eos_token_id": [stated] if isinstance(stated, int) else stated or (),
        "suppress_tokens": generation.suppress_tokens or (),
        "begin_suppress_tokens": generation.begin_suppress_tokens or (),
        "bad_words_ids": chain.from_iterable(generation.bad_words_ids or ()),
        "sequence_bias": chain.from_iterable(sequences),
    }
    for name, ids in given.items():
        least = -1 if name == "eos_token_id" else 0
        for each in ids:
            if not least <= each < vocab_size:
                raise ConfigurationError(
                    f"generation setting {name}: token {each} is not in the vocabulary; "
                    f"give ids from {least} to {vocab_size - 1}"
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
        check_vocabulary(generation, language_model.vocab_size)
        device = language_model.device
        width = max(prompt.length for prompt in prompts)
        known_ends = sorted(each for each in eos_ids if 0 <= each < language_model.vocab_size)
        self._processors = processors.LogitsProcessorList(
            _build(name, value, factory, (known_ends, width, device))
            for name, value, factory in _chosen(generation)
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


def _chosen(generation: GenerationConfig) -> Iterator[tuple[str, object, _Factory]]:
    """The processors that are on; as in transformers, min_new_tokens counts before min_length."""
    sampling = _SAMPLING_PROCESSORS if generation.do_sample else ()
    for name, off, factory in (*_PROCESSORS, *sampling, *_LAST_PROCESSORS):
        value = getattr(generation, name, None)
        is_replaced = name == "min_length" and generation.min_new_tokens is not None
        if value not in (None, off) and not is_replaced:
            yield name, value, factory


def _tensor(ids: Sequence[int], device: str) -> Int[Tensor, " id"]:
    return torch.tensor(ids, dtype=torch.long, device=device)


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
