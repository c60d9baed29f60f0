"""What the router knows of topics keeps clusters apart, wide enough, and free of strangers."""

import math

import numpy as np
import pytest

from adaptive_moe.config.settings import GapSettings
from adaptive_moe.gaps.detector import GapDetector
from adaptive_moe.gaps.evidence import Observation, alpha_of
from adaptive_moe.gaps.ledger import GapLedger
from adaptive_moe.gaps.states import GapState

EAST, NORTH = np.array([1.0, 0.0, 0.0]), np.array([0.0, 1.0, 0.0])


def between(degrees):
    """A direction so far from east towards north."""
    turn = math.radians(degrees)
    return (math.cos(turn) * EAST + math.sin(turn) * NORTH).astype(np.float32)


def observed(number, vector, *, doubtful, topic=None):
    return Observation(
        prompt=f"What about thing {number}?",
        answer="perhaps",
        p_correct=0.1 if doubtful else 0.9,
        low_confidence=doubtful,
        domain=None,
        vector=vector,
        session="one",
        topic=topic,
    )


def detector(radius):
    return GapDetector(GapLedger(":memory:"), GapSettings(), radius=lambda: radius)


def doubt(found, degrees, *, numbers, topic=None, is_wrong=False):
    """Doubtful prompts of these numbers in one place, graded as wrong where that is said."""
    for number in numbers:
        noticed = found.observe(observed(number, between(degrees), doubtful=True, topic=topic))
        if is_wrong:
            found.outcome(noticed.observation_id, correct=False, origin="grade")


def fill_between(found):
    """What makes one of two clusters at 0 and 60 degrees, each of it within .3 of one of them."""
    for number in range(10):
        doubt(found, 20, numbers=[100 + number])
        doubt(found, 40, numbers=[200 + number])


def test_prompts_of_different_topics_share_no_cluster_however_close():
    found = detector(0.6)
    for number in range(30):
        topic = (None, "rivers", "cities")[number % 3]
        found.observe(observed(number, between(number), doubtful=True, topic=topic))
    gaps = found.list()
    assert sorted(len(gap.prompts) for gap in gaps) == [10, 10, 10]


def test_confident_prompts_speak_against_clusters_of_their_own_topic_only():
    found = detector(0.6)
    for number in range(4):
        found.observe(observed(number, between(number), doubtful=True))
    found.observe(observed(10, between(2), doubtful=False, topic="rivers"))
    found.observe(observed(11, between(2), doubtful=False))
    (gap,) = found.list()
    assert gap.figures.confident == 1


def test_confident_prompts_from_before_the_cluster_are_adopted_by_topic():
    found = detector(0.6)
    found.observe(observed(10, between(2), doubtful=False, topic="rivers"))
    for number in (11, 12):
        found.observe(observed(number, between(2), doubtful=False))
    doubt(found, 0, numbers=range(5))
    (gap,) = found.list()
    assert gap.figures.confident == 2


def test_prompts_within_the_known_width_are_one_topic_from_the_start():
    for radius, clusters in ((0.6, 1), (None, 2)):  # 1 - cos 65 degrees = .58
        found = detector(radius)
        for number, degrees in enumerate((0, 65)):
            found.observe(observed(number, between(degrees), doubtful=True))
        assert len(found.list()) == clusters


def test_two_suspected_clusters_that_grow_together_become_one():
    found = detector(0.3)
    doubt(found, 0, numbers=range(5))
    doubt(found, 60, numbers=range(10, 15))
    assert [gap.state for gap in found.list()] == [GapState.SUSPECTED] * 2
    fill_between(found)
    (gap,) = found.list()
    assert len(gap.prompts) == 30


def test_prompts_of_a_dismissed_gap_are_recognised_by_a_router_that_knows_their_topic():
    found = detector(0.6)
    doubt(found, 0, numbers=range(5))
    (gap,) = found.list()
    found.dismiss(gap.id)
    doubt(found, 0, numbers=range(12), topic="rivers")
    assert [gap.state for gap in found.list()] == [GapState.DISMISSED]


def test_evidence_that_was_used_up_does_not_come_back_with_a_neighbour():
    found = detector(0.3)
    doubt(found, 60, numbers=range(5))
    doubt(found, 0, numbers=range(20, 32), is_wrong=True)
    (gap,) = [gap for gap in found.list() if gap.state is GapState.VERIFIED]
    found.dismiss(gap.id)
    found.transition(gap.id, GapState.OBSERVED, "wanted after all", by_person=True)
    fill_between(found)
    assert max(each.failures for each in found.list()) == 0


def test_a_gap_that_was_filled_keeps_its_expert_beside_a_neighbour():
    found = detector(0.3)
    doubt(found, 60, numbers=range(5))
    doubt(found, 0, numbers=range(20, 32), is_wrong=True)
    (gap,) = [gap for gap in found.list() if gap.state is GapState.VERIFIED]
    for state in (GapState.QUEUED, GapState.TRAINING, GapState.EVALUATING):
        found.transition(gap.id, state, "as a worker does")
    found.transition(gap.id, GapState.FILLED, "as a worker does", expert="rivers")
    doubt(found, 0, numbers=range(40, 50))
    fill_between(found)
    assert found.show(gap.id).expert == "rivers"


def test_every_topic_is_grouped_anew():
    found = detector(0.3)
    for topic in (None, "rivers"):  # eight in all, at which everything is grouped anew
        for number, degrees in enumerate((0, 60, 30, 31)):
            doubt(found, degrees, numbers=[number], topic=topic)
    assert sorted(len(gap.prompts) for gap in found.list()) == [4, 4]


def test_what_joins_a_proven_gap_wins_no_alpha_back():
    found = detector(0.3)
    doubt(found, 0, numbers=range(5))
    doubt(found, 60, numbers=range(20, 32), is_wrong=True)
    fill_between(found)
    (gap,) = found.list()
    assert gap.state is GapState.VERIFIED
    assert gap.figures.needed == pytest.approx(1 / alpha_of(2))


def test_a_topic_beside_a_dismissed_one_stays_its_own():
    found = detector(0.3)
    doubt(found, 0, numbers=range(5))
    (gap,) = found.list()
    found.dismiss(gap.id)
    doubt(found, 60, numbers=range(10, 15))
    doubt(found, 35, numbers=range(20, 40))  # within .3 of either, and nearer to the other
    assert [gap.state for gap in found.list()] == [GapState.DISMISSED, GapState.SUSPECTED]
