"""Watches answered prompts and declares a knowledge gap when the evidence allows no other view."""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import final

from adaptive_moe.config.settings import GapSettings
from adaptive_moe.errors import GapError
from adaptive_moe.gaps.budget import INTERRUPTED, NextTraining, choose_training
from adaptive_moe.gaps.clusters import unit
from adaptive_moe.gaps.evidence import Cause, Observation, Origin
from adaptive_moe.gaps.explanation import explain
from adaptive_moe.gaps.file import Clock
from adaptive_moe.gaps.grouping import Grouping, Radius
from adaptive_moe.gaps.ledger import Gap, GapLedger, GapRecord
from adaptive_moe.gaps.observations import Seen
from adaptive_moe.gaps.progress import Progress
from adaptive_moe.gaps.states import IN_TRAINING, GapState
from adaptive_moe.gaps.terms import content_words, prompt_hash
from adaptive_moe.measures.sequential import Count

_RANK: Mapping[Origin, int] = {"consistency": 0, "feedback": 1, "grade": 2}
_CHECKS_AT_MOST = 4  # rounds of consistency_members; 32 checks tell two thirds from a half
_LONGEST_NUMBER = 18  # digits; SQLite has room for them


@dataclass(frozen=True, slots=True)
class Noticed:
    """What an observation came to: its gap, if it is evidence of one, and whether that changed.

    `reference` names the observation beyond this ledger; see `GapDetector.find`.
    """

    observation_id: int
    reference: str
    gap: Gap | None
    changed: bool


@final
class GapDetector:
    """The gaps of one base in a ledger that others may share, in other threads and processes.

    Nothing is kept outside the ledger. `base_id` keeps the gaps of different bases apart. `radius`
    tells how wide topics are; where it does not know, the ledger learns from its prompts.
    """

    def __init__(
        self,
        ledger: GapLedger,
        settings: GapSettings,
        *,
        clock: Clock | None = None,
        base_id: str = "",
        radius: Radius = lambda: None,
    ) -> None:
        self._ledger = ledger
        self._settings = settings
        self._clock = clock or ledger.clock
        self._base_id = base_id
        self._grouping = Grouping(
            ledger, base_id=base_id, min_size=settings.suspect_prompts, radius=radius
        )
        self._progress = Progress(ledger, settings, grouping=self._grouping, base_id=base_id)

    def together(self) -> AbstractContextManager[None]:
        """What happens inside is written at once, or not at all."""
        return self._ledger.transaction()

    def observe(self, observation: Observation) -> Noticed:
        """Write an answered prompt down and draw the conclusions.

        Only doubtful prompts are evidence; confident ones speak against a gap in their domain. A
        prompt without a single topic word ("and what about it?") is ambiguous and counts for
        nothing, nor does what is `excluded` already. A vector without a direction is left out; such
        a prompt needs a domain.
        """
        with self._ledger.transaction():
            excluded = observation.excluded
            if not content_words(observation.prompt):
                excluded = "ambiguous"
            if observation.low_confidence and excluded is None:
                return self._note_doubtful(observation)
            return self._note_confident(observation, excluded=excluded)

    def outcome(self, observation_id: int, *, correct: bool, origin: Origin) -> Gap | None:
        """Take in whether an answer was right; returns its gap, None if it belongs to none.

        A grade outranks feedback, feedback a consistency check; among equals the newest counts.
        A repeated prompt speaks for the first one. A confident answer becomes evidence by being
        wrong. Raises GapError for an unknown observation.
        """
        with self._ledger.transaction():
            seen = self._require_observation(observation_id)
            if origin != "consistency":
                self._ledger.judgements.judge(seen.id, correct=correct, judge=origin)
            if seen.duplicate_of is not None:
                seen = self._require_observation(seen.duplicate_of)
            if seen.excluded is not None:
                return None
            if seen.origin is None or _RANK[origin] >= _RANK[seen.origin]:
                self._ledger.observations.set_outcome(seen.id, correct=correct, origin=origin)
            record = self._gap_of(seen, correct=correct)
            if record is None:
                return None
            return self._progress.compose(self._progress.advance(record))

    def find(self, reference: str) -> int:
        """The observation that `reference` names; GapError where it is none of this ledger's.

        Numbers alone repeat from ledger to ledger; sessions, of which each has its own, do not.
        """
        session, _, number = reference.rpartition("-")
        if number.isdecimal() and len(number) <= _LONGEST_NUMBER:
            with self._ledger.transaction():
                seen = self._ledger.observations.get(int(number), base_id=self._base_id)
            if seen is not None and seen.session == session:
                return seen.id
        raise GapError(
            f"no answer {reference!r} of this base is in the gap ledger; only answers that this "
            "base gave with this store can be judged"
        )

    def exclude(self, observation_id: int, *, cause: Cause) -> Gap | None:
        """An answer failed for another reason than missing knowledge: no evidence of a gap."""
        with self._ledger.transaction():
            seen = self._require_observation(observation_id)
            self._ledger.observations.set_excluded(seen.id, cause)
            if seen.gap_id is None:
                return None
            return self._progress.compose(self._progress.advance(self._record(seen.gap_id)))

    def unchecked_members(self, gap_id: int, limit: int = 8) -> tuple[tuple[int, str], ...]:
        """Prompts (observation, text) whose answers a consistency check should look at next.

        At most `consistency_members` at a time and four times as many in all; none once a gap is
        not open any more.
        """
        with self._ledger.transaction():
            record = self._record(gap_id)
            if record.state not in (GapState.OBSERVED, GapState.SUSPECTED):
                return ()
            counted, _ = self._progress.weigh(record)
            most = self._settings.consistency_members
            checked = sum(member.origin == "consistency" for member in counted)
            room = min(limit, most, _CHECKS_AT_MOST * most - checked)
            unchecked = [member for member in counted if member.correct is None]
            return tuple(
                (found.observation_id, found.prompt) for found in unchecked[: max(room, 0)]
            )

    def transition(
        self,
        gap_id: int,
        state: GapState,
        reason: str,
        *,
        expert: str | None = None,
        by_person: bool = False,
    ) -> Gap:
        """Take a step that is not the evidence's to take; see `states.TRANSITIONS`.

        QUEUED from any state but VERIFIED, TRAINING and EVALUATING needs `by_person`: only a
        person may order a training without proof. FILLED needs the `expert` that filled it. Raises
        GapStateError for a step that is not allowed, UnknownGapError for an unknown gap.
        """
        with self._ledger.transaction():
            record = self._record(gap_id)
            self._progress.require_right(record, state, expert=expert, by_person=by_person)
            return self._progress.compose(
                self._progress.enter(record, state, reason, expert=expert)
            )

    def dismiss(self, gap_id: int, reason: str = "dismissed by the user") -> Gap:
        """Never fill this gap; its prompts are still recognised, and nothing comes of them."""
        return self.transition(gap_id, GapState.DISMISSED, reason)

    def requeue_interrupted(self) -> tuple[Gap, ...]:
        """Queue again what was in training when its process ended; for the start of a worker."""
        with self._ledger.transaction():
            return tuple(
                self._progress.compose(self._progress.enter(gap, GapState.QUEUED, INTERRUPTED))
                for gap in self._ledger.gaps(self._base_id)
                if gap.state in IN_TRAINING
            )

    def queued(self) -> tuple[Gap, ...]:
        """The gaps waiting for a training, oldest first."""
        return tuple(gap for gap in self.list() if gap.state is GapState.QUEUED)

    def next_to_train(
        self,
        *,
        experts: int,
        stored_bytes: int = 0,
        now: datetime | None = None,
        other_minutes: Count = 0,
    ) -> NextTraining:
        """Which queued gap may start now, or why none; see `budget.choose_training`."""
        return choose_training(
            self.list(),
            now=now or self._clock(),
            experts=experts,
            stored_bytes=stored_bytes,
            other_minutes=other_minutes,
            settings=self._settings,
        )

    def list(self) -> tuple[Gap, ...]:
        """Every gap of this base, oldest first."""
        with self._ledger.transaction():
            return tuple(
                self._progress.compose(record) for record in self._ledger.gaps(self._base_id)
            )

    def show(self, gap_id: int) -> Gap:
        """One gap with its prompts, scores and history; UnknownGapError if there is none."""
        with self._ledger.transaction():
            return self._progress.compose(self._record(gap_id))

    def explain(self, gap: Gap) -> tuple[str, ...]:
        """In plain words: where the gap stands, on what evidence, and what is missing."""
        return explain(gap, self._settings)

    def _note_confident(self, observation: Observation, *, excluded: Cause | None) -> Noticed:
        direction = unit(observation.vector)
        cluster: GapRecord | None = None
        if observation.domain is None and direction is not None and excluded is None:
            cluster = self._grouping.cluster_near(direction, topic=observation.topic)
        observation_id = self._ledger.observations.add(
            observation,
            base_id=self._base_id,
            prompt_hash=prompt_hash(observation.prompt),
            direction=direction,
            gap_id=None if cluster is None else cluster.id,
            duplicate_of=None,
            excluded=excluded,
        )
        return _noticed(observation, observation_id, None, changed=False)

    def _note_doubtful(self, observation: Observation) -> Noticed:
        direction = unit(observation.vector)
        record = self._grouping.home(observation.domain, direction, topic=observation.topic)
        before = None if record is None else record.state
        original: int | None = None
        if record is not None:
            record = self._progress.begin_cooldown(record)
            original = self._grouping.original_of(observation.prompt, direction, gap=record)
        observation_id = self._ledger.observations.add(
            observation,
            base_id=self._base_id,
            prompt_hash=prompt_hash(observation.prompt),
            direction=direction,
            gap_id=None if record is None else record.id,
            duplicate_of=original,
            excluded=None,
        )
        if record is None:
            return _noticed(observation, observation_id, None, changed=False)
        if original is None:
            record = self._take_in(observation_id, record)
        record = self._progress.advance(record)
        gap = None if record.state is GapState.DISMISSED else self._progress.compose(record)
        return _noticed(observation, observation_id, gap, changed=record.state is not before)

    def _take_in(self, observation_id: int, record: GapRecord) -> GapRecord:
        """Let one more distinct prompt shape its gap's centre, name and, if loose, its group."""
        record = self._grouping.recentre(record)
        size = len(self._ledger.observations.members(record.id, after=record.evidence_after))
        if size <= self._settings.min_prompts or size & (size - 1) == 0:
            record = self._grouping.name(record)
        if record.domain is not None:
            return record
        self._grouping.note_unassigned()
        seen = self._require_observation(observation_id)
        return self._record(record.id if seen.gap_id is None else seen.gap_id)

    def _gap_of(self, seen: Seen, *, correct: bool) -> GapRecord | None:
        """The gap whose evidence this outcome is; a wrong confident answer may open one."""
        if seen.low_confidence or seen.gap_id is not None:
            return None if seen.gap_id is None else self._record(seen.gap_id)
        if correct:
            return None
        record = self._grouping.home(seen.domain, seen.direction, topic=seen.topic)
        if record is None:
            return None
        self._ledger.observations.move([seen.id], gap_id=record.id)
        return self._grouping.name(self._grouping.recentre(record))

    def _record(self, gap_id: int) -> GapRecord:
        return self._ledger.gap(gap_id, base_id=self._base_id)

    def _require_observation(self, observation_id: int) -> Seen:
        seen = self._ledger.observations.get(observation_id, base_id=self._base_id)
        if seen is None:
            raise GapError(f"there is no observation {observation_id} of this base in the ledger")
        return seen


def _noticed(
    observation: Observation, observation_id: int, gap: Gap | None, *, changed: bool
) -> Noticed:
    return Noticed(observation_id, f"{observation.session}-{observation_id}", gap, changed)
