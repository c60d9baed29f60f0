"""What differs between two runs by their seed alone, and which rate suits an arm."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import t

from adaptive_moe.experiments.rank_runs import RankPlan, RankRun, Record

_CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class NoiseFloor:
    """Exact answers of two uniform ranks, and how far apart two seeds of one rank may lie.

    `limit` holds 95 % of the differences between two runs of a rank: t * sqrt(2) * the standard
    deviation within ranks, pooled over both.
    """

    scores: Mapping[int, tuple[float, ...]]
    deviation: float
    limit: float

    @property
    def difference(self) -> float:
        """Mean of the greater rank less that of the smaller."""
        smaller, greater = (float(np.mean(self.scores[rank])) for rank in sorted(self.scores))
        return greater - smaller

    @property
    def is_exceeded(self) -> bool:
        """Whether the two ranks differ by more than two seeds do."""
        return abs(self.difference) > self.limit


@dataclass(frozen=True, slots=True)
class ChosenRate:
    """The rate of an arm on a set, and what it brought on the selection side.

    `is_edge`: it is the least or the greatest that was tried, so a better one may lie beyond.
    """

    rate: float
    exact: float
    loss: float
    is_edge: bool


def noise_floor(
    plan: RankPlan, name: str, digest: str, done: Mapping[str, Record]
) -> NoiseFloor | None:
    """None until either rank has two runs."""
    scores: dict[int, list[float]] = {rank: [] for rank in plan.floor_ranks}
    for run in plan.floor_runs(name, digest):
        if run.key in done:
            scores[run.rank].append(done[run.key]["exact"])
    if min(map(len, scores.values())) < 2:  # noqa: PLR2004 - a deviation needs two
        return None
    deviation, freedom = pooled_deviation(list(scores.values()))
    limit = spread_of_two(deviation, freedom)
    return NoiseFloor({rank: tuple(found) for rank, found in scores.items()}, deviation, limit)


def pooled_deviation(groups: Sequence[Sequence[float]]) -> tuple[float, int]:
    """Standard deviation within groups, and its degrees of freedom."""
    freedom = sum(len(group) - 1 for group in groups)
    squares = sum(float(np.var(group)) * len(group) for group in groups)
    return (squares / freedom) ** 0.5, freedom


def spread_of_two(deviation: float, freedom: int) -> float:
    """95 % of the differences of two runs of such a deviation are smaller."""
    return float(t.ppf(0.5 + _CONFIDENCE / 2, freedom)) * 2**0.5 * deviation


def chosen_rates(
    plan: RankPlan, name: str, digest: str, done: Mapping[str, Record], failed: Collection[str]
) -> dict[str, ChosenRate]:
    """The best rate of every arm of which no run is left to do, by selection answers alone.

    The most exact answers, then the least loss. An arm that failed at every rate has none.
    """
    by_arm: dict[str, list[RankRun]] = {}
    for run in plan.sweep_runs(name, digest):
        by_arm.setdefault(run.strategy, []).append(run)
    return {
        arm: _chosen(plan, [(run, done[run.key]) for run in runs if run.key in done])
        for arm, runs in by_arm.items()
        if all(run.key in done or run.key in failed for run in runs)
        and any(run.key in done for run in runs)
    }


def _chosen(plan: RankPlan, tried: Sequence[tuple[RankRun, Record]]) -> ChosenRate:
    run, found = max(
        tried, key=lambda each: (each[1]["selection_exact"], -each[1]["selection_loss"])
    )
    rate = run.learning_rate
    is_edge = rate in {min(plan.rates), max(plan.rates)}
    return ChosenRate(rate, found["selection_exact"], found["selection_loss"], is_edge)
