"""Produces answers token by token on a prefilled cache, with every token's raw statistics.

Prefilling and token statistics have files of their own; their public names are ours too.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Float32, Int
from torch import Tensor
from transformers import GenerationConfig
from transformers.cache_utils import Cache

from adaptive_moe.errors import ConfigurationError, PromptTooLongError
from adaptive_moe.models.blending import Blend
from adaptive_moe.models.compiled import CompiledRun, CompiledSteps
from adaptive_moe.models.growing_cache import fork, growing, new_cache
from adaptive_moe.models.language_model import EncodedPrompt, LanguageModel
from adaptive_moe.models.prefilling import (
    Prefill,
    expand,
    extend_mask,
    forward,
    left_pad,
    prefill,
    prefill_whole,
    run_header,
    take_rows,
)
from adaptive_moe.models.token_choice import TokenChooser
from adaptive_moe.models.token_trace import TokenTrace, TraceRecorder, token_statistics

__all__ = [
    "Completion",
    "DecodingStep",
    "FinishReason",
    "Prefill",
    "TokenTrace",
    "decode",
    "expand",
    "fork",
    "forward",
    "left_pad",
    "new_cache",
    "prefill",
    "prefill_whole",
    "run_header",
    "take_rows",
    "token_statistics",
]

FinishReason = Literal["stop", "length", "interrupted"]

# A stop string is looked for in the text of the last tokens; so many more than it has bytes.
_EXTRA_TAIL_TOKENS = 8


@dataclass(frozen=True, slots=True)
class Completion:
    """One finished answer: all its tokens (the end token included), its text, and its trace.

    `visible_ids` are the tokens without the end token that was asked for.
    `finish_reason` is "stop" at an end token or stop string, "length" at a limit, and
    "interrupted" when the caller stopped it; then it holds what was produced until there.
    `responsibilities` are each reader's part in every token, where several answered together.
    """

    token_ids: tuple[int, ...]
    visible_ids: tuple[int, ...]
    text: str
    trace: TokenTrace
    finish_reason: FinishReason
    responsibilities: Float32[np.ndarray, "time reader"] | None = None


@dataclass(frozen=True, slots=True)
class DecodingStep:
    """One token per row (None for rows that had finished).

    The last step brings the answers, and the cache of everything that was read: all but the last
    token of the longest answer.
    """

    token_ids: tuple[int | None, ...]
    completions: tuple[Completion, ...] | None = None
    cache: Cache | None = None


@dataclass(slots=True)
class _Row:
    """A prompt's length, how many tokens may follow it, and what was produced so far."""

    length: int
    limit: int
    produced: list[int] = field(default_factory=list)
    finish_reason: FinishReason | None = None


def decode(  # noqa: PLR0913 - what an answer depends on, and nothing of it belongs together
    language_model: LanguageModel,
    cache: Cache,
    first_logits: Float[Tensor, "batch vocab"],
    *,
    attention_mask: Int[Tensor, "batch time"],
    prompts: Sequence[EncodedPrompt],
    generation: GenerationConfig,
    seed: int | None = None,
    occurrences: Sequence[int] | None = None,
    blend: Blend | None = None,
    compiled: CompiledSteps | None = None,
    stop: Callable[[], bool] | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[DecodingStep]:
    """Decode all rows to their ends, one step at a time; the last step holds the completions.

    `cache` ends after the header and is left as it is: decoding goes on in a fork of it.
    `attention_mask` may end before the header. Greedy unless `generation.do_sample`; a setting of
    None is off. `max_new_tokens` counts before `max_length`, and the context always. `stop` is
    asked before every forward pass. Statistics are of the raw logits, whatever processors do.
    Raises ConfigurationError for settings this loop cannot honour and PromptTooLongError when no
    token fits, both before the first step. `occurrences` number the rows of equal prompts, which
    draw differently; without them they are numbered in this batch. With a `blend` the cache, the
    first logits and the mask are those of the readers, and the statistics the mixture's.
    `compiled` makes the passes; then the last step brings no cache. `max_time` is in seconds of
    `clock` from the first step on: all rows end with the token at which they have passed.
    """
    lengths = [prompt.length for prompt in prompts]
    limits = _limits(language_model, generation, lengths, width=cache.get_seq_length())
    chooser = TokenChooser(
        language_model,
        prompts,
        generation=generation,
        eos_ids=_eos_ids(language_model, generation),
        max_new_tokens=max(limits),
        seed=seed,
        occurrences=occurrences,
    )
    run = _Run(
        language_model,
        cache,
        first_logits,
        attention_mask=attention_mask,
        rows=[_Row(*each) for each in zip(lengths, limits, strict=True)],
        generation=generation,
        chooser=chooser,
        blend=blend,
        compiled=compiled,
    )
    return _steps(run, stop, clock, max_seconds=generation.max_time)


def _steps(
    run: "_Run",
    stop: Callable[[], bool] | None,
    clock: Callable[[], float],
    *,
    max_seconds: float | None,
) -> Iterator[DecodingStep]:
    deadline = math.inf if max_seconds is None else clock() + max_seconds
    while True:
        tokens = run.choose()
        if clock() > deadline:
            run.end("length")
        if run.is_finished:
            yield DecodingStep(tokens, run.completions(), run.cache)
            return
        yield DecodingStep(tokens)
        if stop is not None and stop():
            run.end("interrupted")
            yield DecodingStep((None,) * len(tokens), run.completions(), run.cache)
            return
        run.advance()


class _Run:
    """The state of one batch between two steps."""

    def __init__(
        self,
        language_model: LanguageModel,
        cache: Cache,
        first_logits: Float[Tensor, "batch vocab"],
        *,
        attention_mask: Int[Tensor, "batch time"],
        rows: Sequence[_Row],
        generation: GenerationConfig,
        chooser: TokenChooser,
        blend: Blend | None,
        compiled: CompiledSteps | None,
    ) -> None:
        strings = generation.stop_strings or []
        self._language_model = language_model
        self.cache: Cache | None = growing(cache) if compiled is None else None
        self._blend = blend
        self._logits = first_logits if blend is None else blend.combine(first_logits)
        self._stop_strings = [strings] if isinstance(strings, str) else list(strings)
        self._eos_ids = _eos_ids(language_model, generation)
        self._rows = rows
        self._chooser = chooser
        self._recorder = TraceRecorder(is_greedy=chooser.is_greedy)
        self._width = cache.get_seq_length()
        self._mask: Tensor | None = None
        room = max(row.limit for row in rows)
        if any(row.length != self._width for row in rows):
            self._mask = extend_mask(attention_mask, self._width + room)
        self._compiled: CompiledRun | None = None
        if compiled is not None:
            with torch.inference_mode():
                self._compiled = compiled.begin(cache, self._mask, room=room)
        self._positions = self._of_readers(
            torch.tensor([row.length for row in rows], device=first_logits.device)
        )
        self._tokens = self._positions

    @property
    def is_finished(self) -> bool:
        return all(row.finish_reason for row in self._rows)

    @torch.inference_mode()
    def choose(self) -> tuple[int | None, ...]:
        """Choose, record and note one token per row; None where the row had finished."""
        tokens = self._chooser.choose(self._logits)
        self._recorder.add(self._logits, tokens)
        self._tokens = self._of_readers(tokens)
        if self._blend is not None:
            self._blend.note(tokens)
        noted = zip(self._rows, tokens.tolist(), strict=True)
        return tuple(self._note(row, token) for row, token in noted)

    @torch.inference_mode()
    def advance(self) -> None:
        """One forward pass over the chosen tokens; finished rows run along, unread."""
        self._width += 1
        # A finished row may stand at the end of its context while others go on.
        positions = self._positions.clamp_max(self._language_model.context_length - 1)
        logits = self._pass(positions)
        self._logits = logits if self._blend is None else self._blend.combine(logits)
        self._positions = self._positions + 1

    def _pass(self, positions: Int[Tensor, "reader 1"]) -> Float[Tensor, "reader vocab"]:
        if self._compiled is not None:
            return self._compiled.step(self._tokens, positions)
        assert self.cache is not None
        return forward(
            self._language_model,
            self._tokens,
            cache=self.cache,
            attention_mask=None if self._mask is None else self._mask[:, : self._width],
            positions=positions,
        )

    def end(self, reason: FinishReason) -> None:
        for row in self._rows:
            row.finish_reason = row.finish_reason or reason

    def completions(self) -> tuple[Completion, ...]:
        lengths = [len(row.produced) for row in self._rows]
        with torch.inference_mode():
            traces = self._recorder.traces(lengths)
        parts = (
            [None] * len(lengths) if self._blend is None else self._blend.responsibilities(lengths)
        )
        return tuple(
            Completion(
                token_ids=tuple(row.produced),
                visible_ids=tuple(self._without_end(row.produced)),
                text=self._language_model.decode_answer(row.produced),
                trace=trace,
                finish_reason=row.finish_reason or "interrupted",
                responsibilities=part,
            )
            for row, trace, part in zip(self._rows, traces, parts, strict=True)
        )

    def _without_end(self, produced: Sequence[int]) -> Sequence[int]:
        return produced[:-1] if produced and produced[-1] in self._eos_ids else produced

    def _of_readers(self, values: Int[Tensor, " batch"]) -> Int[Tensor, "reader 1"]:
        """One value a row, for each row of the cache."""
        return (values if self._blend is None else self._blend.spread(values))[:, None]

    def _note(self, row: _Row, token: int) -> int | None:
        if row.finish_reason is not None:
            return None
        row.produced.append(token)
        if token in self._eos_ids or self._has_stop_string(row.produced):
            row.finish_reason = "stop"
        elif len(row.produced) >= row.limit:
            row.finish_reason = "length"
        return token

    def _has_stop_string(self, produced: Sequence[int]) -> bool:
        if not self._stop_strings:
            return False
        longest = max(len(text.encode()) for text in self._stop_strings)
        # Special tokens count: they are what is most often asked for as a stop string.
        tail = self._language_model.tokenizer.decode(
            list(produced[-longest - _EXTRA_TAIL_TOKENS :]), skip_special_tokens=False
        )
        return any(text in tail for text in self._stop_strings)


def _eos_ids(language_model: LanguageModel, generation: GenerationConfig) -> frozenset[int]:
    stated = generation.eos_token_id
    if stated is None:
        return language_model.eos_ids
    return frozenset([stated] if isinstance(stated, int) else stated)


def _limits(
    language_model: LanguageModel,
    generation: GenerationConfig,
    lengths: Sequence[int],
    *,
    width: int,
) -> list[int]:
    """How many tokens every row may produce, by its own length rather than the batch's."""
    context = language_model.context_length
    # A stored mask is indexed by column, padding included.
    room = context - width if language_model.has_fixed_mask else context
    if generation.max_new_tokens is not None:
        wanted = [generation.max_new_tokens] * len(lengths)
    elif generation.max_length is not None:
        wanted = [generation.max_length - length for length in lengths]
    else:
        wanted = [context] * len(lengths)
    if min(wanted) < 1:
        raise ConfigurationError("max_new_tokens or max_length leaves no room for an answer")
    limits = [min(w, context - length, room) for w, length in zip(wanted, lengths, strict=True)]
    if min(limits) < 1:
        raise PromptTooLongError(f"the prompt fills the context of {context} tokens; shorten it")
    return limits
