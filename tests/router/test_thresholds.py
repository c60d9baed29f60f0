"""Thresholds say what they promise, and a certified risk is kept as often as promised."""

import numpy as np
import pytest

from adaptive_moe.measures.statistics import clopper_pearson_upper
from adaptive_moe.router.thresholds import (
    Threshold,
    cost_threshold,
    coverage_threshold,
    first_set_size,
    fixed_threshold,
    risk_threshold,
)


def test_a_fixed_threshold_promises_nothing() -> None:
    threshold = fixed_threshold(0.7)
    assert (threshold.value, threshold.certified) == (0.7, False)


@pytest.mark.parametrize(("coverage", "value"), [(0.2, 0.9), (0.4, 0.8), (1.0, 0.5), (0.5, 0.7)])
def test_coverage_is_a_quantile(coverage: float, value: float) -> None:
    threshold = coverage_threshold(np.array([0.5, 0.9, 0.7, 0.8, 0.6]), coverage=coverage)
    assert threshold.value == value
    assert threshold.coverage is not None
    assert threshold.coverage >= coverage


RANKED = np.array([0.9, 0.8, 0.8, 0.6, 0.4])
RIGHT = np.array([1.0, 1.0, 0.0, 1.0, 0.0])


@pytest.mark.parametrize(
    ("error_cost", "value", "errors", "each"),
    [
        # Costs of trusting 0, 1, 3, 4 and 5 of them: 5, 4, c + 2, c + 1 and 2 c.
        (0.5, 0.4, 2, 0.2),
        (1.0, 0.4, 2, 0.4),
        (2.0, 0.6, 1, 0.6),
        (3.5, 0.9, 0, 0.8),
    ],
)
def test_cost_is_least_on_the_labels(
    error_cost: float, value: float, errors: int, each: float
) -> None:
    found = cost_threshold(RANKED, RIGHT, error_cost=error_cost)
    assert (found.kind, found.value, found.errors) == ("cost", value, errors)
    assert f"{each:.3f} each" in found.explanation
    assert not found.certified


def test_where_every_answer_is_too_costly_none_is_trusted() -> None:
    found = cost_threshold(RANKED, np.zeros(5), error_cost=2.0)
    assert (found.accepted, found.coverage) == (0, 0.0)
    assert not (found.value <= RANKED).any()


def test_with_calibrated_probabilities_cost_chooses_chows_value() -> None:
    generator = np.random.default_rng(0)
    p = generator.random(20_000)
    right = (generator.random(20_000) < p).astype(np.float64)
    assert cost_threshold(p, right, error_cost=5.0).value == pytest.approx(0.8, abs=0.03)


@pytest.mark.parametrize("error_cost", [0.0, -1.0, float("nan"), float("inf")])
def test_impossible_costs_are_refused(error_cost: float) -> None:
    with pytest.raises(ValueError, match="cost"):
        cost_threshold(RANKED, RIGHT, error_cost=error_cost)


def test_first_set_has_three_times_the_fewest_labels() -> None:
    # 0.8^10 = 0.107 > 0.1 >= 0.8^11.
    assert first_set_size(0.2) == 33


def test_without_errors_everything_is_certified() -> None:
    p = np.linspace(0.99, 0.5, 50)
    threshold = risk_threshold(p, np.ones(50), target_risk=0.2, fallback=0.7)
    assert threshold.certified
    assert (threshold.value, threshold.accepted, threshold.coverage) == (0.5, 50, 1.0)
    assert threshold.risk_bound == pytest.approx(clopper_pearson_upper(0, 50, confidence=0.9))


def test_the_sequence_stops_at_the_first_set_that_fails() -> None:
    p = np.linspace(0.999, 0.001, 400)
    correct = (np.arange(400) < 150).astype(np.float64)
    threshold = risk_threshold(p, correct, target_risk=0.2, fallback=0.7)
    assert threshold.certified
    assert 150 <= threshold.accepted < 190
    assert threshold.risk_bound is not None
    assert threshold.risk_bound <= 0.2


def test_ties_are_accepted_whole() -> None:
    p = np.full(40, 0.9)
    correct = np.ones(40)
    correct[-2:] = 0
    threshold = risk_threshold(p, correct, target_risk=0.2, fallback=0.7)
    assert (threshold.accepted, threshold.errors) == (40, 2)
    assert np.mean(p >= threshold.value) == 1.0


def test_too_few_labels_say_how_many_more() -> None:
    threshold = risk_threshold(np.full(10, 0.9), np.ones(10), target_risk=0.2, fallback=0.7)
    assert not threshold.certified
    assert threshold.value == 0.7
    assert threshold.labels_needed == 33 - 10
    assert "23 more labels needed" in threshold.explanation


def test_the_labels_asked_for_do_certify_when_errors_go_on_alike() -> None:
    def choose(labels: int) -> Threshold:
        correct = np.arange(labels) % 8 != 0
        correct[2 * labels // 5 :] = False
        p = np.linspace(0.99, 0.01, labels)
        return risk_threshold(p, correct.astype(np.float64), target_risk=0.2, fallback=0.7)

    few = choose(100)
    assert not few.certified
    assert few.labels_needed is not None
    assert choose(100 + few.labels_needed).certified


def test_a_router_that_is_wrong_at_its_surest_is_not_helped_by_labels() -> None:
    correct = np.arange(100) % 2
    threshold = risk_threshold(
        np.linspace(1, 0, 100), correct.astype(float), target_risk=0.2, fallback=0.7
    )
    assert threshold.labels_needed is None
    assert "better router" in threshold.explanation


@pytest.mark.parametrize("target", [0.2, 0.3])
def test_certified_risks_hold_in_nine_of_ten_draws(target: float) -> None:
    generator = np.random.default_rng(0)
    kept, certified = 0, 0
    for _ in range(300):
        p = generator.beta(2, 1.2, size=300)
        correct = (generator.random(300) < p).astype(np.float64)
        threshold = risk_threshold(p, correct, target_risk=target, fallback=0.7)
        if threshold.certified:
            certified += 1
            everyone = np.linspace(0.0005, 0.9995, 2000)
            density = everyone * (1 - everyone) ** 0.2
            trusted = everyone >= threshold.value
            risk = np.average(1 - everyone[trusted], weights=density[trusted])
            kept += risk <= target
    assert certified > 200
    assert kept / certified >= 0.9
