"""Calibrators recover a known distortion and keep the order of what they calibrate."""

import numpy as np
import pytest
from scipy.special import expit, logit

from adaptive_moe.measures.calibration import expected_calibration_error
from adaptive_moe.router.calibration import (
    CALIBRATIONS,
    calibration_kind,
    fit_calibrator,
    fit_isotonic,
    fit_sigmoid,
    fit_temperature,
)


def distorted(count: int, *, slope: float, offset: float) -> tuple[np.ndarray, np.ndarray]:
    """Logits that claim too much: the true log-odds are slope * logit + offset."""
    generator = np.random.default_rng(0)
    logits = generator.normal(0, 3, count)
    correct = generator.random(count) < expit(slope * logits + offset)
    return logits, correct.astype(np.float64)


@pytest.mark.parametrize(
    ("labels", "kind"),
    [
        (2, "temperature"),
        (199, "temperature"),
        (200, "sigmoid"),
        (1000, "sigmoid"),
        (1001, "isotonic"),
    ],
)
def test_kind_by_number_of_labels(labels: int, kind: str) -> None:
    assert calibration_kind(labels) == kind
    logits, correct = distorted(labels, slope=0.5, offset=0)
    assert fit_calibrator(logits, correct).kind == kind


def test_temperature_is_recovered() -> None:
    logits, correct = distorted(20_000, slope=0.4, offset=0)
    said = fit_temperature(logits, correct).probability(np.array([-2.0, 0.0, 2.0]))
    assert said == pytest.approx(expit(np.array([-0.8, 0.0, 0.8])), abs=0.01)


def test_sigmoid_recovers_slope_and_offset() -> None:
    logits, correct = distorted(20_000, slope=0.4, offset=-1)
    said = fit_sigmoid(logits, correct).probability(np.array([-2.0, 0.0, 2.0]))
    assert said == pytest.approx(expit(np.array([-1.8, -1.0, -0.2])), abs=0.01)


def test_sigmoid_smooths_separable_labels_as_platt_does() -> None:
    said = fit_sigmoid(np.array([-1.0, 1.0]), np.array([0.0, 1.0]))
    # One of each: targets (0 + 1) / (1 + 2) and (1 + 1) / (1 + 2), which two points can reach.
    assert said.probability(np.array([-1.0, 1.0])) == pytest.approx([1 / 3, 2 / 3], abs=1e-4)


def test_isotonic_pools_violators_by_hand() -> None:
    logits = np.array([0.0, 1.0, 2.0, 3.0])
    said = fit_isotonic(logits, np.array([0.0, 1.0, 0.0, 1.0]))
    # Levels 0, 1/2, 1/2, 1, kept 1/6 away from certainty; between knots the logits are straight.
    assert said.probability(logits) == pytest.approx([1 / 6, 1 / 2, 1 / 2, 5 / 6])
    middle = expit(logit(1 / 6) / 2)
    assert said.probability(np.array([0.5, -9.0, 9.0])) == pytest.approx([middle, 1 / 6, 5 / 6])


@pytest.mark.parametrize("name", sorted(CALIBRATIONS))
def test_order_is_kept_and_nothing_is_certain(name: str) -> None:
    logits, correct = distorted(3000, slope=0.5, offset=0.5)
    said = CALIBRATIONS[name](logits, correct).probability(np.array([-1e3, -4.0, 0.0, 4.0, 1e3]))
    assert (np.diff(said) >= 0).all()
    assert 0 < said[0] < said[-1] < 1


@pytest.mark.parametrize("name", ["sigmoid", "isotonic"])
def test_labels_against_the_order_never_turn_it_over(name: str) -> None:
    logits, correct = distorted(1500, slope=-1, offset=0)
    said = CALIBRATIONS[name](logits, correct).probability(np.array([-3.0, 3.0]))
    assert said[0] <= said[1]
    assert said == pytest.approx([0.5, 0.5], abs=0.1)


def test_calibration_lowers_the_error_on_new_labels() -> None:
    logits, correct = distorted(6000, slope=0.3, offset=0)
    fitted = fit_calibrator(logits[:200], correct[:200])
    raw = expected_calibration_error(expit(logits[200:]), correct[200:])
    calibrated = expected_calibration_error(fitted.probability(logits[200:]), correct[200:])
    assert raw > 0.1
    assert calibrated < 0.06
