"""From prompts to answers: prefill once, decide, decode on that cache, judge, attribute."""

import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, final

import numpy as np
from jaxtyping import Float
from transformers import GenerationConfig

from adaptive_moe.engine.events import (
    Answer,
    AnswerAttribution,
    Event,
    Route,
    Routed,
    RoutedExpert,
    Scored,
    Source,
    Token,
    Usage,
)
from adaptive_moe.engine.shelf import Activation, ExpertShelf
from adaptive_moe.engine.text_stream import TextStream, pieces
from adaptive_moe.errors import ConfigurationError, CorruptExpertError
from adaptive_moe.experts.bank import LoraBank
from adaptive_moe.experts.cache import ExpertCache
from adaptive_moe.experts.pool import Mixture
from adaptive_moe.integration.attribution import attribute
from adaptive_moe.integration.mixing import RULES
from adaptive_moe.models.decoding import (
    Completion,
    DecodingStep,
    Prefill,
    decode,
    prefill,
    prefill_whole,
    run_header,
    take_rows,
)
from adaptive_moe.models.language_model import EncodedPrompt, LanguageModel, Prompt
from adaptive_moe.models.memory import retry_on_out_of_memory, within_memory
from adaptive_moe.router.domains import state_vector
from adaptive_moe.router.router import Evidence, ExpertArm, RouteDecision, Router
from adaptive_moe.router.scores import prefill_scores_by_row

Forced = Literal["auto"] | None | Sequence[str]


@dataclass(frozen=True, slots=True)
class Request:
    """How a batch of prompts is to be answered. `experts` None is the base alone."""

    generation: GenerationConfig
    experts: Forced = "auto"
    attribution: bool = True
    seed: int | None = None
    stop: Callable[[], bool] | None = None
    arms: tuple[ExpertArm, ...] | None = None


@dataclass(frozen=True, slots=True)
class Answered:
    """A finished answer, with the state vector of its prompt."""

    answer: Answer
    states: Float[np.ndarray, " state"]


_Position = tuple[int, EncodedPrompt]
_TaggedEvent = tuple[int, Event | Answered]


@dataclass(slots=True)
class _Row:
    """One prompt on its way; `decision` and `completion` are filled in as it goes."""

    index: int
    evidence: Evidence
    decision: RouteDecision
    mixture: Mixture
    completion: Completion | None = None
    seconds: dict[str, float] = field(default_factory=dict)


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
        mixing: str,
    ) -> None:
        self.language_model = language_model
        self.bank = bank
        self.cache = cache
        self.shelf = shelf
        self.router = router
        self.mixing = mixing

    def use(self, router: Router) -> None:
        """Let another router decide from now on."""
        self.router = router
        self.shelf.whitening = router.whitening

    def answer(
        self, prompts: Sequence[Prompt], request: Request
    ) -> Iterator[tuple[int, Event | Answered]]:
        """The events of every prompt, tagged with its position; the last one is `Answered`.

        A single prompt's events come as they happen, from the first token on; those of a batch
        when it is done. When memory runs out, idle experts are evicted and then the batch is
        halved, unless something was told already. Raises PromptError before anything is computed,
        UnknownExpertError for a forced name, and InsufficientMemoryError.
        """
        budget = request.generation.max_new_tokens or 0
        encoded = [self.language_model.encode(each, max_new_tokens=budget) for each in prompts]
        if not encoded:
            return
        work = self._beginning if len(encoded) == 1 else self._done
        told = retry_on_out_of_memory(
            lambda part: work(part, request),
            tuple(enumerate(encoded)),
            make_room=self.cache.evict_idle,
        )
        for events in told:
            yield from events

    def _beginning(
        self, part: Sequence[_Position], request: Request
    ) -> Sequence[Iterator[_TaggedEvent]]:
        """One prompt's events, computed up to its first token."""
        ((position, prompt),) = part
        events = self._events([prompt], request)
        first: list[_TaggedEvent] = []
        for _, event in events:
            first.append((position, event))
            if isinstance(event, Token):
                break
        rest = ((position, event) for _, event in within_memory(events))
        return [itertools.chain(first, rest)]

    def _done(
        self, part: Sequence[_Position], request: Request
    ) -> Sequence[Sequence[_TaggedEvent]]:
        """The events of all prompts, each one's together."""
        rows: list[list[_TaggedEvent]] = [[] for _ in part]
        for row, event in self._events([prompt for _, prompt in part], request):
            rows[row].append((part[row][0], event))
        return rows

    def _events(self, encoded: Sequence[EncodedPrompt], request: Request) -> Iterator[_TaggedEvent]:
        started = time.perf_counter()
        with self.bank.activate([()] * len(encoded)):
            filled = prefill(self.language_model, encoded)
        states = self._states(filled)
        prefilled = time.perf_counter()
        scores = prefill_scores_by_row(filled.first_logits)
        rows = [
            self._decide(index, Evidence(scores[index], states[index], prompt.text), request)
            for index, prompt in enumerate(encoded)
        ]
        decided = time.perf_counter()
        for row in rows:
            row.seconds = {"prefill": prefilled - started, "route": decided - prefilled}
            yield row.index, Scored(row.evidence.scores, row.decision.p_prefill)
            yield row.index, Routed(_route(row.decision), row.decision)
        for group in self._groups(rows):
            yield from self._decode_group(filled, group, request)
        for row in rows:
            yield row.index, Answered(self._finish(filled, row, request), row.evidence.states)

    def _states(self, filled: Prefill) -> list[Float[np.ndarray, " state"]]:
        """Where each prompt lies: by its last turn alone, which is how routers learn prompts.

        Only a prompt with something before its last turn costs a second, short prefill.
        """
        states = [state_vector(filled, row=row) for row in range(len(filled.prompts))]
        later = [row for row, prompt in enumerate(filled.prompts) if prompt.has_context]
        if later:
            turns = [self.language_model.encode(filled.prompts[row].text) for row in later]
            with self.bank.activate([()] * len(turns)):
                alone = prefill(self.language_model, turns)
            for place, row in enumerate(later):
                states[row] = state_vector(alone, row=place)
        return states

    def _decide(self, index: int, evidence: Evidence, request: Request) -> _Row:
        broken: list[str] = []
        while True:
            decision = self._choose(evidence, request, tuple(broken))
            mixture, failed = self._prepare(decision)
            if failed is None:
                reasons = (*decision.reasons, *self._numerics_notes(decision))
                return _Row(index, evidence, replace(decision, reasons=reasons), mixture)
            broken.append(failed)

    def _choose(
        self, evidence: Evidence, request: Request, broken: tuple[str, ...]
    ) -> RouteDecision:
        """Ask the router, or obey the caller; experts found broken on the way are left out."""
        forced = request.experts
        notes = tuple(f"expert {name} is corrupt and was quarantined" for name in broken)
        if forced is None or forced == "auto":
            arms = self.shelf.arms() if request.arms is None else request.arms
            arms = tuple(arm for arm in arms if arm.name not in broken)
            decision = self.router.decide(evidence, arms, forced=forced)
            return replace(decision, reasons=(*notes, *decision.reasons))
        decision = self.router.decide(evidence, (), forced=None)
        experts = self.shelf.require([name for name in forced if name not in broken])
        if not experts:
            return replace(decision, forced=True, reasons=(*notes, *decision.reasons))
        return replace(
            decision,
            kind="experts",
            experts=tuple((each.name, each.version, 1 / len(experts)) for each in experts),
            low_confidence=False,
            forced=True,
            reasons=(*notes, "the caller chose the route"),
        )

    def _prepare(self, decision: RouteDecision) -> tuple[Mixture, str | None]:
        """Bring the chosen experts onto the device; the name of one that turned out corrupt."""
        mixture: list[tuple[str, float]] = []
        for name, _, gate in decision.experts:
            expert = self.shelf.find(name)
            try:
                with self.cache.hold([expert.expert_id]):
                    mixture.append((expert.expert_id, gate))
            except CorruptExpertError as error:
                self.shelf.quarantine(expert.expert_id, str(error))
                return (), name
        return RULES[self.mixing](mixture), None

    def _numerics_notes(self, decision: RouteDecision) -> Iterator[str]:
        """A remark for each chosen expert whose base had another precision in training."""
        here = _precision(self.language_model.numerics.to_dict())
        for name, _, _ in decision.experts:
            then = _precision(self.shelf.find(name).numerics)
            if then and then != here:
                yield f"expert {name} was trained on this base in {then}, which runs in {here} now"

    def _groups(self, rows: Sequence[_Row]) -> Iterator[list[_Row]]:
        """Rows that can be decoded together: whole-prompt experts need a prefill of their own."""
        whole = [row for row in rows if self._activation(row) == "prompt"]
        shared = [row for row in rows if self._activation(row) != "prompt"]
        yield from (group for group in (shared, whole) if group)

    def _activation(self, row: _Row) -> Activation:
        kinds = {self.shelf.activation(expert_id) for expert_id, _ in row.mixture}
        if len(kinds) > 1:
            names = ", ".join(name for name, _, _ in row.decision.experts)
            raise ConfigurationError(
                f"experts {names} cannot be mixed: some act on the whole prompt, some on the "
                "answer only; name experts of one kind"
            )
        return kinds.pop() if kinds else "answer"

    def _decode_group(
        self, filled: Prefill, group: list[_Row], request: Request
    ) -> Iterator[tuple[int, Event]]:
        started = time.perf_counter()
        indices = [row.index for row in group]
        part = filled if len(group) == len(filled.prompts) else take_rows(filled, indices)
        streams = [TextStream(self.language_model) for _ in group]
        needed = {expert_id for row in group for expert_id, _ in row.mixture}
        with self.cache.hold(needed), self.bank.activate([row.mixture for row in group]):
            for step in self._steps(part, group, request):
                for row, stream, token_id in zip(group, streams, step.token_ids, strict=True):
                    text = stream.push(token_id) if token_id is not None else ""
                    if text:
                        yield row.index, Token(text)
                if step.completions is not None:
                    _complete(group, step.completions, time.perf_counter() - started)
        for row, stream in zip(group, streams, strict=True):
            assert row.completion is not None
            rest = stream.finish(row.completion.text)
            if rest:
                yield row.index, Token(rest)

    def _steps(self, part: Prefill, group: list[_Row], request: Request) -> Iterator[DecodingStep]:
        if not any(row.mixture for row in group):
            cache, logits, mask = part.header_cache, part.first_logits, part.attention_mask
        elif self._activation(group[0]) == "prompt":
            cache, mask, logits = prefill_whole(self.language_model, part.prompts)
        else:
            (cache, logits), mask = run_header(self.language_model, part), part.attention_mask
        return decode(
            self.language_model,
            cache,
            logits,
            attention_mask=mask,
            prompts=part.prompts,
            generation=request.generation,
            seed=request.seed,
            stop=request.stop,
        )

    def _finish(self, filled: Prefill, row: _Row, request: Request) -> Answer:
        completion = row.completion
        assert completion is not None
        visible = [each for each in completion.token_ids if each not in self.language_model.eos_ids]
        # A record is of an expert's own prompts; what was expected knows how surely this is one.
        names = [name for name, _, _ in row.decision.experts]
        records = row.decision.expected or self.shelf.records(names)
        confidence = self.router.judge(row.evidence, completion.trace, records=records)
        started = time.perf_counter()
        attribution = None
        if request.attribution and row.mixture and visible:
            attribution = self._attribute(filled, row, visible, completion.text)
            row.seconds["attribution"] = time.perf_counter() - started
        headers = 2 if row.mixture else 1
        turns = 2 if filled.prompts[row.index].has_context else 1
        return Answer(
            text=completion.text,
            tokens=pieces(self.language_model, visible),
            route=_route(row.decision),
            low_confidence=row.decision.low_confidence or self.router.is_low(confidence),
            confidence=confidence,
            attribution=attribution,
            gap=None,
            usage=Usage(
                prompt_tokens=filled.prompts[row.index].length,
                completion_tokens=len(completion.token_ids),
                forwards=turns + headers + max(0, len(completion.token_ids) - 1),
                seconds=row.seconds,
            ),
            finish_reason=completion.finish_reason,
        )

    def _attribute(
        self, filled: Prefill, row: _Row, answer: list[int], text: str
    ) -> AnswerAttribution:
        part = filled if len(filled.prompts) == 1 else take_rows(filled, [row.index])
        with self.cache.hold({expert_id for expert_id, _ in row.mixture}):
            found = attribute(
                self.language_model,
                self.bank,
                part,
                answer,
                row.mixture,
                activation=self._activation(row),
            )
        experts = [self.shelf.find(name) for name, _, _ in row.decision.experts]
        return AnswerAttribution(
            experts=tuple(expert.name for expert in experts),
            shares=found.shares,
            base_log_probability=found.base_log_probability,
            routed_log_probability=found.routed_log_probability,
            exact=found.exact,
            error=found.error,
            sources=tuple(
                Source(
                    expert.name, each.file, each.line, each.question, each.answer, each.similarity
                )
                for expert in experts
                for each in self.shelf.sources(expert, row.evidence.states, answer=text)
            ),
        )


def _precision(numerics: Mapping[str, str | None]) -> str:
    dtype, quantization = numerics.get("dtype"), numerics.get("quantization")
    return f"{dtype} with {quantization}" if quantization else dtype or ""


def _complete(group: list[_Row], completions: Sequence[Completion], seconds: float) -> None:
    for row, completion in zip(group, completions, strict=True):
        row.completion = completion
        row.seconds["decode"] = seconds


def _route(decision: RouteDecision) -> Route:
    return Route(
        kind=decision.kind,
        experts=tuple(RoutedExpert(*each) for each in decision.experts),
        domain=decision.domain,
        threshold=decision.threshold,
        forced=decision.forced,
        reasons=decision.reasons,
    )
