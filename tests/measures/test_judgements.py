"""All figures at once are those that the single measures give, on every resample."""

import numpy as np
import pytest

from adaptive_moe.measures import calibration
from adaptive_moe.measures.judgements import FIGURES, LESS_IS_BETTER, RISKS, Judgements


def one_by_one(uncertainty: np.ndarray, p: np.ndarray, correct: np.ndarray) -> list[float]:
    """The slow way, in the order of FIGURES."""
    return [
        calibration.auroc(-uncertainty, correct),
        calibration.auprc(uncertainty, 1 - correct),
        calibration.prr(uncertainty, correct),
        calibration.e_aurc(uncertainty, correct),
        *(calibration.coverage_at_risk(uncertainty, correct, risk=risk) for risk in RISKS),
        calibration.expected_calibration_error(p, correct),
        calibration.brier(p, correct),
        float(np.mean((p >= 0.5) == (correct > 0))),
    ]


@pytest.mark.parametrize("items", [2, 7, 14, 61, 200])
def test_figures_are_those_of_the_single_measures_on_any_resample(items: int) -> None:
    generator = np.random.default_rng(items)
    uncertainty = generator.integers(0, 9, items) / 3  # many ties
    p = np.round(generator.random(items), 1)
    correct = (generator.random(items) < p).astype(float)
    correct[:2] = 0, 1
    judgements = Judgements.of(uncertainty, p, correct)
    assert judgements.figures() == pytest.approx(one_by_one(uncertainty, p, correct))
    for _ in range(20):
        picks = generator.integers(items, size=generator.integers(2, 2 * items + 1))
        drawn = [values[picks] for values in (uncertainty, p, correct)]
        if np.unique(drawn[2]).size == 2:
            assert judgements.figures(picks) == pytest.approx(one_by_one(*drawn))


def test_every_figure_by_hand() -> None:
    found = Judgements.of([0.1, 0.2, 0.3, 0.4], [0.9, 0.8, 0.7, 0.6], [1, 0, 1, 0]).figures()
    figures = dict(zip(FIGURES, found, strict=True))
    assert figures["auroc"] == pytest.approx(3 / 4)
    assert figures["auprc"] == pytest.approx((1 + 2 / 3) / 2)
    # Risks 0, 1/2, 1/3, 1/2 against the perfect 0, 0, 1/3, 1/2.
    assert figures["e_aurc"] == pytest.approx(1 / 8)
    # Rejecting up to a half keeps 2, 3, 4: chance 1/2 less those risks.
    assert figures["prr"] == pytest.approx((0 + 1 / 6 + 0) / (1 / 2 + 1 / 6 + 0))
    assert [figures[f"coverage_at_risk_{risk:g}"] for risk in RISKS] == [0.25, 0.25, 0.25]
    assert figures["ece"] == pytest.approx((0.1 + 0.8 + 0.3 + 0.6) / 4)
    assert figures["brier"] == pytest.approx((0.01 + 0.64 + 0.09 + 0.36) / 4)
    assert figures["accuracy"] == 0.5


def test_the_entropy_ranks_and_its_probabilities_keep_their_word() -> None:
    # The probabilities tie everything, so only the uncertainty can rank.
    figures = Judgements.of([1.0, 2.0, 3.0, 4.0], [0.5] * 4, [1, 1, 0, 0]).figures()
    assert figures[FIGURES.index("auroc")] == 1.0
    assert figures[FIGURES.index("ece")] == 0.0


def test_one_sided_items_have_no_figures() -> None:
    judgements = Judgements.of([0.1, 0.2, 0.3], [0.9, 0.8, 0.7], [1, 1, 0])
    assert np.isnan(judgements.figures(np.array([0, 1, 1]))).all()
    assert np.isnan(judgements.figures(np.array([2, 2]))).all()


def test_less_is_better_names_figures() -> None:
    assert set(LESS_IS_BETTER) < set(FIGURES)
