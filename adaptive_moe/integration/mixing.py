"""How the weights of the chosen experts become the gates of a mixture.

A rule takes (expert_id, weight) pairs, where a weight is what the router expects of the expert
(expected success x membership in its domain), and returns a mixture as the LoRA bank takes it:
gates above 0 that sum to 1, largest first. Without a positive weight it is (), the base.
"""

import math
from collections.abc import Callable, Sequence

from adaptive_moe.errors import ConfigurationError
from adaptive_moe.experts.pool import Mixture

MixingRule = Callable[[Sequence[tuple[str, float]]], Mixture]

SMALLEST_RELATIVE_GATE = 0.05
"""Experts below this share of the largest weight cost time and change next to nothing."""


def top1(weights: Sequence[tuple[str, float]]) -> Mixture:
    """The expert of the largest weight alone; of equals, the first one given."""
    ranked = _ranked(weights)
    return ((ranked[0][0], 1.0),) if ranked else ()


def weighted(weights: Sequence[tuple[str, float]]) -> Mixture:
    """Every expert in proportion to its weight, without those whose gate would be tiny."""
    ranked = _ranked(weights)
    kept = [pair for pair in ranked if pair[1] >= SMALLEST_RELATIVE_GATE * ranked[0][1]]
    largest = kept[0][1] if kept else 1.0
    relative = [(expert_id, weight / largest) for expert_id, weight in kept]
    total = math.fsum(weight for _, weight in relative)
    return tuple((expert_id, weight / total) for expert_id, weight in relative)


RULES: dict[str, MixingRule] = {"top1": top1, "weighted": weighted}
"""Name in the configuration to rule."""


def _ranked(weights: Sequence[tuple[str, float]]) -> list[tuple[str, float]]:
    """The positive weights, largest first and otherwise in the order given."""
    names = [expert_id for expert_id, _ in weights]
    if len(set(names)) != len(names):
        raise ConfigurationError(f"an expert is given twice: {names}; add its weights up first")
    for expert_id, weight in weights:
        if not math.isfinite(weight) or weight < 0:
            raise ConfigurationError(
                f"expert {expert_id!r} has the weight {weight}; weights are finite and not negative"
            )
    positive = [(expert_id, float(weight)) for expert_id, weight in weights if weight > 0]
    return sorted(positive, key=lambda pair: -pair[1])
