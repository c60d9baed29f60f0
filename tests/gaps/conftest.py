"""A detector on a fresh ledger, and prompts that can be told apart."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from adaptive_moe.config.settings import GapSettings
from adaptive_moe.gaps.detector import GapDetector
from adaptive_moe.gaps.evidence import Observation
from adaptive_moe.gaps.ledger import GapLedger

WIDTH = 32
ELEMENTS = (
    "iron",
    "gold",
    "tin",
    "lead",
    "zinc",
    "argon",
    "neon",
    "radon",
    "boron",
    "carbon",
    "silver",
    "copper",
    "nickel",
    "cobalt",
    "helium",
    "xenon",
    "krypton",
    "sodium",
    "iodine",
    "sulfur",
    "barium",
    "cesium",
    "radium",
    "indium",
    "osmium",
    "platinum",
    "mercury",
)


class Clock:
    """Stands still until told to move."""

    def __init__(self) -> None:
        self.time = datetime(2026, 1, 1, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.time

    def pass_minutes(self, minutes: float) -> None:
        self.time += timedelta(minutes=minutes)


class World:
    """Asks prompts whose states lie around one direction per topic."""

    def __init__(self) -> None:
        self.generator = np.random.default_rng(0)
        self.topics: dict[str, np.ndarray] = {}

    def vector(self, topic: str, spread: float = 0.5) -> np.ndarray:
        if topic not in self.topics:
            centre = self.generator.normal(size=WIDTH)
            self.topics[topic] = centre / np.linalg.norm(centre)
        noise = self.generator.normal(size=WIDTH) / np.sqrt(WIDTH)
        return self.topics[topic] + spread * noise

    def ask(
        self,
        prompt,
        topic="chemistry",
        *,
        low=True,
        p_correct=0.1,
        domain=None,
        session="s",
        spread=0.5,
    ):
        vector = self.vector(topic, spread)
        return Observation(prompt, "An answer.", p_correct, low, domain, vector, session)

    def elements(self, count, start=0, **more):
        names = ELEMENTS[start : start + count]
        return [self.ask(f"What is the symbol of {name}?", **more) for name in names]


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def world():
    return World()


@pytest.fixture
def ledger(clock):
    with GapLedger(":memory:", clock=clock) as opened:
        yield opened


@pytest.fixture
def detector(ledger):
    return GapDetector(ledger, GapSettings(cooldown_prompts=2))


@pytest.fixture
def verify(detector, world):
    """Open a gap on eight prompts that all turn out wrong."""

    def open_gap(**more):
        for observation in world.elements(8, **more):
            noticed = detector.observe(observation)
            detector.outcome(noticed.observation_id, correct=False, origin="grade")
        return detector.show(noticed.gap.id)

    return open_gap
