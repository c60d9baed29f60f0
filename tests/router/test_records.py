"""An expert's record begins with the gate and goes on with what people say."""

from dataclasses import replace

import numpy as np
import pytest

from adaptive_moe.router.records import nearest_cluster, success_rate
from adaptive_moe.router.router import Router
from tests.router.test_router import arm, centre, fit
from tests.router.world import World, make_evidence


@pytest.mark.parametrize(
    ("gate", "judged", "cluster", "rate"),
    [
        ((0, 0), [], None, 0.5),
        ((18, 18), [], None, 19 / 20),
        ((17, 18), [(10.0, 0.0)], None, 18 / 30),  # a prior of 18 in 20, then ten wrong
        ((89, 98), [(20.0, 20.0)], 0, (0.9 * 20 + 20) / 40),  # a gate weighs as 20 at most
        ((0, 0), [(6.0, 6.0)], 0, 7 / 8),  # without trials as 2
        ((17, 18), [(10.0, 0.0), (4.0, 3.5)], None, 21.5 / 34),
        ((17, 18), [(10.0, 0.0), (4.0, 3.5)], 0, (18 + 1.75) / (20 + 10 + 2)),
        ((17, 18), [(10.0, 0.0), (4.0, 3.5)], 1, (18 + 3.5) / (20 + 5 + 4)),
    ],
)
def test_the_rate_is_the_gates_moved_by_judged_answers(gate, judged, cluster, rate):
    assert success_rate(*gate, judged=judged, cluster=cluster) == pytest.approx(rate)


def test_the_nearest_centroid_names_the_cluster():
    centroids = np.array([[0.0, 0.0], [3.0, 0.0], [0.0, 3.0]], dtype=np.float32)
    assert nearest_cluster(centroids, np.array([1.0, 2.5], dtype=np.float32)) == 2


@pytest.fixture(scope="module")
def router() -> Router:
    return fit(World(0), 400)


def said(expert, answers, right=0.0, *, place=None):
    """The arm after so many verdicts, near its `place`-th centroid or near none."""
    judged = [(0.0, 0.0)] * (len(expert.domain.centroids) + 1)
    judged[-1 if place is None else place] = (answers, right)
    return replace(expert, judged=tuple(judged))


def test_an_expert_that_people_mark_wrong_gives_way_to_another_one(router):
    prompt = make_evidence(centre("g"), 3.0)
    first, second = arm(router, "g", name="first", rate=0.95), arm(router, "g", name="second")
    second = replace(second, successes=60)
    assert router.decide(prompt, [first, second]).experts[0][0] == "first"
    decision = router.decide(prompt, [said(first, 60.0), second])
    assert decision.experts == (("second", 1, 1.0),)


def test_an_expert_that_people_mark_wrong_gives_way_to_the_base(router):
    prompt, expert = make_evidence(centre("g"), 3.0), arm(router, "g")
    assert router.decide(prompt, [expert]).kind == "experts"
    decision = router.decide(prompt, [said(expert, 2000.0)])
    assert decision.kind == "base"
    assert any("which is not above" in reason for reason in decision.reasons)


def test_blame_weighs_most_where_it_was_given(router):
    expert = arm(router, "g")
    near, far = expert.domain.centroids[0], expert.domain.centroids[1]
    blamed = said(expert, 20.0, place=0)
    assert blamed.success_rate_at(near) < blamed.success_rate_at(far) < expert.success_rate
    assert blamed.success_rate_at(near) == blamed.success_rate


def test_praise_counts_as_much_as_blame_and_is_told(router):
    prompt = make_evidence(centre("g"), 3.0)
    poor = arm(router, "g", rate=0.3)
    decision = router.decide(prompt, [said(poor, 80.0, 79.5)])
    assert decision.expected[0] > 0.6
    assert any("29 of 98 right at the gate; 79.5 of 80 judged since" in r for r in decision.reasons)
