"""Intervals and tests that say how far a measured difference can be trusted."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import beta, binom, norm, t

_BOOTSTRAP_BLOCK = 4_000_000
_MOST_FLIPPED = 40  # differences; either half has a million ways to turn its signs at most


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate with its confidence limits, all in the unit of what was measured."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class McNemar:
    """How many items turned right and wrong between two systems, with the exact two-sided p."""

    gained: int
    lost: int
    p_value: float


def wilson(successes: int, trials: int, *, confidence: float = 0.95) -> Interval:
    """Two-sided score interval of a success rate, Wilson 1927; no trial gives (0.5, 0, 1)."""
    _check_counts(successes, trials, confidence)
    if trials == 0:
        return Interval(0.5, 0.0, 1.0)
    rate = successes / trials
    z_squared = float(norm.ppf(0.5 + confidence / 2)) ** 2
    centre = (rate + z_squared / (2 * trials)) / (1 + z_squared / trials)
    spread = z_squared * (rate * (1 - rate) / trials + z_squared / (4 * trials**2))
    half = spread**0.5 / (1 + z_squared / trials)
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == trials else min(1.0, centre + half)
    return Interval(rate, low, high)


def clopper_pearson(successes: int, trials: int, *, confidence: float = 0.95) -> Interval:
    """Two-sided exact interval of a success rate, Clopper & Pearson 1934.

    It never covers less often than stated. No trial gives (0.5, 0, 1).
    """
    tail = 1 - (1 - confidence) / 2
    low = clopper_pearson_lower(successes, trials, confidence=tail)
    high = clopper_pearson_upper(successes, trials, confidence=tail)
    return Interval(successes / trials if trials else 0.5, low, high)


def clopper_pearson_lower(successes: int, trials: int, *, confidence: float = 0.95) -> float:
    """Exact one-sided lower limit: 7 of 8 at 95 % gives 0.529; no success gives 0."""
    _check_counts(successes, trials, confidence)
    if successes == 0:
        return 0.0
    return float(beta.ppf(1 - confidence, successes, trials - successes + 1))


def clopper_pearson_upper(successes: int, trials: int, *, confidence: float = 0.95) -> float:
    """Exact one-sided upper limit: 0 of 300 at 95 % gives 0.00994; all successes give 1."""
    _check_counts(successes, trials, confidence)
    if successes == trials:
        return 1.0
    return float(beta.ppf(confidence, successes + 1, trials - successes))


def paired_bootstrap(
    differences: ArrayLike,
    *,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int,
) -> Interval:
    """Two-sided percentile interval of a mean paired difference, Efron & Tibshirani 1993, ch. 13.

    `differences` is [item], after minus before on the same item; items must be independent, so
    paraphrases of one fact are averaged first. Where all differences are equal the interval has no
    width: for "nothing was lost" use `clopper_pearson_upper`. Raises ValueError when empty or not
    finite.
    """
    values = np.asarray(differences, dtype=np.float64).ravel()
    if values.size == 0 or not np.isfinite(values).all():
        raise ValueError(f"need finite differences, got {values.size} values")
    if not 0 < confidence < 1 or resamples < 1:
        raise ValueError(f"confidence {confidence} or resamples {resamples} out of range")
    means = _resampled_means(values, resamples, np.random.default_rng(seed))
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(values.mean()), float(low), float(high))


def cluster_bootstrap(
    statistic: Callable[[np.ndarray], float],
    groups: Sequence[str],
    *,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int,
) -> Interval:
    """Two-sided percentile interval of any statistic, drawing whole groups with replacement.

    `statistic` gets the indices of the drawn items (repeats included) and returns a number, or
    nan for a draw on which it has no meaning; such draws are left out. Items of one group may
    depend on each other. Raises ValueError without an item or when no draw has a meaning.
    """

    def alone(picks: np.ndarray) -> np.ndarray:
        return np.array([statistic(picks)])

    (interval,) = cluster_bootstraps(
        alone, groups, confidence=confidence, resamples=resamples, seed=seed
    )
    return interval


def cluster_bootstraps(
    statistics: Callable[[np.ndarray], np.ndarray],
    groups: Sequence[str],
    *,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int,
) -> tuple[Interval, ...]:
    """`cluster_bootstrap` of several statistics, [statistic], on the same draws."""
    everything = np.arange(len(groups))
    values = np.stack(
        [statistics(picks) for picks in _draw_groups(groups, resamples, seed)], axis=1
    )
    tails = [(1 - confidence) / 2, (1 + confidence) / 2]
    intervals = []
    for found, drawn in zip(statistics(everything), values, strict=True):
        meant = drawn[~np.isnan(drawn)]
        if meant.size == 0:
            raise ValueError(f"the statistic has no value on any of {resamples} draws")
        low, high = np.quantile(meant, tails)
        intervals.append(Interval(float(found), float(low), float(high)))
    return tuple(intervals)


def mcnemar(before: Sequence[bool], after: Sequence[bool]) -> McNemar:
    """Exact test whether two systems are right equally often on the same items, McNemar 1947.

    Only items on which they differ count; where none differs p is 1. Raises ValueError when the
    lengths differ.
    """
    if len(before) != len(after):
        raise ValueError(f"{len(before)} items before, {len(after)} after: they must be paired")
    gained = sum(not old and new for old, new in zip(before, after, strict=True))
    lost = sum(old and not new for old, new in zip(before, after, strict=True))
    tail = float(binom.cdf(min(gained, lost), gained + lost, 0.5)) if gained + lost else 1.0
    return McNemar(gained, lost, min(1.0, 2 * tail))


def sign_flip(differences: ArrayLike) -> float:
    """Exact two-sided p of a mean paired difference, Fisher 1935, section 21; Pitman 1937.

    The share of all 2^n ways to turn the signs whose mean is at least as far from 0: right
    whenever a difference is as likely as its opposite under the null hypothesis, whatever their
    distribution. It is never below `least_sign_flip(n)`. Raises ValueError when empty, not finite,
    or more than 40.
    """
    values = np.asarray(differences, dtype=np.float64).ravel()
    if not 0 < values.size <= _MOST_FLIPPED or not np.isfinite(values).all():
        raise ValueError(f"need 1 to {_MOST_FLIPPED} finite differences, got {values.size} values")
    first, second = (_signed_sums(half) for half in np.array_split(values, 2))
    far = abs(float(values.sum())) - 1e-9 * float(np.abs(values).sum())  # equal but for rounding
    if far <= 0:
        return 1.0
    above = second.size - np.searchsorted(second, far - first, side="left")
    below = np.searchsorted(second, -far - first, side="right")
    return float((above + below).sum()) / 2.0**values.size


def least_sign_flip(count: int) -> float:
    """The smallest p that `sign_flip` can give for so many differences: 2 / 2^count."""
    return min(1.0, 2.0 ** (1 - count))


def student_interval(values: ArrayLike, *, confidence: float = 0.95) -> Interval:
    """Two-sided interval of a mean of few, roughly normal values, Student 1908.

    Infinite for a single value. Raises ValueError when empty or not finite.
    """
    found = np.asarray(values, dtype=np.float64).ravel()
    if found.size == 0 or not np.isfinite(found).all():
        raise ValueError(f"need finite values, got {found.size} values")
    mean = float(found.mean())
    if found.size == 1:
        return Interval(mean, -np.inf, np.inf)
    error = float(found.std(ddof=1)) / found.size**0.5
    half = float(t.ppf(0.5 + confidence / 2, found.size - 1)) * error
    return Interval(mean, mean - half, mean + half)


def holm(p_values: Sequence[float]) -> tuple[float, ...]:
    """P-values adjusted for their number in the given order, Holm 1979.

    Rejecting those <= alpha keeps the chance of any false rejection at alpha.
    """
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    for rank, index in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = highest
    return tuple(adjusted)


def _check_counts(successes: int, trials: int, confidence: float) -> None:
    if not 0 <= successes <= trials:
        raise ValueError(f"{successes} successes of {trials} trials is impossible")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie in (0, 1), got {confidence}")


def _signed_sums(values: np.ndarray) -> np.ndarray:
    """The sums of all ways to sign the values, [2^n], ascending."""
    sums = np.zeros(1)
    for value in values:
        sums = np.concatenate([sums + value, sums - value])
    return np.sort(sums)


def _draw_groups(groups: Sequence[str], resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Indices of the items of as many groups as there are, drawn with replacement, every time."""
    _, group_of = np.unique(np.asarray(groups, dtype=np.str_), return_inverse=True)
    if group_of.size == 0:
        raise ValueError("need at least one item")
    order = np.argsort(group_of, kind="stable")
    members = np.split(order, np.flatnonzero(np.diff(group_of[order])) + 1)
    generator = np.random.default_rng(seed)
    for _ in range(resamples):
        picks = generator.integers(len(members), size=len(members))
        yield np.concatenate([members[pick] for pick in picks])


def _resampled_means(
    values: np.ndarray, resamples: int, generator: np.random.Generator
) -> np.ndarray:
    """Means of `resamples` draws with replacement, in blocks so that memory stays bounded."""
    block = max(1, _BOOTSTRAP_BLOCK // values.size)
    means = np.empty(resamples)
    for start in range(0, resamples, block):
        stop = min(start + block, resamples)
        picks = generator.integers(values.size, size=(stop - start, values.size))
        means[start:stop] = values[picks].mean(axis=1)
    return means
