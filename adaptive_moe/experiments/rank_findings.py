"""What the runs of the study of rank strategies say: differences, tests and verdicts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from adaptive_moe.experiments.rank_floor import (
    ChosenRate,
    NoiseFloor,
    chosen_rates,
    noise_floor,
    pooled_deviation,
)
from adaptive_moe.experiments.rank_runs import (
    RankPlan,
    RankRun,
    Record,
    failures,
    outcomes,
)
from adaptive_moe.measures.statistics import (
    Interval,
    holm,
    least_sign_flip,
    paired_bootstrap,
    sign_flip,
    student_interval,
)

LEVEL = 0.05

Verdict = Literal["win", "loss", "not distinguishable", "too few pairs"]


@dataclass(frozen=True, slots=True)
class SetFindings:
    """One set: its floor, the rates that were chosen, and the scored runs by arm and seed.

    `missing` and `failed` are what is still to do and what cannot be done.
    """

    name: str
    about: Mapping[str, object]
    floor: NoiseFloor | None
    rates: Mapping[str, ChosenRate]
    scores: Mapping[str, Mapping[int, Record]]
    missing: tuple[str, ...]
    failed: tuple[tuple[str, str], ...]

    @property
    def is_used(self) -> bool:
        """Whether its uniform ranks differ by more than the noise, so that arms may."""
        return self.floor is not None and self.floor.is_exceeded

    def exact(self, arm: str) -> list[float]:
        """Exact answers of an arm, by seed."""
        return [float(found["exact"]) for _, found in sorted(self.scores.get(arm, {}).items())]

    def deviation(self) -> float:
        """Between seeds, pooled over the arms; nan before any arm has two."""
        groups = [scores for arm in self.scores if len(scores := self.exact(arm)) > 1]
        return pooled_deviation(groups)[0] if groups else float("nan")


@dataclass(frozen=True, slots=True)
class Comparison:
    """An arm less another, over all pairs of a set and a seed that both have.

    `exact` and `loss` (nats per token) hold Student's interval over the pairs, `by_fact` draws
    facts, the runs being what they are. `p_value` is the exact sign-flip test's on exact answers,
    `adjusted` the same after Holm.
    """

    arm: str
    against: str
    pairs: int
    exact: Interval
    by_fact: Interval
    loss: Interval
    p_value: float
    adjusted: float
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class _Differences:
    exact: list[float]
    loss: list[float]
    facts: np.ndarray  # [fact], mean over seeds


def set_findings(
    plan: RankPlan, name: str, about: Mapping[str, object], records: Sequence[Record]
) -> SetFindings:
    """Everything that is known of one set."""
    digest = str(about["digest"])
    done, lost = outcomes(records), failures(records)
    floor = noise_floor(plan, name, digest, done)
    rates = chosen_rates(plan, name, digest, done, lost)
    planned = list(plan.floor_runs(name, digest))
    final = plan.final_runs(name, digest, {arm: each.rate for arm, each in rates.items()})
    if floor is None or floor.is_exceeded:
        planned += [*plan.sweep_runs(name, digest), *final]
    scores: dict[str, dict[int, Record]] = {}
    for run in final:
        if run.key in done:
            scores.setdefault(run.strategy, {})[run.seed] = done[run.key]
    return SetFindings(
        name,
        about,
        floor,
        rates,
        scores,
        missing=tuple(_missing(plan, planned, rates, {*done, *lost}, name)),
        failed=tuple((run.title, lost[run.key]) for run in planned if run.key in lost),
    )


def _missing(
    plan: RankPlan,
    planned: Sequence[RankRun],
    rates: Mapping[str, ChosenRate],
    known: set[str],
    name: str,
) -> list[str]:
    """Runs to come, those of arms that have no rate yet among them."""
    left = [run.title for run in planned if run.key not in known]
    if len(planned) > len(plan.floor_runs("", "")):
        waiting = [arm for arm in plan.arms if arm not in rates]
        left += [f"{name}, {arm}, seed {seed}" for arm in waiting for seed in plan.seeds]
    return left


def compare(
    sets: Sequence[SetFindings], arms: Sequence[str], against: str
) -> tuple[Comparison, ...]:
    """Every other arm against one, with Holm over those that can be compared."""
    found = {
        arm: differences
        for arm in arms
        if arm != against and (differences := _differences(sets, arm, against)).exact
    }
    p_values = [sign_flip(each.exact) for each in found.values()]
    return tuple(
        _comparison(arm, against, found[arm], p_value, adjusted, len(found))
        for arm, p_value, adjusted in zip(found, p_values, holm(p_values), strict=True)
    )


def least_adjusted(pairs: int, arms: int) -> float:
    """The smallest p after Holm that the best of so many arms can have."""
    return min(1.0, arms * least_sign_flip(pairs))


def _differences(sets: Sequence[SetFindings], arm: str, against: str) -> _Differences:
    found = _Differences([], [], np.zeros(0))
    for each in sets:
        own, other = each.scores.get(arm, {}), each.scores.get(against, {})
        shared = sorted(own.keys() & other.keys())
        if not each.is_used or not shared:
            continue
        found.exact.extend(own[seed]["exact"] - other[seed]["exact"] for seed in shared)
        found.loss.extend(own[seed]["loss"] - other[seed]["loss"] for seed in shared)
        facts = np.mean([_right(own[seed]) - _right(other[seed]) for seed in shared], axis=0)
        found = _Differences(found.exact, found.loss, np.concatenate([found.facts, facts]))
    return found


def _right(found: Record) -> np.ndarray:
    return np.array([int(mark) for mark in found["right"]], dtype=np.float64)


def _comparison(
    arm: str, against: str, found: _Differences, p_value: float, adjusted: float, arms: int
) -> Comparison:
    exact = student_interval(found.exact)
    verdict: Verdict = "not distinguishable"
    if least_adjusted(len(found.exact), arms) > LEVEL:
        verdict = "too few pairs"
    elif adjusted <= LEVEL:
        verdict = "win" if exact.mean > 0 else "loss"
    return Comparison(
        arm,
        against,
        len(found.exact),
        exact,
        paired_bootstrap(found.facts, seed=0),
        student_interval(found.loss),
        p_value,
        adjusted,
        verdict,
    )
