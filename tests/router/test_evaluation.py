"""An evaluation reports true figures, and its controls show when nothing was learned."""

import json
from collections.abc import Sequence

import numpy as np
import pytest

from adaptive_moe.errors import RouterError
from adaptive_moe.measures.calibration import auroc
from adaptive_moe.router.evaluation import RouterReport, evaluate_router
from adaptive_moe.router.evidence import RouterRow
from adaptive_moe.router.router import Router
from tests.router.world import NUMERICS, World

ACCURACY = {"a": 0.85, "b": 0.6, "c": 0.4}


def fit(rows: Sequence[RouterRow]) -> Router:
    return Router.fit(rows, base_id="base", numerics=NUMERICS, seed=0)


def rows_of(seed: int, count: int) -> list[RouterRow]:
    rows = World(seed).rows(count, accuracy=ACCURACY)
    return [
        RouterRow(row.evidence, row.trace, row.correct, row.domain, f"{seed}:{row.source}")
        for row in rows
    ]


@pytest.fixture(scope="module")
def report() -> RouterReport:
    training, test = rows_of(0, 200), rows_of(1, 400)
    return evaluate_router(fit(training), test, seed=0, training=training, fit=fit, resamples=200)


def test_figures_are_those_of_the_measures(report: RouterReport) -> None:
    test = rows_of(1, 400)
    correct = np.array([row.correct for row in test], dtype=float)
    entropy = np.array([row.trace.entropy.mean() for row in test])
    assert report.base_accuracy == pytest.approx(correct.mean())
    assert report.answer.baseline_auroc == pytest.approx(auroc(-entropy, correct))
    assert report.answer.auroc_gain.mean == pytest.approx(
        report.answer.auroc - report.answer.baseline_auroc
    )
    assert report.answer.auroc_gain.low < report.answer.auroc_gain.mean
    assert report.answer.majority == pytest.approx(max(correct.mean(), 1 - correct.mean()))


def test_more_evidence_judges_better(report: RouterReport) -> None:
    assert report.answer.auroc > report.prefill.auroc > 0.7
    assert report.answer.accuracy > report.answer.majority
    coverage = report.answer.coverage_at_risk
    assert coverage["0.1"] <= coverage["0.2"] <= coverage["0.3"]


def test_controls_are_near_chance_where_nothing_can_be_learned(report: RouterReport) -> None:
    assert report.controls is not None
    assert report.controls.permuted_labels_auroc == pytest.approx(0.5, abs=0.1)
    assert report.length_only_auroc == 0.5


def test_every_domain_is_left_out_in_turn(report: RouterReport) -> None:
    assert report.controls is not None
    left_out = {item.domain: item for item in report.controls.left_out}
    assert set(left_out) == {"a", "b", "c"}
    assert all(item.auroc > item.baseline_auroc - 0.05 for item in left_out.values())


def test_the_report_is_plain_json(report: RouterReport) -> None:
    plain = json.loads(json.dumps(report.to_dict()))
    assert plain["metrics"]["auroc"] == report.answer.auroc
    assert plain["metrics"]["ece"] == report.answer.ece
    assert plain["answer"]["curve"][-1][0] == 1.0


def test_shared_sources_and_one_sided_answers_are_refused() -> None:
    training = rows_of(0, 120)
    router = fit(training)
    with pytest.raises(RouterError, match="120 sources stand on both sides"):
        evaluate_router(router, training, seed=0, training=training, fit=fit)
    right = [row for row in rows_of(1, 60) if row.correct]
    with pytest.raises(RouterError, match="nothing can be ranked"):
        evaluate_router(router, right, seed=0)


def test_domains_without_both_kinds_are_named_not_measured() -> None:
    training = rows_of(0, 120)
    test = [row for row in rows_of(1, 150) if row.domain != "a" or row.correct]
    found = evaluate_router(fit(training), test, seed=0, training=training, fit=fit, resamples=20)
    assert found.controls is not None
    assert [item.domain for item in found.controls.left_out] == ["b", "c"]
    assert found.controls.not_measured[0].startswith("domain a:")
