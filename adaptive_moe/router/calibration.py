"""Turns a probe's logits into probabilities that keep their word."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float
from scipy.optimize import minimize, minimize_scalar
from scipy.special import expit, logit

CalibrationKind = Literal["temperature", "sigmoid", "isotonic"]
SIGMOID_FROM = 200
ISOTONIC_ABOVE = 1000
_TEMPERATURES = (-3.0, 3.0)
_SURE = 1e-6
_LEAST_SLOPE = 1e-3


@dataclass(frozen=True, slots=True)
class Calibrator:
    """A rising map from logit to probability, the straight line between (`logits`, `targets`).

    Temperature and sigmoid are the two-point line target = a logit + b, in logits; isotonic is a
    staircase with sloped steps, its targets are logits too and stay level beyond the ends.
    """

    kind: CalibrationKind
    logits: Float[np.ndarray, " knot"]
    targets: Float[np.ndarray, " knot"]

    def probability(self, logits: Float[np.ndarray, " item"]) -> Float[np.ndarray, " item"]:
        """Calibrated probabilities in (0, 1), never exactly 0 or 1."""
        if self.kind == "isotonic":
            moved = np.interp(logits, self.logits, self.targets)
        else:
            (left, right), (low, high) = self.logits, self.targets
            moved = low + (logits - left) * (high - low) / (right - left)
        sure: np.ndarray = np.clip(expit(moved), _SURE, 1 - _SURE)
        return sure


def fit_calibrator(
    logits: Float[np.ndarray, " item"], correct: Float[np.ndarray, " item"]
) -> Calibrator:
    """The calibrator that this many labels can carry.

    Fewer than 200: one temperature (Guo et al. 2017); up to 1,000: a sigmoid with smoothed targets
    (Platt 1999); beyond: isotonic regression (Zadrozny & Elkan 2002). Labels may lie between 0 and
    1, and must not be those the probe was fitted on.
    """
    return CALIBRATIONS[calibration_kind(len(logits))](logits, correct)


def with_prior(p: float, *, usual: float, there: float) -> float:
    """A probability calibrated where the share `usual` is right, for where `there` is.

    The scores must tell right from wrong alike in both places (Saerens et al. 2002). Shares of
    exactly 0 or 1 count as nearly so.
    """
    usual, there = (min(max(share, _SURE), 1 - _SURE) for share in (usual, there))
    return float(expit(logit(p) + logit(there) - logit(usual)))


def calibration_kind(labels: int) -> CalibrationKind:
    """Which calibration is used for this number of labels."""
    if labels < SIGMOID_FROM:
        return "temperature"
    return "sigmoid" if labels <= ISOTONIC_ABOVE else "isotonic"


def fit_temperature(
    logits: Float[np.ndarray, " item"], correct: Float[np.ndarray, " item"]
) -> Calibrator:
    """One temperature between e^-3 and e^3 that makes the labels most likely."""

    def loss(log_temperature: float) -> float:
        return _negative_log_likelihood(logits * np.exp(-log_temperature), correct)

    best = minimize_scalar(loss, bounds=_TEMPERATURES, method="bounded")
    return _line("temperature", float(np.exp(-best.x)), 0.0)


def fit_sigmoid(
    logits: Float[np.ndarray, " item"], correct: Float[np.ndarray, " item"]
) -> Calibrator:
    """A slope and an offset; labels are smoothed towards 1/2 by their number, as Platt does."""
    positives = float(correct.sum())
    negatives = correct.size - positives
    high, low = (positives + 1) / (positives + 2), 1 / (negatives + 2)
    targets = correct * high + (1 - correct) * low

    def loss(line: np.ndarray) -> float:
        return _negative_log_likelihood(line[0] * logits + line[1], targets)

    slope, offset = minimize(loss, np.array([1.0, 0.0]), method="BFGS").x
    # A falling line would turn the ranking over; on such labels only their rate can be stated.
    return _line("sigmoid", max(float(slope), _LEAST_SLOPE), float(offset))


def fit_isotonic(
    logits: Float[np.ndarray, " item"], correct: Float[np.ndarray, " item"]
) -> Calibrator:
    """Pool adjacent violators; levels are kept one pseudo-label away from 0 and 1."""
    from sklearn.isotonic import IsotonicRegression

    fitted = IsotonicRegression(out_of_bounds="clip").fit(logits, correct)
    edge = 1 / (correct.size + 2)
    levels = np.clip(fitted.y_thresholds_.astype(np.float64), edge, 1 - edge)
    return Calibrator("isotonic", fitted.X_thresholds_.astype(np.float64), logit(levels))


CALIBRATIONS: dict[CalibrationKind, Callable[[np.ndarray, np.ndarray], Calibrator]] = {
    "temperature": fit_temperature,
    "sigmoid": fit_sigmoid,
    "isotonic": fit_isotonic,
}
"""Calibrations by name."""


def _line(kind: CalibrationKind, slope: float, offset: float) -> Calibrator:
    return Calibrator(kind, np.array([0.0, 1.0]), np.array([offset, offset + slope]))


def _negative_log_likelihood(logits: np.ndarray, correct: np.ndarray) -> float:
    return float(np.mean(np.logaddexp(0.0, logits) - correct * logits))
