"""Decodes the prompts of a batch, together where that can be, by whoever is to answer each."""

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import final

from adaptive_moe.engine.choosing import Chooser
from adaptive_moe.engine.events import Event, Route, Routed, RoutedExpert, Token
from adaptive_moe.engine.openings import Openings
from adaptive_moe.engine.reading import PromptReader
from adaptive_moe.engine.request import Request
from adaptive_moe.engine.text_stream import TextStream
from adaptive_moe.errors import BankFullError
from adaptive_moe.experts.cache import ExpertCache
from adaptive_moe.experts.pool import Mixture
from adaptive_moe.models.compiled import CompiledSteps
from adaptive_moe.models.decoding import Completion, DecodingStep, Prefill, decode, take_rows
from adaptive_moe.models.language_model import EncodedPrompt, LanguageModel
from adaptive_moe.router.router import Evidence, RouteDecision


@dataclass(slots=True, eq=False)
class Row:
    """One prompt on its way to an answer; `completion` and `seconds` are filled in as it goes.

    `index` is where the answer belongs, `occurrence` how often the same prompt stands before it.
    """

    index: int
    prompt: EncodedPrompt
    occurrence: int
    evidence: Evidence
    decision: RouteDecision
    mixture: Mixture
    forwards: int
    completion: Completion | None = None
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def finished(self) -> Completion:
        """The completion of a row that was decoded."""
        assert self.completion is not None
        return self.completion


@final
class RowDecoder:
    """Groups rows by what experts do to them, and halves groups that the device has no room for."""

    def __init__(
        self,
        language_model: LanguageModel,
        cache: ExpertCache,
        openings: Openings,
        chooser: Chooser,
        reader: PromptReader,
        *,
        compiled: CompiledSteps | None,
    ) -> None:
        self._language_model = language_model
        self._cache = cache
        self._openings = openings
        self._chooser = chooser
        self._reader = reader
        self._compiled = compiled

    def decode(
        self, filled: Prefill, rows: Sequence[Row], request: Request
    ) -> Iterator[tuple[int, Event]]:
        """The tokens of every row of a prefill as they come, tagged with the row's index.

        Afterwards every row has its completion. Raises BankFullError.
        """
        for group in self._groups(rows):
            places = [place for place, row in enumerate(rows) if row in group]
            yield from self._decode_group(take_rows(filled, places), group, request)

    def _groups(self, rows: Sequence[Row]) -> Iterator[list[Row]]:
        """Rows that can be decoded together: by where experts begin to act and what is mixed."""
        kinds = {
            row.index: (self._chooser.activation(row.mixture), self._chooser.mixed(row.mixture))
            for row in rows
        }
        for kind in sorted(set(kinds.values())):
            yield [row for row in rows if kinds[row.index] == kind]

    def _decode_group(
        self, filled: Prefill, group: list[Row], request: Request
    ) -> Iterator[tuple[int, Event]]:
        """One batch's answers, half after half where the device has no room for all its experts."""
        needed = {expert_id for row in group for expert_id, _ in row.mixture}
        with ExitStack() as stack:
            try:
                stack.enter_context(self._cache.hold(needed))
            except BankFullError:
                if len(group) == 1:
                    raise
            else:
                yield from self._decode(filled, group, request)
                return
        middle = len(group) // 2
        for places in (range(middle), range(middle, len(group))):
            half = [group[place] for place in places]
            yield from self._decode_group(take_rows(filled, list(places)), half, request)

    def _decode(
        self, filled: Prefill, group: list[Row], request: Request
    ) -> Iterator[tuple[int, Event]]:
        started = time.perf_counter()
        streams = [TextStream(self._language_model) for _ in group]
        mixtures = [row.mixture for row in group]
        static = self._compiled is not None
        with self._openings.opened(filled, mixtures, static=static) as opening:
            steps = decode(
                self._language_model,
                opening.cache,
                opening.first_logits,
                attention_mask=opening.attention_mask,
                prompts=filled.prompts,
                generation=request.generation,
                seed=request.seed,
                occurrences=[row.occurrence for row in group],
                blend=opening.blend,
                # Gates that are found anew in every answer are made of new code every time.
                compiled=None if opening.by_token else self._compiled,
                stop=request.stop,
            )
            for step in steps:
                for row, stream, token_id in zip(group, streams, step.token_ids, strict=True):
                    text = stream.push(token_id) if token_id is not None else ""
                    if text:
                        yield row.index, Token(text)
                if step.completions is not None:
                    self._complete(group, step, time.perf_counter() - started)
        for row, stream in zip(group, streams, strict=True):
            rest = stream.finish(row.finished.text)
            if rest:
                yield row.index, Token(rest)

    def _complete(self, group: list[Row], last: DecodingStep, seconds: float) -> None:
        """Hand every row its answer, and remember where the base's own conversation stands."""
        assert last.completions is not None
        reads_header = any(row.mixture for row in group)
        for row, completion in zip(group, last.completions, strict=True):
            row.completion = completion
            row.seconds["decode"] = seconds
            row.forwards += reads_header + max(0, len(completion.token_ids) - 1)
        if len(group) == 1 and not group[0].mixture and last.cache is not None:
            (completion,), prompt = last.completions, group[0].prompt
            said = (*prompt.prompt_ids, *prompt.header_ids, *completion.token_ids)
            self._reader.remember(said, last.cache)


def routed(decision: RouteDecision) -> Routed:
    """The event that tells a route."""
    return Routed(route_of(decision), decision)


def route_of(decision: RouteDecision) -> Route:
    """The part of a decision that an answer shows."""
    return Route(
        kind=decision.kind,
        experts=tuple(RoutedExpert(*each) for each in decision.experts),
        domain=decision.domain,
        threshold=decision.threshold,
        forced=decision.forced,
        reasons=decision.reasons,
    )
