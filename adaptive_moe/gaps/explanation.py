"""Says in plain words where a gap stands, on what evidence, and what is missing."""

from collections.abc import Callable, Mapping

from adaptive_moe.config.settings import GapSettings
from adaptive_moe.gaps.evidence import SUSPICION, Figures, failure_bounds, is_refuted
from adaptive_moe.gaps.ledger import Gap
from adaptive_moe.gaps.states import GapState
from adaptive_moe.measures.sequential import e_value

_MOST_ASKED_FOR = 200


def explain(gap: Gap, settings: GapSettings) -> tuple[str, ...]:
    """Where the gap stands and why, the evidence, then what is missing or comes next."""
    figures = gap.figures
    lines = [f"{gap.state} since {gap.changed}: {gap.reason}"]
    if gap.state in (GapState.OBSERVED, GapState.SUSPECTED, GapState.VERIFIED) or figures.distinct:
        lines += _evidence(figures)
    if gap.misses:
        lines.append(
            f"{_count(gap.misses, 'prompt')} left out: an expert in service answers such prompts "
            "(a routing miss)"
        )
    if gap.state in (GapState.OBSERVED, GapState.SUSPECTED):
        lines += missing(gap, settings)
    else:
        lines.append(_NEXT[gap.state](gap))
    return tuple(lines)


def missing(gap: Gap, settings: GapSettings) -> tuple[str, ...]:
    """What an observed or suspected gap lacks before it is declared."""
    figures = gap.figures
    if is_refuted(figures, settings):
        return (
            "most prompts of this topic are answered rightly or confidently: no gap at present",
        )
    lines = []
    suspected = gap.state is GapState.SUSPECTED
    wanted = settings.min_prompts if suspected else settings.suspect_prompts
    if figures.distinct < wanted:
        lines.append(f"missing: {_count(wanted - figures.distinct, 'more distinct prompt')}")
        if gap.held_back:
            lines.append(
                f"{_count(gap.held_back, 'prompt')} held back: one session may give half of the "
                "evidence, and others were active"
            )
    if suspected:
        lines += _missing_outcomes(figures, settings)
    elif figures.distinct >= wanted:
        lines.append(
            "missing: a larger share of doubtful answers in this topic (suspicion "
            f"{figures.suspicion:.2g}, needs {SUSPICION:g})"
        )
    return tuple(lines)


def _evidence(figures: Figures) -> list[str]:
    mean = figures.p_correct_mean
    estimate = "" if mean is None else f", estimated to be right with probability {mean:.2f}"
    lines = [
        (
            f"{_count(figures.distinct, 'distinct prompt')} answered with low confidence"
            f"{estimate}; {_count(figures.confident, 'prompt')} of the topic answered confidently"
        )
    ]
    known = figures.failures + figures.successes
    if known:
        lines.append(
            f"{figures.failures} of {_count(known, 'checked answer')} wrong: evidence "
            f"{figures.e_value:.3g} (needs {figures.needed:.3g}), failure rate between "
            f"{figures.lower_bound:.2f} and {figures.upper_bound:.2f}"
        )
    return lines


def _missing_outcomes(figures: Figures, settings: GapSettings) -> list[str]:
    more = _wrong_answers_needed(figures, settings)
    if more == 0:
        return []
    amount = "many" if more is None else str(more)
    return [
        (
            "missing: outcomes (grades, feedback or a consistency check); "
            f"{amount} more wrong answers would prove it"
        )
    ]


def _wrong_answers_needed(figures: Figures, settings: GapSettings) -> int | None:
    """How many more failures, all else unchanged, would prove the gap; None for very many."""
    right = figures.successes + figures.presumed
    for more in range(_MOST_ASKED_FOR + 1):
        wrong = figures.failures + more
        evidence = e_value(wrong, right, failure_rate=settings.failure_rate)
        lower, _ = failure_bounds(wrong, right)
        if evidence >= figures.needed and lower > settings.failure_bound:
            return more
    return None


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


_NEXT: Mapping[GapState, Callable[[Gap], str]] = {
    GapState.VERIFIED: lambda gap: f"next: fill it with material on {gap.label}, or dismiss it",
    GapState.QUEUED: lambda _: "next: its training starts when the budgets allow",
    GapState.TRAINING: lambda _: "next: the expert is trained, then judged by the gate",
    GapState.EVALUATING: lambda _: "next: the gate decides whether the expert goes live",
    GapState.FILLED: lambda gap: (
        f"expert {gap.expert} answers this topic; only failures from now on reopen the gap"
    ),
    GapState.REJECTED: lambda _: "next: the coming prompts of this topic begin a pause",
    GapState.COOLDOWN: lambda gap: (
        f"paused for {_count(gap.cooldown_left, 'more prompt')} of this topic, then observed anew"
    ),
    GapState.DISMISSED: lambda _: "nothing will be done about it unless somebody reopens it",
}
