"""How well probabilities keep their word, and how well an uncertainty ranks errors.

Probabilities are [item] in 0 to 1, `correct` is [item] of 0/1 or bool. An uncertainty is any real
number, higher = more uncertain. Ties count with their expected value, never with their order.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import rankdata


@dataclass(frozen=True, slots=True)
class ReliabilityBin:
    """Items of like probability: how many, what was said, and what came true."""

    count: int
    mean_probability: float
    accuracy: float


@dataclass(frozen=True, slots=True)
class RiskCoverage:
    """Error rate among the most certain items, for every share answered; both [item]."""

    coverage: np.ndarray
    risk: np.ndarray


def reliability_bins(
    probabilities: ArrayLike, correct: ArrayLike, *, bins: int = 15
) -> tuple[ReliabilityBin, ...]:
    """Items in order of probability, cut into bins of equal mass (their sizes differ by one).

    Fewer items than bins give one bin an item. Raises ValueError for empty or unequal input.
    """
    said, came_true = _paired(probabilities, correct)
    if said.min() < 0 or said.max() > 1:
        raise ValueError("probabilities must lie in [0, 1]")
    order = np.argsort(said, kind="stable")
    came_true = _tie_means(said, came_true)
    parts = np.array_split(order, min(bins, said.size))
    return tuple(
        ReliabilityBin(part.size, float(said[part].mean()), float(came_true[part].mean()))
        for part in parts
    )


def expected_calibration_error(
    probabilities: ArrayLike, correct: ArrayLike, *, bins: int = 15
) -> float:
    """Mean |accuracy - probability| over bins of equal mass, Naeini et al. 2015; 0 to 1."""
    parts = reliability_bins(probabilities, correct, bins=bins)
    total = sum(part.count for part in parts)
    return sum(part.count * abs(part.accuracy - part.mean_probability) for part in parts) / total


def brier(probabilities: ArrayLike, correct: ArrayLike) -> float:
    """Mean squared error of the probabilities, Brier 1950; 0 to 1, always saying 0.5 gives 0.25."""
    said, came_true = _paired(probabilities, correct)
    return float(np.mean((said - came_true) ** 2))


def auroc(scores: ArrayLike, positive: ArrayLike) -> float:
    """Chance that a positive item scores above a negative one, ties one half (Mann & Whitney 1947).

    Raises ValueError when one kind is missing.
    """
    values, labels = _paired(scores, positive)
    positives, negatives = _both_kinds(labels)
    ranks = rankdata(values)[labels > 0].sum()
    return float((ranks - positives * (positives + 1) / 2) / (positives * negatives))


def auprc(scores: ArrayLike, positive: ArrayLike) -> float:
    """Average precision over the positives in order of falling score; chance = share of positives.

    Tied items enter together. Raises ValueError when one kind is missing.
    """
    values, labels = _paired(scores, positive)
    positives, _ = _both_kinds(labels)
    order = np.argsort(-values, kind="stable")
    last_of_tie = np.append(np.diff(values[order]) != 0, True)
    hits = np.cumsum(labels[order])[last_of_tie]
    taken = np.flatnonzero(last_of_tie) + 1
    return float(np.sum(np.diff(hits, prepend=0.0) * hits / taken) / positives)


def risk_coverage(uncertainty: ArrayLike, correct: ArrayLike) -> RiskCoverage:
    """Risk of answering only the k most certain items, k = 1 .. n (El-Yaniv & Wiener 2010)."""
    values, came_true = _paired(uncertainty, correct)
    errors = 1 - _tie_means(values, came_true)[np.argsort(values, kind="stable")]
    count = np.arange(1, values.size + 1)
    return RiskCoverage(coverage=count / values.size, risk=np.cumsum(errors) / count)


def coverage_at_risk(uncertainty: ArrayLike, correct: ArrayLike, *, risk: float) -> float:
    """Largest share of items that can be answered at this error rate, in hindsight; 0 if none.

    A threshold cannot cut through a tie, so only whole ties are counted.
    """
    values, _ = _paired(uncertainty, correct)
    curve = risk_coverage(uncertainty, correct)
    ends = np.append(np.diff(np.sort(values)) != 0, True)
    allowed = curve.coverage[ends & (curve.risk <= risk + 1e-12)]
    return float(allowed.max(initial=0.0))


def e_aurc(uncertainty: ArrayLike, correct: ArrayLike) -> float:
    """Area under risk-coverage beyond that of a perfect ranking, Geifman et al. 2019; 0 is best."""
    _, came_true = _paired(uncertainty, correct)
    perfect = risk_coverage(1 - came_true, came_true).risk.mean()
    return float(risk_coverage(uncertainty, correct).risk.mean() - perfect)


def prr(uncertainty: ArrayLike, correct: ArrayLike, *, max_rejection: float = 0.5) -> float:
    """Prediction rejection ratio, Malinin et al. 2017: 1 ranks perfectly, 0 like chance.

    Gain in mean accuracy of what is kept, over rejecting at random, as a share of the perfect
    ranking's gain, for rejection rates up to `max_rejection`. Raises ValueError when all items
    are right or all wrong.
    """
    values, came_true = _paired(uncertainty, correct)
    _both_kinds(came_true)
    kept = slice(max(0, int(np.ceil(values.size * (1 - max_rejection))) - 1), None)
    chance = 1 - came_true.mean()
    gain = chance - risk_coverage(values, came_true).risk[kept]
    best = chance - risk_coverage(1 - came_true, came_true).risk[kept]
    return float(gain.sum() / best.sum())


def _paired(values: ArrayLike, labels: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    first = np.asarray(values, dtype=np.float64).ravel()
    second = np.asarray(labels, dtype=np.float64).ravel()
    if first.size == 0 or first.size != second.size:
        raise ValueError(f"need paired items, got {first.size} and {second.size}")
    if not (np.isfinite(first).all() and np.isin(second, (0.0, 1.0)).all()):
        raise ValueError("scores must be finite and labels 0 or 1")
    return first, second


def _both_kinds(labels: np.ndarray) -> tuple[int, int]:
    positives = int(labels.sum())
    negatives = labels.size - positives
    if not positives or not negatives:
        raise ValueError(f"need both kinds, got {positives} positive and {negatives} negative")
    return positives, negatives


def _tie_means(values: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Every label replaced by the mean over the items with the same value, in place order."""
    _, group, sizes = np.unique(values, return_inverse=True, return_counts=True)
    means: np.ndarray = (np.bincount(group, weights=labels) / sizes)[group]
    return means
