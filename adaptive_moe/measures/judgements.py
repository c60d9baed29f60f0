"""Every figure of how answers were judged, all at once and for any resample of the answers.

The same figures as in `calibration`, which stay the reference; here the answers are sorted once, so
that thousands of resamples take seconds.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

RISKS = (0.1, 0.2, 0.3)
FIGURES = (
    "auroc",
    "auprc",
    "prr",
    "e_aurc",
    *(f"coverage_at_risk_{risk:g}" for risk in RISKS),
    "ece",
    "brier",
    "accuracy",
)
"""Names of the figures, in the order of `Judgements.figures`.

auroc ranks right above wrong, auprc finds the wrong ones, prr rejects up to a half, accuracy is the
share of right verdicts at p >= 0.5.
"""
LESS_IS_BETTER = ("e_aurc", "ece", "brier")
_BINS = 15


@dataclass(frozen=True, slots=True)
class Judgements:
    """How sure a judge was of every answer, and which answers were right.

    `uncertainty` (any real number, higher = less sure) ranks the answers, the probabilities of
    being right are held to their word. They may come from different places: an entropy ranks, and
    what it was calibrated to is held to its word.
    """

    _uncertainty: "_Ties"
    _probabilities: "_Ties"
    _correct: np.ndarray

    @classmethod
    def of(
        cls, uncertainty: ArrayLike, probabilities: ArrayLike, correct: ArrayLike
    ) -> "Judgements":
        """Sorted once; all three are [item]."""
        came_true = np.asarray(correct, dtype=np.float64)
        return cls(_Ties.of(uncertainty), _Ties.of(probabilities), came_true)

    def figures(self, picks: np.ndarray | None = None) -> np.ndarray:
        """The values of `FIGURES`, [figure], on all items or on those at `picks`, repeats included.

        All nan where every item is right or every item wrong.
        """
        if picks is None:
            picks = np.arange(self._correct.size)
        came_true = self._correct[picks]
        if came_true.min() == came_true.max():
            return np.full(len(FIGURES), np.nan)
        _, count, right = self._uncertainty.tally(picks, came_true)
        said, count_said, right_said = self._probabilities.tally(picks, came_true)
        return np.array([*_ranking(count, right), *_calibration(said, count_said, right_said)])


@dataclass(frozen=True, slots=True)
class _Ties:
    """Items in groups of equal value; groups rise by value."""

    values: np.ndarray
    of_item: np.ndarray

    @classmethod
    def of(cls, values: ArrayLike) -> "_Ties":
        return cls(*np.unique(np.asarray(values, dtype=np.float64), return_inverse=True))

    def tally(
        self, picks: np.ndarray, came_true: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Value, number of picked items, and number of right ones of every group that has any."""
        group = self.of_item[picks]
        count = np.bincount(group, minlength=self.values.size)
        right = np.bincount(group, weights=came_true, minlength=self.values.size)
        held = count > 0
        return self.values[held], count[held], right[held]


def _ranking(count: np.ndarray, right: np.ndarray) -> tuple[float, ...]:
    """AUROC, AUPRC, PRR, E-AURC and the coverages, from the surest group of ties to the least."""
    wrong = count - right
    items, rights, wrongs = int(count.sum()), right.sum(), wrong.sum()
    less_sure = wrongs - np.cumsum(wrong) + wrong / 2
    found, looked_at = np.cumsum(wrong[::-1]), np.cumsum(count[::-1])
    answered = np.arange(1, items + 1)
    risk = np.cumsum(np.repeat(wrong / count, count)) / answered
    best = np.maximum(answered - rights, 0) / answered
    half = slice(max(0, math.ceil(items / 2) - 1), None)
    return (
        float((right * less_sure).sum() / (rights * wrongs)),
        float((wrong[::-1] * found / looked_at).sum() / wrongs),
        float((wrongs / items - risk[half]).sum() / (wrongs / items - best[half]).sum()),
        float(risk.mean() - best.mean()),
        *_coverages(risk, np.cumsum(count)),
    )


def _coverages(risk: np.ndarray, ends: np.ndarray) -> list[float]:
    """Coverage at every risk of `RISKS`; a threshold cannot cut through a tie."""
    return [
        float(ends[risk[ends - 1] <= allowed + 1e-12].max(initial=0) / risk.size)
        for allowed in RISKS
    ]


def _calibration(
    said: np.ndarray, count: np.ndarray, right: np.ndarray
) -> tuple[float, float, float]:
    """ECE over 15 bins of equal mass, Brier score, and the share of right verdicts."""
    items = int(count.sum())
    bins = min(_BINS, items)
    sizes = np.full(bins, items // bins)
    sizes[: items % bins] += 1
    surplus = np.repeat(right / count - said, count)
    gaps = np.add.reduceat(surplus, np.cumsum(sizes) - sizes)
    wrong = count - right
    return (
        float(np.abs(gaps).sum() / items),
        float((right * (1 - said) ** 2 + wrong * said**2).sum() / items),
        float(np.where(said >= 1 / 2, right, wrong).sum() / items),
    )
