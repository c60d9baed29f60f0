"""Intervals and tests agree with values worked out by hand or by enumeration."""

from itertools import product
from math import comb

import numpy as np
import pytest

from adaptive_moe.measures.statistics import (
    clopper_pearson,
    clopper_pearson_lower,
    clopper_pearson_upper,
    cluster_bootstrap,
    cluster_bootstraps,
    holm,
    least_sign_flip,
    mcnemar,
    paired_bootstrap,
    sign_flip,
    student_interval,
    wilson,
)


def test_exact_upper_limit_of_no_failure_is_the_closed_form() -> None:
    assert clopper_pearson_upper(0, 300) == pytest.approx(1 - 0.05 ** (1 / 300))


def test_exact_lower_limit_of_only_successes_is_the_closed_form() -> None:
    assert clopper_pearson_lower(5, 5) == pytest.approx(0.05 ** (1 / 5))


def test_exact_lower_limit_leaves_alpha_in_the_tail() -> None:
    limit = clopper_pearson_lower(7, 8)
    tail = sum(comb(8, k) * limit**k * (1 - limit) ** (8 - k) for k in (7, 8))
    assert tail == pytest.approx(0.05)


def test_exact_interval_covers_at_least_as_often_as_stated() -> None:
    for rate in (0.03, 0.3, 0.5, 0.81):
        covered = 0.0
        for k in range(13):
            interval = clopper_pearson(k, 12, confidence=0.9)
            if interval.low <= rate <= interval.high:
                covered += comb(12, k) * rate**k * (1 - rate) ** (12 - k)
        assert covered >= 0.9


def test_wilson_of_half_is_symmetric_and_matches_the_formula() -> None:
    interval = wilson(5, 10)
    z = 1.959963984540054
    half = z * (0.25 / 10 + z**2 / 400) ** 0.5 / (1 + z**2 / 10)
    assert interval.low == pytest.approx(0.5 - half)
    assert interval.high == pytest.approx(0.5 + half)


@pytest.mark.parametrize("interval", [wilson(0, 0), clopper_pearson(0, 0)])
def test_no_trial_leaves_everything_possible(interval: object) -> None:
    assert (interval.low, interval.high) == (0.0, 1.0)  # type: ignore[attr-defined]


def test_impossible_counts_are_refused() -> None:
    with pytest.raises(ValueError, match="impossible"):
        wilson(3, 2)


def test_bootstrap_of_two_items_matches_full_enumeration() -> None:
    # Four equally likely resamples of (0, 1): means 0, .5, .5, 1, so the 50 % interval is .25-.75
    # at its quartiles' neighbours: every quantile in (.25, .75) is .5.
    interval = paired_bootstrap([0.0, 1.0], confidence=0.4, resamples=4000, seed=1)
    assert (interval.mean, interval.low, interval.high) == (0.5, 0.5, 0.5)


def test_bootstrap_of_a_large_sample_is_close_to_the_normal_interval() -> None:
    values = np.random.default_rng(0).normal(1.0, 2.0, size=400)
    interval = paired_bootstrap(values, resamples=4000, seed=2)
    error = values.std() / 20
    assert interval.low == pytest.approx(values.mean() - 1.96 * error, abs=0.15 * error)
    assert interval.high == pytest.approx(values.mean() + 1.96 * error, abs=0.15 * error)


def test_bootstrap_repeats_with_its_seed_and_differs_with_another() -> None:
    values = np.arange(7.0)
    first = paired_bootstrap(values, seed=3)
    assert first == paired_bootstrap(values, seed=3)
    assert first != paired_bootstrap(np.arange(7.0) ** 1.1, seed=3)


def test_bootstrap_refuses_nothing_and_not_a_number() -> None:
    for values in ([], [1.0, float("nan")]):
        with pytest.raises(ValueError, match="finite"):
            paired_bootstrap(values, seed=0)


def test_mcnemar_counts_changes_and_enumerates_their_signs() -> None:
    before = [False] * 6 + [True] + [True] * 5
    after = [True] * 6 + [False] + [True] * 5
    result = mcnemar(before, after)
    extreme = sum(min(sum(signs), 7 - sum(signs)) <= 1 for signs in product((0, 1), repeat=7))
    assert (result.gained, result.lost) == (6, 1)
    assert result.p_value == pytest.approx(extreme / 2**7)


def test_mcnemar_without_changes_is_certain_of_nothing() -> None:
    assert mcnemar([True, False], [True, False]).p_value == 1.0


def test_holm_multiplies_the_smallest_by_their_number_and_keeps_the_order() -> None:
    assert holm([0.04, 0.01, 0.03]) == pytest.approx((0.06, 0.03, 0.06))
    assert holm([]) == ()


def test_holm_keeps_the_order_and_never_lowers_a_p_value() -> None:
    p_values = np.random.default_rng(5).uniform(size=30)
    adjusted = np.array(holm(list(p_values)))
    assert (np.diff(adjusted[np.argsort(p_values)]) >= 0).all()
    assert (adjusted >= p_values).all()
    assert adjusted.max() <= 1


def test_signs_of_three_differences_are_flipped_by_hand() -> None:
    # Of +-1 +-2 +-4 the sums are 7, 5, 3, 1 and their opposites: 1 + 2 - 4 = -1 and 4 + 2 - 1 = 5.
    assert sign_flip([1, 2, 4]) == pytest.approx(2 / 8)
    assert sign_flip([-1, 2, 4]) == pytest.approx(4 / 8)
    assert sign_flip([1, 2, -4]) == 1


def test_a_sign_flip_test_enumerates_all_signs() -> None:
    differences = np.random.default_rng(6).normal(0.4, 1, size=9)
    sums = [abs(np.dot(signs, differences)) for signs in product((1, -1), repeat=9)]
    expected = np.mean([found >= abs(differences.sum()) - 1e-12 for found in sums])
    assert sign_flip(differences) == pytest.approx(expected)


def test_the_least_p_of_a_sign_flip_test_is_that_of_differences_on_one_side() -> None:
    assert sign_flip([0.3, 0.1, 0.2, 0.4, 0.2]) == least_sign_flip(5) == 0.0625
    assert sign_flip([0.3]) == least_sign_flip(1) == 1
    assert sign_flip([0.1] * 40) == least_sign_flip(40)


def test_no_difference_at_all_is_certain_of_nothing() -> None:
    assert sign_flip([0, 0, 0, 0, 0, 0]) == 1


def test_a_sign_flip_test_refuses_nothing_and_too_much() -> None:
    for values in ([], [np.nan], [0.1] * 41):
        with pytest.raises(ValueError, match="1 to 40 finite differences"):
            sign_flip(values)


def test_students_interval_of_three_values_is_the_closed_form() -> None:
    # Mean 2, deviation 1, t of two degrees of freedom at .975 is 4.302653.
    interval = student_interval([1, 2, 3])
    assert interval.mean == 2
    assert interval.high == pytest.approx(2 + 4.302653 / 3**0.5)
    assert interval.low == pytest.approx(2 - 4.302653 / 3**0.5)


def test_students_interval_of_one_value_is_endless() -> None:
    interval = student_interval([0.5])
    assert (interval.mean, interval.low, interval.high) == (0.5, -np.inf, np.inf)


def test_cluster_bootstrap_of_single_items_is_the_ordinary_one() -> None:
    values = np.random.default_rng(4).normal(size=60)
    names = [str(index) for index in range(60)]
    clustered = cluster_bootstrap(lambda picks: float(values[picks].mean()), names, seed=1)
    plain = paired_bootstrap(values, seed=1)
    assert clustered.mean == pytest.approx(plain.mean)
    assert clustered.low == pytest.approx(plain.low, abs=0.05)
    assert clustered.high == pytest.approx(plain.high, abs=0.05)


def test_copies_of_an_item_do_not_narrow_a_cluster_bootstrap() -> None:
    values = np.random.default_rng(5).normal(size=30)
    copied = np.repeat(values, 9)
    names = [str(index // 9) for index in range(270)]
    honest = cluster_bootstrap(lambda picks: float(copied[picks].mean()), names, seed=2)
    single = paired_bootstrap(values, seed=2)
    naive = paired_bootstrap(copied, seed=2)
    assert honest.high - honest.low == pytest.approx(single.high - single.low, rel=0.15)
    assert honest.high - honest.low > 2 * (naive.high - naive.low)


def test_draws_without_a_meaning_are_left_out() -> None:
    def share_of_mixed(picks: np.ndarray) -> float:
        return 1.0 if len(set(picks.tolist())) == 2 else float("nan")

    assert cluster_bootstrap(share_of_mixed, ["x", "y"], seed=0).low == 1.0
    with pytest.raises(ValueError, match="no value"):
        cluster_bootstrap(lambda picks: float("nan"), ["x", "y"], resamples=5, seed=0)


def test_several_statistics_share_their_draws() -> None:
    values = np.random.default_rng(5).normal(size=30)
    names = [str(index // 2) for index in range(30)]
    mean, double = cluster_bootstraps(
        lambda picks: np.array([values[picks].mean(), 2 * values[picks].mean()]), names, seed=3
    )
    assert mean == cluster_bootstrap(lambda picks: float(values[picks].mean()), names, seed=3)
    assert double.low == pytest.approx(2 * mean.low)
    assert double.high == pytest.approx(2 * mean.high)
