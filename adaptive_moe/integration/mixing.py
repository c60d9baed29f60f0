"""How the chosen experts answer together: the gates of the mixture, and what it is that is mixed.

Gates come from (expert_id, weight) pairs, where a weight is what the router expects of the expert
(expected success x membership in its domain): above 0, summing to 1, largest first. Without a
positive weight there are none, and the base answers.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from adaptive_moe.errors import ConfigurationError
from adaptive_moe.experts.pool import Mixture

Mixed = Literal["updates", "updates by token", "distributions"]
"""What the gates weigh: the experts' low-rank updates of every layer, the same with gates that
each token and layer find for themselves, or the experts' distributions of the next token."""

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


@dataclass(frozen=True, slots=True)
class MixingRule:
    """How weights become gates, and what they gate."""

    gates: Callable[[Sequence[tuple[str, float]]], Mixture]
    mixed: Mixed


RULES: dict[str, MixingRule] = {
    "top1": MixingRule(top1, "updates"),
    "weighted": MixingRule(weighted, "updates"),
    "token": MixingRule(weighted, "updates by token"),
    "logits": MixingRule(weighted, "distributions"),
}
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
