"""From prompts to answers: read once, choose who answers, decode on that cache, judge, explain."""

import itertools
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import final

from adaptive_moe.config.settings import RouterSettings
from adaptive_moe.engine.choosing import Chooser
from adaptive_moe.engine.events import (
    Answer,
    AnswerAttribution,
    Answered,
    Event,
    Scored,
    Token,
    Usage,
)
from adaptive_moe.engine.explaining import Explainer
from adaptive_moe.engine.openings import Openings
from adaptive_moe.engine.reading import PromptReader, Reading
from adaptive_moe.engine.redoing import Redoing
from adaptive_moe.engine.request import Request
from adaptive_moe.engine.rows import Row, RowDecoder, route_of, routed
from adaptive_moe.engine.second_look import AGREEMENT, SecondLook
from adaptive_moe.engine.shelf import ExpertShelf
from adaptive_moe.engine.text_stream import pieces
from adaptive_moe.experts.bank import LoraBank
from adaptive_moe.experts.cache import ExpertCache
from adaptive_moe.models.compiled import CompiledSteps
from adaptive_moe.models.decoding import Prefill, take_rows
from adaptive_moe.models.given_answers import trace_answer
from adaptive_moe.models.language_model import EncodedPrompt, LanguageModel, Prompt
from adaptive_moe.models.memory import retry_on_out_of_memory, within_memory
from adaptive_moe.models.token_choice import check_vocabulary, numbered
from adaptive_moe.models.token_trace import TokenTrace
from adaptive_moe.router.router import Confidence, Evidence, RouteDecision, Router

_TaggedEvent = tuple[int, Event | Answered]


@dataclass(frozen=True, slots=True)
class _Position:
    """A prompt, where its answer belongs, and how often the same one stands before it."""

    index: int
    prompt: EncodedPrompt
    occurrence: int


@final
class Answerer:
    """The pipeline over one base, one bank and one shelf of experts."""

    def __init__(
        self,
        language_model: LanguageModel,
        bank: LoraBank,
        cache: ExpertCache,
        shelf: ExpertShelf,
        router: Router,
        *,
        settings: RouterSettings,
        memory_bytes: int,
        compiled: CompiledSteps | None = None,
    ) -> None:
        self.language_model = language_model
        self.bank = bank
        self.cache = cache
        self.shelf = shelf
        self._compiled = compiled
        self._chooser = Chooser(language_model, cache, shelf, router, mixing=settings.mixing)
        self._reader = PromptReader(language_model, bank, memory_bytes=memory_bytes)
        self._openings = Openings(language_model, bank, self._chooser)
        self._decoder = RowDecoder(
            language_model, cache, self._openings, self._chooser, self._reader, compiled=compiled
        )
        self._redoes = settings.redo
        self._redoing = Redoing(self._chooser, self._decoder, self._confidence)
        self._second_look = SecondLook(
            language_model, cache, self._openings, samples=settings.consistency_samples
        )
        self._explainer = Explainer(language_model, bank, cache, shelf, self._chooser)

    @property
    def router(self) -> Router:
        """Who decides."""
        return self._chooser.router

    @property
    def conversation_bytes(self) -> int:
        """Bytes of key-values that are kept for the next turns of conversations."""
        return self._reader.held_bytes

    def close(self) -> None:
        """Stop what runs beside answers, and forget the conversations."""
        self._chooser.close()
        self._reader.forget()

    def use(self, router: Router) -> None:
        """Let another router decide from now on."""
        self._chooser.router = router
        self.shelf.whitening = router.whitening

    def answer(
        self, prompts: Sequence[Prompt], request: Request
    ) -> Iterator[tuple[int, Event | Answered]]:
        """The events of every prompt, tagged with its position; the last one is `Answered`.

        A single prompt's events come as they happen, from the first token on; those of a batch
        when it is done. When memory runs out, conversations are forgotten, idle experts evicted and
        then the batch is halved, unless something was told already. Raises PromptError and
        ConfigurationError (a token id beyond the vocabulary) before anything is computed,
        UnknownExpertError for a forced name, and InsufficientMemoryError.
        """
        check_vocabulary(request.generation, self.language_model.vocab_size)
        budget = request.generation.max_new_tokens or 0
        encoded = [self.language_model.encode(each, max_new_tokens=budget) for each in prompts]
        if not encoded:
            return
        work = self._beginning if len(encoded) == 1 else self._done
        told = retry_on_out_of_memory(
            lambda part: work(part, request),
            _positions(encoded),
            make_room=self._make_room,
        )
        for events in told:
            yield from events

    def finished(self, prompts: Sequence[Prompt], request: Request) -> list[Answered]:
        """The answers alone, in the order of their prompts; see `answer`."""
        told = self.answer(prompts, request)
        found = {row: event for row, event in told if isinstance(event, Answered)}
        return [found[row] for row in range(len(prompts))]

    def score(self, prompt: Prompt, text: str, request: Request) -> Confidence:
        """How far a given answer can be trusted, read by whoever would answer the prompt.

        Raises what `answer` raises, and DataError for a text that cannot be an answer.
        """
        answer_ids = self.language_model.encode_answer(text) if text else ()
        encoded = self.language_model.encode(prompt, max_new_tokens=len(answer_ids))

        def work(prompts: Sequence[EncodedPrompt]) -> Sequence[Confidence]:
            return [self._score(each, answer_ids, request) for each in prompts]

        (found,) = retry_on_out_of_memory(work, [encoded], make_room=self._make_room)
        return found

    def _score(
        self, prompt: EncodedPrompt, answer_ids: Sequence[int], request: Request
    ) -> Confidence:
        reading = self._reader.read([prompt])
        (evidence,) = reading.evidence
        decision, mixture = self._chooser.choose(evidence, request)
        with (
            self.cache.hold({expert_id for expert_id, _ in mixture}),
            self._openings.opened(reading.filled, [mixture]) as opening,
        ):
            trace = trace_answer(
                self.language_model,
                opening.cache,
                opening.first_logits,
                answer_ids,
                blend=opening.blend,
            )
        return self._judge(evidence, trace, decision)

    def _judge(self, evidence: Evidence, trace: TokenTrace, decision: RouteDecision) -> Confidence:
        """A record is of an expert's own prompts; what was expected knows if this is one."""
        names = [name for name, _, _ in decision.experts]
        records = decision.expected or self.shelf.records(names)
        return self.router.judge(evidence, trace, records=records, decision=decision)

    def _make_room(self) -> bool:
        """Give back what can be had again: conversations, compiled steps' caches, idle experts."""
        if self._reader.forget():
            return True
        if self._compiled is not None and self._compiled.forget():
            return True
        return self.cache.evict_idle()

    def _beginning(
        self, part: Sequence[_Position], request: Request
    ) -> Sequence[Iterator[_TaggedEvent]]:
        """One prompt's events, computed up to its first token."""
        events = self._events(part, request)
        first: list[_TaggedEvent] = []
        for tagged in events:
            first.append(tagged)
            if isinstance(tagged[1], Token):
                break
        return [itertools.chain(first, within_memory(events))]

    def _done(
        self, part: Sequence[_Position], request: Request
    ) -> Sequence[Sequence[_TaggedEvent]]:
        """The events of all prompts, each one's together."""
        rows: dict[int, list[_TaggedEvent]] = {each.index: [] for each in part}
        for tagged in self._events(part, request):
            rows[tagged[0]].append(tagged)
        return list(rows.values())

    def _events(self, part: Sequence[_Position], request: Request) -> Iterator[_TaggedEvent]:
        started = time.perf_counter()
        reading = self._reader.read([each.prompt for each in part])
        read = time.perf_counter()
        rows = [self._row(each, reading, place, request) for place, each in enumerate(part)]
        decided = time.perf_counter()
        for row in rows:
            row.seconds = {"prefill": read - started, "route": decided - read}
            yield row.index, Scored(row.evidence.scores, row.decision.p_prefill)
            yield row.index, routed(row.decision)
        # What may be exchanged for another answer is not told before that is known.
        waiting = {row.index: list[Event]() for row in rows if self._may_be_redone(row)}
        for index, event in self._decoder.decode(reading.filled, rows, request):
            if index in waiting:
                waiting[index].append(event)
            else:
                yield index, event
        for place, row in enumerate(rows):
            if row.index in waiting:
                alone = take_rows(reading.filled, [place])
                said = self._redoing.settle(alone, row, waiting[row.index], request)
                yield from ((row.index, event) for event in said)
            answer = self._finish(reading.filled, place, row, request)
            states, decision = row.evidence.states, row.decision
            yield row.index, Answered(answer, states, decision.runner_up, decision.topic)
            self._chooser.prefetch(decision)

    def _row(self, position: _Position, reading: Reading, place: int, request: Request) -> Row:
        evidence = reading.evidence[place]
        decision, mixture = self._chooser.choose(evidence, request)
        return Row(
            position.index,
            position.prompt,
            position.occurrence,
            evidence,
            decision,
            mixture,
            reading.forwards[place],
        )

    def _may_be_redone(self, row: Row) -> bool:
        return self._redoes and row.decision.instead is not None

    def _confidence(self, row: Row) -> Confidence:
        trace = row.finished.trace if row.finished.visible_ids else TokenTrace.empty()
        return self._judge(row.evidence, trace, row.decision)

    def _finish(self, filled: Prefill, place: int, row: Row, request: Request) -> Answer:
        completion = row.finished
        visible = completion.visible_ids
        confidence = self._confidence(row)
        is_low = row.decision.low_confidence or self.router.is_low(confidence)
        if visible and self.router.is_grey(confidence):
            started = time.perf_counter()
            alone = take_rows(filled, [place])
            found = self._second_look.disagreement(alone, row.mixture, completion.text)
            confidence = replace(confidence, scores={**confidence.scores, "consistency": found})
            is_low = found > AGREEMENT
            row.seconds["second_look"] = time.perf_counter() - started
        attribution = None
        if request.attribution and row.mixture and visible:
            attribution = self._explain(take_rows(filled, [place]), row)
        return Answer(
            text=completion.text,
            tokens=pieces(self.language_model, visible),
            route=route_of(row.decision),
            low_confidence=is_low,
            confidence=confidence,
            attribution=attribution,
            gap=None,
            usage=Usage(
                prompt_tokens=row.prompt.length,
                known_tokens=filled.known_tokens,
                completion_tokens=len(completion.token_ids),
                forwards=row.forwards,
                seconds=row.seconds,
            ),
            finish_reason=completion.finish_reason,
        )

    def _explain(self, alone: Prefill, row: Row) -> AnswerAttribution:
        started = time.perf_counter()
        attribution = self._explainer.explain(
            alone,
            row.finished.visible_ids,
            row.finished.text,
            evidence=row.evidence,
            decision=row.decision,
            mixture=row.mixture,
        )
        row.seconds["attribution"] = time.perf_counter() - started
        return attribution


def _positions(encoded: Sequence[EncodedPrompt]) -> tuple[_Position, ...]:
    numbers = numbered(encoded)
    return tuple(
        _Position(index, prompt, occurrence)
        for index, (prompt, occurrence) in enumerate(zip(encoded, numbers, strict=True))
    )
