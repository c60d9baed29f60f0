"""A certificate is taken back on proof, hardly ever without cause, and then less is trusted."""

from dataclasses import replace

import numpy as np
import pytest

from adaptive_moe.config.settings import RouterSettings
from adaptive_moe.router.certificates import (
    Certificate,
    Void,
    certificate_of,
    void_by_errors,
    void_by_strangers,
)
from adaptive_moe.router.router import Router
from adaptive_moe.router.thresholds import risk_threshold, voided_threshold
from tests.router.world import NUMERICS, World, make_evidence, make_trace

PROMISE = Certificate("id", 0.2, 0.7)
VOID = Void("errors", 8, 8, 0.2, 1e4)
ACCURACY = {"a": 0.9, "b": 0.6, "c": 0.75, "d": 0.05}


def test_eight_wrong_answers_of_eight_void_a_risk_of_a_fifth() -> None:
    void = void_by_errors(PROMISE, judged=8, wrong=8)
    assert void is not None
    # The mean of (rate / 0.2)^8 over rates from 0.2 to 1.
    assert void.e_value == pytest.approx(5**8 * (1 - 0.2**9) / 9 / 0.8)
    assert (void.reason, void.counted, void.failures) == ("errors", 8, 8)
    assert "8 of 8 trusted answers that people judged were wrong, more than 20%" in str(void)


@pytest.mark.parametrize(("judged", "wrong"), [(0, 0), (7, 7), (8, 2), (40, 8), (40, 12)])
def test_few_verdicts_or_few_errors_void_nothing(judged: int, wrong: int) -> None:
    assert void_by_errors(PROMISE, judged=judged, wrong=wrong) is None


def test_strangers_void_when_they_are_more_than_twice_as_many_as_at_calibration() -> None:
    assert void_by_strangers(prompts=49, far=49) is None
    assert void_by_strangers(prompts=1000, far=50) is None
    assert void_by_strangers(prompts=1000, far=100) is None
    void = void_by_strangers(prompts=100, far=30)
    assert void is not None
    assert "30 of 100 prompts were far from what the router was calibrated on" in str(void)


def test_a_risk_that_is_kept_is_hardly_ever_taken_back_however_often_one_looks() -> None:
    generator = np.random.default_rng(0)
    streams, length, voided = 200, 100, 0
    for _ in range(streams):
        wrong = np.cumsum(generator.random(length) < PROMISE.target_risk)
        counts = zip(range(1, length + 1), map(int, wrong), strict=True)
        voided += any(
            void_by_errors(PROMISE, judged=judged, wrong=errors) for judged, errors in counts
        )
    assert voided / streams <= 0.05


def test_a_risk_of_twice_the_promise_is_found_out() -> None:
    generator = np.random.default_rng(0)
    found = 0
    for _ in range(100):
        wrong = int((generator.random(150) < 2 * PROMISE.target_risk).sum())
        found += void_by_errors(PROMISE, judged=150, wrong=wrong) is not None
    assert found >= 95


@pytest.mark.parametrize(
    ("fallback", "value", "accepted"),
    # Certified: all 50. The surer half ends at the 25th, 0.99 - 24 * 0.01; 10 are above 0.895.
    [(0.7, 0.75, 25), (0.895, 0.895, 10), (1.0, 1.0, 0)],
)
def test_a_void_threshold_trusts_the_surest_and_promises_nothing(
    fallback: float, value: float, accepted: int
) -> None:
    p, right = np.linspace(0.99, 0.5, 50), np.ones(50)
    certified = risk_threshold(p, right, target_risk=0.2, fallback=0.7)
    assert (certified.certified, certified.value) == (True, 0.5)
    found = voided_threshold(certified, p, right, void=VOID, target_risk=0.2, fallback=fallback)
    assert found.value == pytest.approx(value)
    assert (found.certified, found.accepted, found.errors) == (False, accepted, 0)
    assert (found.risk_bound, found.void) == (None, VOID)
    assert found.explanation.startswith("not certified any more: 8 of 8 trusted answers")


def test_where_all_are_equally_sure_a_void_threshold_trusts_none() -> None:
    p, right = np.full(50, 0.9), np.ones(50)
    certified = risk_threshold(p, right, target_risk=0.2, fallback=0.7)
    found = voided_threshold(certified, p, right, void=VOID, target_risk=0.2, fallback=0.7)
    assert found.value > certified.value == 0.9
    assert found.coverage == 0.0


@pytest.fixture(scope="module")
def router() -> Router:
    rows = World(0).rows(600, accuracy=ACCURACY)
    settings = RouterSettings(target_risk=0.3)
    return Router.fit(rows, base_id="base", numerics=NUMERICS, settings=settings, seed=0)


def test_a_router_without_its_certificate_trusts_less_at_both_decisions(router: Router) -> None:
    lesser = router.voided(VOID)
    for point in ("prefill", "answer"):
        before, after = router.threshold(point=point), lesser.threshold(point=point)
        assert before.certified
        assert not after.certified
        assert after.value > before.value
    assert router.certificate is not None
    assert router.certificate == lesser.certificate
    evidence, traces = make_evidence(World(0).centres["a"], 1.0), make_trace([1.0])
    confidence = replace(router.judge(evidence, traces), p_correct=router.certificate.value)
    assert not router.is_low(confidence)
    assert lesser.is_low(confidence)


def test_no_risk_is_certified_on_labels_that_traffic_left_behind(router: Router) -> None:
    assert router.threshold(target_risk=0.35).certified
    assert router.voided(VOID).threshold(target_risk=0.35).void == VOID
    assert router.voided(VOID).threshold(value=0.9).void is None


def test_other_labels_or_another_risk_begin_anew(router: Router) -> None:
    rows = World(1).rows(600, accuracy=ACCURACY)
    settings = RouterSettings(target_risk=0.3)
    other = Router.fit(rows, base_id="base", numerics=NUMERICS, settings=settings, seed=0)
    looser = router.voided(VOID).with_settings(RouterSettings(target_risk=0.35))
    made = (router.certificate, other.certificate, looser.certificate)
    assert None not in made
    assert len({each.id for each in made if each is not None}) == 3
    assert looser.threshold().certified
    same = router.voided(VOID).with_settings(RouterSettings(target_risk=0.3, max_experts=1))
    assert same.threshold().void == VOID


def test_without_a_target_there_is_no_certificate(router: Router) -> None:
    assert router.with_settings(RouterSettings()).certificate is None
    assert router.with_settings(RouterSettings(target_risk=0.001)).certificate is None


def test_a_certificate_is_bound_to_the_labels_that_it_was_made_of(router: Router) -> None:
    learned = router.model.learned
    assert learned is not None
    split = replace(learned.calibration, correct=1 - learned.calibration.correct)
    other = replace(router.model, learned=replace(learned, calibration=split))
    one, two, same = (
        certificate_of(model, target_risk=0.3, value=0.5)
        for model in (router.model, other, replace(router.model))
    )
    assert one.id != two.id
    assert one == same
