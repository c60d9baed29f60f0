"""The e-value is what it is called, and keeps its word on average."""

import math

import pytest
from scipy import integrate, stats

from adaptive_moe.measures.sequential import e_value


@pytest.mark.parametrize(
    ("failures", "successes"), [(0, 0), (1, 0), (0, 1), (5, 0), (7, 1), (3.4, 1.6), (20, 30)]
)
def test_e_value_is_the_likelihood_ratio_averaged_over_the_alternative(failures, successes):
    def ratio(rate):
        return (rate / 0.3) ** failures * ((1 - rate) / 0.7) ** successes / 0.7

    expected, _ = integrate.quad(ratio, 0.3, 1.0)

    assert e_value(failures, successes, failure_rate=0.3) == pytest.approx(expected, rel=1e-6)


def test_e_value_is_one_on_average_at_the_null_rate():
    trials = 12
    mean = sum(
        stats.binom.pmf(failures, trials, 0.3)
        * e_value(failures, trials - failures, failure_rate=0.3)
        for failures in range(trials + 1)
    )

    assert mean == pytest.approx(1.0)


def test_e_value_survives_extreme_counts_and_rates():
    assert e_value(0, 100_000, failure_rate=0.3) == pytest.approx(0.0, abs=1e-9)
    assert math.isfinite(e_value(100_000, 0, failure_rate=0.3))
    assert e_value(1, 0, failure_rate=0.0) > 1.0
    assert e_value(0, 1, failure_rate=1.0) >= 0.0
