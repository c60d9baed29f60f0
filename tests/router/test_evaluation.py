"""An evaluation reports true figures, and its controls show when nothing was learned."""

import json
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from adaptive_moe.errors import RouterError
from adaptive_moe.measures.calibration import auroc, brier, coverage_at_risk, prr
from adaptive_moe.measures.judgements import FIGURES
from adaptive_moe.router.evaluation import RouterReport, evaluate_router
from adaptive_moe.router.evidence import RouterRow
from adaptive_moe.router.router import Router
from tests.router.world import NUMERICS, World

ACCURACY = {"a": 0.85, "b": 0.6, "c": 0.4}


def fit(rows: Sequence[RouterRow]) -> Router:
    return Router.fit(rows, base_id="base", numerics=NUMERICS, seed=0)


def rows_of(seed: int, count: int) -> list[RouterRow]:
    """Every question has words of its own."""
    return [
        replace(
            row,
            evidence=replace(row.evidence, text=f"question {index} of {seed}"),
            source=f"{seed}:{row.source}",
        )
        for index, row in enumerate(World(seed).rows(count, accuracy=ACCURACY))
    ]


@pytest.fixture(scope="module")
def router() -> Router:
    return fit(rows_of(0, 200))


@pytest.fixture(scope="module")
def report(router: Router) -> RouterReport:
    training, test = rows_of(0, 200), rows_of(1, 400)
    return evaluate_router(router, test, seed=0, training=training, fit=fit, resamples=200)


def test_figures_are_those_of_the_measures(router: Router, report: RouterReport) -> None:
    test = rows_of(1, 400)
    correct = np.array([row.correct for row in test], dtype=float)
    entropy = np.array([row.trace.entropy.mean() for row in test])
    evidence, traces = [row.evidence for row in test], [row.trace for row in test]
    p = router.model.answer_probabilities(evidence, traces)
    found = report.answer.figures
    assert tuple(found) == tuple(report.prefill.figures) == FIGURES
    assert report.base_accuracy == pytest.approx(correct.mean())
    assert report.majority == pytest.approx(max(correct.mean(), 1 - correct.mean()))
    assert found["auroc"].router == pytest.approx(auroc(p, correct))
    assert found["auroc"].entropy == pytest.approx(auroc(-entropy, correct))
    assert found["prr"].entropy == pytest.approx(prr(entropy, correct))
    assert found["brier"].router == pytest.approx(brier(p, correct))
    assert found["coverage_at_risk_0.2"].router == coverage_at_risk(1 - p, correct, risk=0.2)


def test_entropy_before_decoding_is_that_of_the_first_token(report: RouterReport) -> None:
    test = rows_of(1, 400)
    correct = np.array([row.correct for row in test], dtype=float)
    entropy = np.array([row.evidence.scores["first_token_entropy"] for row in test])
    assert report.prefill.figures["auroc"].entropy == pytest.approx(auroc(-entropy, correct))


def test_every_figure_differs_from_that_of_entropy_by_its_gain(report: RouterReport) -> None:
    for point in (report.prefill, report.answer):
        for figure in point.figures.values():
            assert figure.gain.mean == pytest.approx(figure.router - figure.entropy)
            assert figure.gain.low <= figure.gain.high
        assert point.figures["auroc"].gain.low < point.figures["auroc"].gain.mean


def test_entropy_is_calibrated_where_a_probability_is_needed(report: RouterReport) -> None:
    # Always saying how often the base is right gives a Brier score of q (1 - q).
    chance = report.base_accuracy * (1 - report.base_accuracy)
    for point in (report.prefill, report.answer):
        assert point.figures["brier"].entropy < chance
        assert point.figures["ece"].entropy < 0.15


def test_more_evidence_judges_better(report: RouterReport) -> None:
    before, after = report.prefill.numbers(), report.answer.numbers()
    assert after["auroc"] > before["auroc"] > 0.7
    assert after["accuracy"] > report.majority
    coverage = [after[f"coverage_at_risk_{risk}"] for risk in ("0.1", "0.2", "0.3")]
    assert coverage == sorted(coverage)


def test_drawings_have_what_they_need(report: RouterReport) -> None:
    for point in (report.prefill, report.answer):
        assert len(point.reliability) == 15
        assert sum(part.count for part in point.reliability) == 400
        assert sum(right for right, _ in point.histogram) == round(400 * report.base_accuracy)
        assert sum(right + wrong for right, wrong in point.histogram) == 400
        for curve in (point.curve, point.entropy_curve):
            assert curve[-1] == pytest.approx((1.0, 1 - report.base_accuracy))


def test_the_cost_is_that_of_one_prompt_at_a_time(router: Router) -> None:
    ticks = iter([10.0, 10.5])
    found = evaluate_router(router, rows_of(1, 60), seed=0, resamples=5, clock=lambda: next(ticks))
    assert found.milliseconds_per_prompt == pytest.approx(500 / 50)


def test_controls_are_near_chance_where_nothing_can_be_learned(report: RouterReport) -> None:
    assert report.controls.permuted_labels_auroc == pytest.approx(0.5, abs=0.1)
    assert report.length_only_auroc == 0.5
    assert report.controls.not_measured == ()


def test_permuted_labels_show_questions_that_leak() -> None:
    training = [replace(row, domain=None) for row in rows_of(0, 60)]
    leaked = [replace(row, source=f"other {row.source}") for row in training]
    fresh = [replace(row, domain=None) for row in rows_of(50, 60)]
    router = fit(training)
    with_leak, without = (
        evaluate_router(router, test, seed=0, training=training, fit=fit, resamples=5).controls
        for test in (leaked, fresh)
    )
    assert with_leak.permuted_labels_auroc is not None
    assert without.permuted_labels_auroc is not None
    assert with_leak.permuted_labels_auroc > without.permuted_labels_auroc + 0.1


def test_every_domain_is_left_out_in_turn(report: RouterReport) -> None:
    controls = report.controls
    assert [item.domain for item in controls.left_out] == ["a", "b", "c"]
    gains = [item.auroc - item.entropy_auroc for item in controls.left_out]
    assert min(gains) > -0.05
    assert controls.left_out_gain is not None
    assert controls.left_out_gain.mean == pytest.approx(np.mean(gains))


def test_domains_are_left_out_of_the_fit_and_their_gains_averaged(router: Router) -> None:
    seen: list[set[str | None]] = []

    def watched(rows: Sequence[RouterRow]) -> Router:
        seen.append({row.domain for row in rows})
        return router

    training, told = rows_of(0, 90), []
    controls = evaluate_router(
        router, rows_of(1, 90), seed=0, training=training, fit=watched, resamples=50,
        tell=told.append,
    ).controls  # fmt: skip
    assert seen == [{"b", "c"}, {"a", "c"}, {"a", "b"}, {"a", "b", "c"}]
    assert "fitting without b (2 of 3 domains)" in told
    gain = controls.left_out_gain
    assert gain is not None
    assert gain.mean == pytest.approx(
        np.mean([item.auroc - item.entropy_auroc for item in controls.left_out])
    )
    assert gain.low < gain.mean < gain.high


def test_without_the_training_the_report_says_what_to_give(router: Router) -> None:
    found = evaluate_router(router, rows_of(1, 60), seed=0, fit=fit, resamples=5).controls
    assert (found.permuted_labels_auroc, found.left_out, found.left_out_gain) == (None, (), None)
    assert "--training FILE" in found.not_measured[0]


def test_the_report_is_plain_json(report: RouterReport) -> None:
    plain = json.loads(json.dumps(report.to_dict()))
    figures = plain["answer"]["figures"]
    assert plain["metrics"]["auroc"] == figures["auroc"]["router"]
    assert plain["metrics"]["ece"] == figures["ece"]["router"]
    assert set(figures["auroc"]["gain"]) == {"mean", "low", "high"}
    assert plain["answer"]["curve"][-1][0] == 1.0


def test_shared_sources_and_one_sided_answers_are_refused(router: Router) -> None:
    training = rows_of(0, 200)
    with pytest.raises(RouterError, match="200 sources stand in both"):
        evaluate_router(router, training, seed=0, training=training, fit=fit)
    right = [row for row in rows_of(1, 60) if row.correct]
    with pytest.raises(RouterError, match="nothing can be ranked"):
        evaluate_router(router, right, seed=0)


def test_an_untrained_router_cannot_be_measured() -> None:
    states = np.random.default_rng(0).normal(size=(40, 24)).astype(np.float32)
    entropies = {"first_token_entropy": [0.1, 1.0], "mean_entropy": [0.1, 1.0]}
    untrained = Router.untrained(entropies, background=states, base_id="base", numerics=NUMERICS)
    with pytest.raises(RouterError, match="fit it first"):
        evaluate_router(untrained, rows_of(1, 60), seed=0)


def test_domains_that_cannot_be_judged_are_named_with_the_reason() -> None:
    training = rows_of(0, 120)
    test = [row for row in rows_of(1, 150) if row.domain != "a" or row.correct]
    few = [row for row in test if row.domain == "c"][:9]
    test = [row for row in test if row.domain != "c"] + few
    found = evaluate_router(fit(training), test, seed=0, training=training, fit=fit, resamples=20)
    assert [item.domain for item in found.controls.left_out] == ["b"]
    without_a, without_c = found.controls.not_measured
    assert without_a.startswith("without a: ")
    assert "are right, so nothing can be ranked" in without_a
    assert without_c == "without c: 9 test questions, at least 20 are needed"


def test_questions_without_domains_leave_none_out() -> None:
    training = [replace(row, domain=None) for row in rows_of(0, 120)]
    test = [replace(row, domain=None) for row in rows_of(1, 60)]
    found = evaluate_router(fit(training), test, seed=0, training=training, fit=fit, resamples=5)
    assert found.controls.left_out == ()
    assert found.controls.not_measured == ("leave-one-domain-out: no question names its domain",)
    assert found.controls.permuted_labels_auroc is not None
