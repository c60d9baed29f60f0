"""What is known of topics beforehand keeps groups wide enough, and the base's own prompts out."""

import math

import numpy as np

from adaptive_moe.config.settings import GapSettings
from adaptive_moe.gaps.clusters import KnownTopics, part_strays
from adaptive_moe.gaps.detector import GapDetector
from adaptive_moe.gaps.evidence import Observation
from adaptive_moe.gaps.ledger import GapLedger

EAST, NORTH = np.array([1.0, 0.0, 0.0]), np.array([0.0, 1.0, 0.0])
KNOWN = KnownTopics(radius=0.6, means=np.array([[0.0, 0.9, 0.0]], np.float32))


def between(degrees):
    """A direction so far from east towards north."""
    turn = math.radians(degrees)
    return (math.cos(turn) * EAST + math.sin(turn) * NORTH).astype(np.float32)


def observed(number, vector, *, doubtful):
    return Observation(
        prompt=f"What about thing {number}?",
        answer="perhaps",
        p_correct=0.1 if doubtful else 0.9,
        low_confidence=doubtful,
        domain=None,
        vector=vector,
        session="one",
    )


def test_the_distance_to_a_topic_is_the_mean_of_those_to_its_prompts():
    assert KNOWN.nearest(NORTH.astype(np.float32)) == (0, 1 - np.float32(0.9))
    assert KNOWN.nearest(np.ones(2, np.float32)) == (-1, math.inf)


def test_members_clearly_nearer_to_a_known_topic_leave_their_group():
    units = np.stack([between(each) for each in (0, 0, 0, 0, 0, 60, 40)])
    # 60 degrees: .13 from the known topic's prompts + .1, .45 from the others; 40: .42 and .2.
    assert part_strays([range(7)], units, KNOWN) == ((0, 1, 2, 3, 4, 6), (5,))
    assert part_strays([[0, 1, 5]], units, KNOWN) == ((0, 1, 5),)


def test_only_confident_prompts_that_are_nearer_to_a_cluster_speak_against_it():
    detector = GapDetector(GapLedger(":memory:"), GapSettings(), topics=lambda: KNOWN)
    for number in range(4):
        detector.observe(observed(number, between(number), doubtful=True))
    detector.observe(observed(10, between(80), doubtful=False))
    detector.observe(observed(11, between(10), doubtful=False))
    (gap,) = detector.list()
    assert gap.figures.confident == 1


def test_prompts_within_the_known_width_are_one_topic_from_the_start():
    detector = GapDetector(GapLedger(":memory:"), GapSettings(), topics=lambda: KNOWN)
    for number, degrees in enumerate((0, 65)):  # 1 - cos 65 degrees = .58
        detector.observe(observed(number, between(degrees), doubtful=True))
    assert len(detector.list()) == 1
    alone = GapDetector(GapLedger(":memory:"), GapSettings())
    for number, degrees in enumerate((0, 65)):
        alone.observe(observed(number, between(degrees), doubtful=True))
    assert len(alone.list()) == 2
