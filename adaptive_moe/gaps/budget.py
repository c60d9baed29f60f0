"""Decides which queued gap may be trained now, within the configured budgets."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from adaptive_moe.config.settings import GapSettings
from adaptive_moe.gaps.ledger import Gap, Transition
from adaptive_moe.gaps.states import IN_TRAINING, GapState
from adaptive_moe.measures.sequential import Count

INTERRUPTED = "its training was interrupted"  # by a process that ended without a word
_DAY = timedelta(days=1)
_VERDICTS = frozenset({GapState.FILLED, GapState.REJECTED})


@dataclass(frozen=True, slots=True)
class NextTraining:
    """The gap to train now, or None, and why."""

    gap: Gap | None
    reason: str


def choose_training(
    gaps: Sequence[Gap],
    *,
    now: datetime,
    experts: int,
    stored_bytes: int,
    other_minutes: Count,
    settings: GapSettings,
) -> NextTraining:
    """The queued gap with the most failing prompts, the oldest among equals, if one may start.

    One training at a time; at most `minutes_per_day` within the last 24 hours, `other_minutes`
    of trainings outside the ledger included; at most `max_experts`, of which `experts` exist;
    nothing once the store has come to `store_bytes`, as new versions take room too.
    """
    busy = [gap for gap in gaps if gap.state in IN_TRAINING]
    if busy:
        return NextTraining(None, f"gap {busy[0].id} ({busy[0].label}) is being trained")
    queued = [gap for gap in gaps if gap.state is GapState.QUEUED]
    if not queued:
        return NextTraining(None, "no gap is queued")
    spent = other_minutes + sum(minutes_trained(gap.history, now=now) for gap in gaps)
    if spent >= settings.minutes_per_day:
        return NextTraining(
            None,
            f"{spent:.0f} of {settings.minutes_per_day:g} training minutes are spent within a day; "
            "wait or raise gaps.minutes_per_day",
        )
    if stored_bytes >= settings.store_bytes:
        return NextTraining(
            None,
            f"the experts take {stored_bytes:,} of {settings.store_bytes:,} bytes; remove some or "
            "raise gaps.store_bytes",
        )
    replacing = [gap for gap in queued if gap.expert is not None]
    if experts >= settings.max_experts and not replacing:
        return NextTraining(
            None, f"{experts} experts are stored; remove some or raise gaps.max_experts"
        )
    candidates = replacing if experts >= settings.max_experts else queued
    chosen = min(candidates, key=lambda gap: (-_failing_prompts(gap), gap.id))
    return NextTraining(chosen, f"{chosen.reason}; {len(queued)} queued")


def minutes_trained(history: Sequence[Transition], *, now: datetime) -> float:
    """Minutes a gap spent in training and evaluation within the 24 hours before `now`.

    A training whose process died counts nothing: nobody knows when that was.
    """
    total = 0.0
    for place, step in enumerate(history):
        if step.after not in IN_TRAINING:
            continue
        later = history[place + 1 :]
        if later and later[0].reason == INTERRUPTED:
            continue
        end = _when(later[0]) if later else now.astimezone(UTC)
        start = max(_when(step), now.astimezone(UTC) - _DAY)
        total += max((end - start).total_seconds(), 0.0) / 60.0
    return total


def judged_trainings(history: Sequence[Transition]) -> tuple[float, ...]:
    """Minutes of each training of a gap that came to the gate's verdict, the gate included."""
    minutes, began = [], None
    for step in history:
        if step.after is GapState.TRAINING:
            began = _when(step)
        elif began is not None and step.after not in IN_TRAINING:
            if step.before is GapState.EVALUATING and step.after in _VERDICTS:
                minutes.append((_when(step) - began).total_seconds() / 60.0)
            began = None
    return tuple(minutes)


def _failing_prompts(gap: Gap) -> float:
    """Distinct prompts times their failure rate as far as known, else all of them."""
    figures = gap.figures
    known = figures.failures + figures.successes
    return figures.distinct * (figures.failures / known if known else 1.0)


def _when(step: Transition) -> datetime:
    return datetime.fromisoformat(step.when)
