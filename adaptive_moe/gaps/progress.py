"""Moves gaps from state to state: what the evidence is worth, and which step it allows."""

from dataclasses import replace
from typing import final

from adaptive_moe.config.settings import GapSettings
from adaptive_moe.errors import GapStateError
from adaptive_moe.gaps.evidence import (
    Figures,
    Member,
    is_refuted,
    is_suspicious,
    is_verified,
    weigh,
    within_session_share,
)
from adaptive_moe.gaps.grouping import Grouping
from adaptive_moe.gaps.ledger import Gap, GapLedger, GapRecord
from adaptive_moe.gaps.states import FILLED_BY_PERSON_ONLY, GapState, require_step

_COOLDOWN_DOUBLINGS = 2
_SHOWN_PROMPTS = 1000


@final
class Progress:
    """The life of the gaps of one base; calls belong inside a transaction of the ledger."""

    def __init__(
        self, ledger: GapLedger, settings: GapSettings, *, grouping: Grouping, base_id: str
    ) -> None:
        self._ledger = ledger
        self._settings = settings
        self._grouping = grouping
        self._base_id = base_id
        # Every step asks for it anew, and most answers change nothing in between.
        self._weighed: tuple[object, tuple[tuple[Member, ...], Figures]] | None = None

    def begin_cooldown(self, record: GapRecord) -> GapRecord:
        """The first prompt after a rejection starts the pause."""
        if record.state is not GapState.REJECTED:
            return record
        last = self._ledger.observations.last(self._base_id)
        record = replace(record, cooldown_from=last, evidence_after=last)
        return self.enter(record, GapState.COOLDOWN, "paused after a rejected filling")

    def advance(self, record: GapRecord) -> GapRecord:
        """Take every step the evidence allows now."""
        record = self._gather(record)
        for _ in GapState:
            step = self._due_step(record)
            if step is None:
                break
            record = self.enter(record, *step)
        return record

    def _gather(self, record: GapRecord) -> GapRecord:
        """Before anything is claimed of a cluster, all that belongs to it is brought together."""
        if record.state not in (GapState.OBSERVED, GapState.SUSPECTED):
            return record
        if not is_suspicious(self.weigh(record)[1], self._settings):
            return record
        self._grouping.adopt_confident(record)
        merged = self._grouping.join(record)
        return merged if merged is record else self._grouping.name(merged)

    def _due_step(self, record: GapRecord) -> tuple[GapState, str] | None:
        figures = self.weigh(record)[1]
        settings = self._settings
        below = GapState.OBSERVED if record.expert is None else GapState.FILLED
        refuted = f"the failure rate lies below {figures.upper_bound:.2f}"
        match record.state:
            case GapState.OBSERVED | GapState.FILLED if is_suspicious(figures, settings):
                return GapState.SUSPECTED, _suspicion(figures)
            case GapState.SUSPECTED if is_verified(figures, settings):
                return GapState.VERIFIED, _proof(figures)
            case GapState.SUSPECTED | GapState.VERIFIED if is_refuted(figures, settings):
                return below, refuted
            case GapState.SUSPECTED if figures.suspicion < 1.0:
                return below, "most prompts of this topic are answered confidently now"
            case GapState.COOLDOWN if self._cooldown_left(record) == 0:
                return GapState.OBSERVED, "the pause is over; evidence starts anew"
            case _:
                return None

    def enter(
        self, record: GapRecord, state: GapState, reason: str, *, expert: str | None = None
    ) -> GapRecord:
        """Take a step and write it down with the figures before it."""
        before, (_, figures) = record.state, self.weigh(record)
        last = self._ledger.observations.last(self._base_id)
        if state is GapState.SUSPECTED and record.suspicion_order is None:
            order = self._ledger.next_suspicion(self._base_id)
            record = replace(record, suspicion_order=order)
        elif state is GapState.FILLED and before is GapState.EVALUATING:
            record = replace(record, expert=expert or record.expert, rejections=0)
            record = replace(record, evidence_after=last, suspicion_order=None)
        elif state is GapState.REJECTED:
            record = replace(record, rejections=record.rejections + 1)
        elif state is GapState.OBSERVED and before in (GapState.COOLDOWN, GapState.DISMISSED):
            ignores = before is GapState.DISMISSED or self._cooldown_length(record) > 0
            after = last if ignores else record.evidence_after
            record = replace(record, evidence_after=after, suspicion_order=None)
        return self._ledger.step(
            replace(record, state=state, reason=reason), before=before, figures=figures
        )

    def require_right(
        self, record: GapRecord, state: GapState, *, expert: str | None, by_person: bool
    ) -> None:
        """Refuse steps not in the table, and those without their person, expert or evidence."""
        require_step(record.id, record.state, after=state)
        needs_person = state is GapState.QUEUED and record.state in FILLED_BY_PERSON_ONLY
        if needs_person and not by_person:
            raise GapStateError(
                f"gap {record.id} is {record.state}; only a VERIFIED gap may be queued unless a "
                "person asks for it"
            )
        if state is GapState.FILLED and record.expert is None:
            if record.state is not GapState.EVALUATING:
                raise GapStateError(f"gap {record.id} was never filled; train an expert for it")
            if expert is None:
                raise GapStateError(f"gap {record.id} cannot be FILLED without naming its expert")
        if state in (GapState.SUSPECTED, GapState.VERIFIED) and not self._is_shown(record, state):
            raise GapStateError(
                f"gap {record.id} cannot be called {state}: its evidence does not show it"
            )

    def _is_shown(self, record: GapRecord, state: GapState) -> bool:
        """Whether the evidence reaches `state`, or reached it before the gap was queued."""
        figures = self.weigh(record)[1]
        if state is GapState.SUSPECTED:
            return is_suspicious(figures, self._settings)
        steps = self._ledger.transitions(record.id)
        queued_from = next(
            (step.before for step in reversed(steps) if step.after == "QUEUED"), None
        )
        return is_verified(figures, self._settings) or queued_from is state

    def weigh(self, record: GapRecord) -> tuple[tuple[Member, ...], Figures]:
        """The members that count, and what they amount to."""
        evidence = (record.id, record.evidence_after, record.suspicion_order)
        key = (*evidence, record.domain, record.expert, self._ledger.contents)
        if self._weighed is None or self._weighed[0] != key:
            self._weighed = key, self._weigh(record)
        return self._weighed[1]

    def _weigh(self, record: GapRecord) -> tuple[tuple[Member, ...], Figures]:
        observations = self._ledger.observations
        members = observations.members(record.id, after=record.evidence_after)
        counted = within_session_share(members, alone=self._is_alone(members))
        confident = observations.confident_prompts(
            self._base_id,
            gap_id=record.id,
            domains=[name for name in (record.domain, record.expert) if name is not None],
            after=record.evidence_after,
        )
        order = record.suspicion_order or self._ledger.suspected(self._base_id) + 1
        figures = weigh(counted, confident=confident, order=order, settings=self._settings)
        return counted, figures

    def _is_alone(self, members: tuple[Member, ...]) -> bool:
        """Whether nobody but one session was there since the first of these prompts."""
        sessions = {member.session for member in members}
        if len(sessions) != 1:
            return not sessions
        return not self._ledger.observations.has_other_session(
            self._base_id, session=sessions.pop(), since=members[0].observation_id
        )

    def _cooldown_length(self, record: GapRecord) -> int:
        """Prompts: once, twice, then four times the configured number."""
        doublings = min(max(record.rejections - 1, 0), _COOLDOWN_DOUBLINGS)
        return self._settings.cooldown_prompts << doublings

    def _cooldown_left(self, record: GapRecord) -> int:
        seen = self._ledger.observations.doubtful_since(record.id, after=record.cooldown_from)
        return max(self._cooldown_length(record) - seen, 0)

    def compose(self, record: GapRecord) -> Gap:
        """The gap with its evidence and history."""
        counted, figures = self.weigh(record)
        observations = self._ledger.observations
        held = len(observations.members(record.id, after=record.evidence_after)) - len(counted)
        cooling = record.state is GapState.COOLDOWN
        return Gap(
            id=record.id,
            state=record.state,
            label=record.label,
            terms=record.terms,
            prompts=observations.prompts_of(record.id, limit=_SHOWN_PROMPTS),
            failures=figures.failures,
            successes=figures.successes,
            e_value=figures.e_value,
            lower_bound=figures.lower_bound,
            p_correct_mean=figures.p_correct_mean,
            centroid=record.direction,
            expert=record.expert,
            reason=record.reason,
            opened=record.opened,
            changed=record.changed,
            domain=record.domain,
            figures=figures,
            members=counted,
            history=self._ledger.transitions(record.id),
            held_back=held,
            misses=observations.count_excluded(
                record.id, cause="routing_miss", after=record.evidence_after
            ),
            cooldown_left=self._cooldown_left(record) if cooling else 0,
        )


def _suspicion(figures: Figures) -> str:
    return (
        f"{figures.distinct} distinct prompts answered with low confidence, {figures.confident} "
        f"with confidence (suspicion {figures.suspicion:.3g})"
    )


def _proof(figures: Figures) -> str:
    return (
        f"{figures.failures} of {figures.failures + figures.successes} checked answers wrong: "
        f"evidence {figures.e_value:.3g} reaches {figures.needed:.3g}, failure rate above "
        f"{figures.lower_bound:.2f}"
    )
