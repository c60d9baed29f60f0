"""The bounds, what a gap's evidence comes to, and who counts."""

import math

import pytest
from scipy import stats

from adaptive_moe.config.settings import GapSettings
from adaptive_moe.gaps.evidence import (
    Member,
    alpha_of,
    failure_bounds,
    is_refuted,
    is_suspicious,
    is_verified,
    weigh,
    within_session_share,
)

SETTINGS = GapSettings()


def member(number, *, correct=None, session="one", p_correct=None, low=True):
    origin = None if correct is None else "grade"
    return Member(number, f"prompt {number}", "?", p_correct, low, session, (), correct, origin)


def outcomes(wrong, right, **more):
    flags = [False] * wrong + [True] * right
    return [member(number, correct=flag, **more) for number, flag in enumerate(flags)]


def test_the_alphas_of_all_clusters_add_up_to_alpha():
    total = sum(alpha_of(order, alpha=0.05) for order in range(1, 2000))

    assert 0.0499 < total < 0.05


@pytest.mark.parametrize(
    ("wrong", "right", "above_half"),
    [(5, 0, True), (4, 0, False), (7, 1, True), (6, 2, False), (9, 1, True), (15, 5, True)],
)
def test_lower_bound_is_that_of_clopper_and_pearson(wrong, right, above_half):
    lower, upper = failure_bounds(wrong, right)
    exact = stats.binomtest(wrong, wrong + right).proportion_ci(0.9, method="exact")

    assert lower == pytest.approx(exact.low)
    assert upper == pytest.approx(exact.high)
    assert (lower > 0.5) is above_half


def test_no_outcome_bounds_nothing():
    assert failure_bounds(0, 0) == (0.0, 1.0)


def test_one_session_gives_at_most_half_unless_it_is_alone():
    members = [member(number, session="loud") for number in range(8)]
    members += [member(8, session="quiet"), member(9, session="other")]

    counted = within_session_share(members, alone=False)

    assert [found.observation_id for found in counted] == [0, 1, 8, 9]
    assert len(within_session_share(members[:8], alone=True)) == 8
    assert within_session_share(members[:8], alone=False) == ()


def test_of_a_loud_session_the_checked_prompts_count_first():
    members = [member(number, session="loud") for number in range(3)]
    members += [member(3, session="loud", correct=False), member(4, session="quiet")]

    counted = within_session_share(members, alone=False)

    assert [found.observation_id for found in counted] == [3, 4]


def test_low_estimates_alone_suspect_but_never_verify():
    figures = weigh(
        [member(number, p_correct=0.01) for number in range(50)],
        confident=0,
        order=1,
        settings=SETTINGS,
    )

    assert is_suspicious(figures, SETTINGS)
    assert not is_verified(figures, SETTINGS)
    assert figures.e_value == pytest.approx(1.0)


def test_eight_wrong_answers_verify():
    figures = weigh(outcomes(8, 0), confident=0, order=1, settings=SETTINGS)

    assert is_verified(figures, SETTINGS)
    assert figures.needed == pytest.approx(math.pi**2 / 6 / 0.05)


def test_later_suspects_need_more():
    few = outcomes(7, 1)

    assert is_verified(weigh(few, confident=0, order=1, settings=SETTINGS), SETTINGS)
    assert not is_verified(weigh(few, confident=0, order=20, settings=SETTINGS), SETTINGS)


def test_confident_prompts_of_the_domain_speak_against_a_gap():
    figures = weigh(outcomes(8, 0), confident=32, order=1, settings=SETTINGS)

    assert not is_suspicious(figures, SETTINGS)
    assert not is_verified(figures, SETTINGS)


def test_confident_prompts_count_in_the_proportion_that_was_checked():
    members = outcomes(4, 0) + [member(number) for number in range(4, 8)]

    figures = weigh(members, confident=3, order=1, settings=SETTINGS)

    assert figures.presumed == pytest.approx(1.5)


def test_mostly_right_answers_refute():
    figures = weigh(outcomes(1, 9), confident=0, order=1, settings=SETTINGS)

    assert is_refuted(figures, SETTINGS)
    assert not is_suspicious(figures, SETTINGS)
