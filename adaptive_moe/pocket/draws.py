"""Seeded chance for corpus and batches: the same label always draws the same."""

import random
from collections.abc import Mapping
from typing import TypeVar

T = TypeVar("T")


def seeded(label: str) -> random.Random:
    """A generator that depends on nothing but the label; not for secrets."""
    return random.Random(label)  # noqa: S311 - reproducible by design, nothing secret


def happens(chance: random.Random, probability: float) -> bool:
    """True with this probability (0..1)."""
    return chance.random() < probability


def weighted(chance: random.Random, weights: Mapping[T, float]) -> T:
    """One of the keys, with probability proportional to its weight."""
    return chance.choices(list(weights), weights=list(weights.values()))[0]
