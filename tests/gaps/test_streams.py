"""Mixed traffic with a planted gap: found soon, and nothing else is."""

import numpy as np
import pytest

from adaptive_moe.config.settings import GapSettings
from adaptive_moe.gaps.detector import GapDetector
from adaptive_moe.gaps.evidence import Observation
from adaptive_moe.gaps.ledger import GapLedger
from adaptive_moe.gaps.states import GapState

WIDTH = 64
KNOWN_DOMAINS = 6


class Stream:
    """Prompts of known domains (failing and doubted at .2 at most) and of a planted one (.95)."""

    def __init__(self, seed):
        self.generator = np.random.default_rng(seed)
        self.centres = self.generator.normal(size=(KNOWN_DOMAINS + 1, WIDTH))
        self.centres /= np.linalg.norm(self.centres, axis=1, keepdims=True)
        self.wrong = {}
        self.detector = GapDetector(GapLedger(":memory:"), GapSettings())

    def send(self, number, *, planted):
        generator = self.generator
        wrong = generator.random() < (0.95 if planted else 0.2)
        place = KNOWN_DOMAINS if planted else int(generator.integers(KNOWN_DOMAINS))
        vector = self.centres[place] + generator.normal(size=WIDTH) / np.sqrt(WIDTH)
        assigned = not planted and generator.random() < 0.9
        noticed = self.detector.observe(
            Observation(
                prompt=f"property {generator.integers(20)} of thing{place} entity{number}",
                answer="?",
                p_correct=float(generator.beta(2, 8) if wrong else generator.beta(9, 1)),
                low_confidence=bool(wrong),
                domain=f"known {place}" if assigned else None,
                vector=vector,
                session=f"session {generator.integers(12)}",
            )
        )
        self.wrong[noticed.observation_id] = wrong
        return noticed.gap and self.check(noticed.gap)

    def check(self, gap):
        if gap.state is GapState.SUSPECTED:
            for observation_id, _ in self.detector.unchecked_members(gap.id):
                right = not self.wrong[observation_id]
                gap = self.detector.outcome(observation_id, correct=right, origin="consistency")
        return gap


@pytest.mark.parametrize("seed", range(4))
def test_a_planted_gap_is_found_within_twenty_of_its_prompts(seed):
    stream = Stream(seed)
    planted = 0
    for number in range(400):
        is_planted = number % 10 == 9
        planted += is_planted
        gap = stream.send(number, planted=is_planted)
        if gap is not None and gap.state is GapState.VERIFIED:
            break

    assert gap.state is GapState.VERIFIED
    assert planted <= 20
    assert sum(f"thing{KNOWN_DOMAINS}" in prompt for prompt in gap.prompts) >= 7


def test_known_domains_alone_give_no_gap():
    stream = Stream(99)
    for number in range(600):
        stream.send(number, planted=False)

    assert {gap.state for gap in stream.detector.list()} <= {"OBSERVED", "SUSPECTED"}


def test_a_domain_that_fails_only_when_doubted_is_no_gap():
    stream = Stream(5)
    for number in range(200):
        low = number % 5 == 0
        noticed = stream.detector.observe(
            Observation(f"thing{number}", "?", None, low, "known", np.ones(4), "s")
        )
        if low:
            gap = stream.detector.outcome(noticed.observation_id, correct=False, origin="grade")

    assert gap.failures == 40
    assert [step.after for step in gap.history] == []
