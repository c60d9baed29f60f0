"""Calibration and ranking measures agree with values worked out by hand or by a slow loop."""

import numpy as np
import pytest

from adaptive_moe.measures.calibration import (
    auprc,
    auroc,
    brier,
    coverage_at_risk,
    e_aurc,
    expected_calibration_error,
    prr,
    reliability_bins,
    risk_coverage,
)


def test_calibration_error_of_two_bins_by_hand() -> None:
    said = [0.1, 0.3, 0.8, 0.8]
    right = [0, 1, 1, 1]
    # Bins: (.2 said, .5 true) and (.8 said, 1 true): (.3 + .2) / 2.
    assert expected_calibration_error(said, right, bins=2) == pytest.approx(0.25)


def test_bins_hold_equal_mass_and_split_ties_evenly() -> None:
    parts = reliability_bins([0.5] * 4, [1, 1, 0, 0], bins=2)
    assert [(part.count, part.accuracy) for part in parts] == [(2, 0.5), (2, 0.5)]


def test_the_usual_bins_are_fifteen_of_equal_mass() -> None:
    # 33 items: the first three bins hold 3, the others 2; item i is said to be i/100.
    parts = reliability_bins([index / 100 for index in range(33)], [1, 0, 0] * 3 + [1, 0] * 12)
    assert [part.count for part in parts] == [3, 3, 3] + [2] * 12
    assert [part.accuracy for part in parts] == pytest.approx([1 / 3] * 3 + [1 / 2] * 12)
    assert [part.mean_probability for part in parts[:4]] == pytest.approx([0.01, 0.04, 0.07, 0.095])


def test_calibration_error_of_the_usual_bins_by_hand() -> None:
    # Fifteen pairs said to be k/15, half of each right: the sum of |1/2 - k/15| is 56.5/15.
    said = [k / 15 for k in range(15) for _ in range(2)]
    assert expected_calibration_error(said, [1, 0] * 15) == pytest.approx(56.5 / 15 / 15)


def test_fewer_items_than_bins_stand_alone() -> None:
    parts = reliability_bins([0.9, 0.1], [1, 0])
    assert [(part.count, part.mean_probability, part.accuracy) for part in parts] == [
        (1, 0.1, 0.0),
        (1, 0.9, 1.0),
    ]


def test_brier_of_half_is_a_quarter() -> None:
    assert brier([0.5, 0.5, 0.5], [1, 0, 1]) == pytest.approx(0.25)
    assert brier([1.0, 0.0], [1, 0]) == 0.0


def test_auroc_equals_the_loop_over_pairs() -> None:
    generator = np.random.default_rng(0)
    scores = generator.integers(0, 6, size=40).astype(float)
    positive = generator.random(40) < 0.4
    pairs = [(p > n) + 0.5 * (p == n) for p in scores[positive] for n in scores[~positive]]
    assert auroc(scores, positive) == pytest.approx(np.mean(pairs))


def test_auroc_knows_its_orientation() -> None:
    assert auroc([0.9, 0.8, 0.1], [1, 1, 0]) == 1.0
    assert auroc([0.1, 0.2, 0.9], [1, 1, 0]) == 0.0


def test_auprc_by_hand() -> None:
    # Falling scores: positive, negative, positive: (1/1 + 2/3) / 2.
    assert auprc([3.0, 2.0, 1.0], [1, 0, 1]) == pytest.approx(5 / 6)
    assert auprc([1.0, 1.0, 1.0, 1.0], [1, 0, 0, 0]) == pytest.approx(0.25)


def test_risk_coverage_by_hand() -> None:
    curve = risk_coverage([0.1, 0.2, 0.3, 0.4], [1, 0, 1, 0])
    assert curve.coverage.tolist() == [0.25, 0.5, 0.75, 1.0]
    assert curve.risk == pytest.approx([0, 0.5, 1 / 3, 0.5])


def test_coverage_at_risk_takes_the_largest_allowed_share() -> None:
    assert coverage_at_risk([0.1, 0.2, 0.3, 0.4], [1, 0, 1, 0], risk=0.34) == 0.75
    assert coverage_at_risk([0.1, 0.2, 0.3], [0, 0, 1], risk=0.1) == 0.0


def test_coverage_never_cuts_through_a_tie() -> None:
    assert coverage_at_risk([0.1, 0.2, 0.2], [1, 1, 0], risk=0.3) == pytest.approx(1 / 3)


def test_excess_area_is_zero_for_a_perfect_ranking_and_by_hand_otherwise() -> None:
    assert e_aurc([0.1, 0.2, 0.9], [1, 1, 0]) == pytest.approx(0)
    # Risks 1, 1/2, 1/3 against the perfect 0, 0, 1/3.
    assert e_aurc([0.9, 0.8, 0.1], [1, 1, 0]) == pytest.approx(0.5)


def test_rejection_ratio_of_perfect_constant_and_reversed_rankings() -> None:
    right = [1, 1, 1, 0]
    assert prr([1, 2, 3, 4], right) == pytest.approx(1)
    assert prr([1, 1, 1, 1], right) == pytest.approx(0)
    # Keeping 2, 3, 4 of them: accuracy 1/2, 2/3, 3/4 against 3/4 by chance and 1, 1, 3/4 at best.
    assert prr([4, 3, 2, 1], right) == pytest.approx((-1 / 4 - 1 / 12) / (1 / 4 + 1 / 4))


def test_order_of_items_does_not_matter() -> None:
    generator = np.random.default_rng(1)
    uncertainty = generator.integers(0, 4, size=30).astype(float)
    right = generator.random(30) < 0.6
    mixed = generator.permutation(30)
    for measure in (auroc, auprc, e_aurc, prr):
        assert measure(uncertainty, right) == pytest.approx(
            measure(uncertainty[mixed], right[mixed])
        )


@pytest.mark.parametrize("measure", [auroc, auprc, prr])
def test_one_sided_labels_are_refused_with_counts(measure: object) -> None:
    with pytest.raises(ValueError, match="3 positive and 0 negative"):
        measure([0.1, 0.2, 0.3], [1, 1, 1])  # type: ignore[operator]


def test_unpaired_and_unfinite_input_is_refused() -> None:
    with pytest.raises(ValueError, match="paired"):
        brier([0.1], [1, 0])
    with pytest.raises(ValueError, match="finite"):
        auroc([float("nan"), 0.1], [1, 0])
