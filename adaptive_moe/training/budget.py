"""Whole ranks that follow a profile and cost an exact number of parameters."""

import math
from collections import deque
from collections.abc import Sequence

from adaptive_moe.errors import ConfigurationError

_BISECTIONS = 200
_BLENDS = 20  # steps from the wished profile back to the uniform one, which is always exact


def fill_budget(
    costs: Sequence[int],
    profile: Sequence[float],
    *,
    reference_rank: int,
    lower: Sequence[int],
    upper: Sequence[int],
) -> list[int]:
    """Ranks near `profile`, within the bounds, that cost exactly reference_rank * sum(costs).

    Where the costs' divisibility leaves no exact ranks at the wished profile, the profile is moved
    towards uniform in twentieths until there are. Raises ConfigurationError if even that fails.
    """
    budget = reference_rank * sum(costs)
    mean = sum(profile) / len(profile)
    for step in range(_BLENDS + 1):
        share = step / _BLENDS
        wish = [(1 - share) * weight / mean + share for weight in profile]
        shares = _water_fill(costs, wish, budget, lower=lower, upper=upper)
        ranks = _largest_remainder(costs, shares, budget, upper=upper)
        repaired = _repair(costs, ranks, shares, budget, lower=lower, upper=upper)
        if repaired is not None:
            return repaired
    raise ConfigurationError(
        f"no ranks within the bounds cost exactly {budget} parameters; widen the bounds"
    )


def _water_fill(
    costs: Sequence[int],
    profile: Sequence[float],
    budget: int,
    *,
    lower: Sequence[int],
    upper: Sequence[int],
) -> list[float]:
    """clip(level * profile, lower, upper) at the level where the whole costs the budget."""

    def at(level: float) -> list[float]:
        return [
            float(min(max(level * weight, low), high))
            for weight, low, high in zip(profile, lower, upper, strict=True)
        ]

    smallest = min(weight for weight in profile if weight > 0)
    low, high = 0.0, max(upper) / smallest
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        spent = sum(cost * share for cost, share in zip(costs, at(middle), strict=True))
        low, high = (middle, high) if spent < budget else (low, middle)
    return at(high)


def _largest_remainder(
    costs: Sequence[int], shares: Sequence[float], budget: int, *, upper: Sequence[int]
) -> list[int]:
    """Round down, then hand out +1 by descending fraction while the module still fits."""
    ranks = [math.floor(share + 1e-9) for share in shares]
    rest = budget - sum(cost * rank for cost, rank in zip(costs, ranks, strict=True))
    for index in sorted(range(len(costs)), key=lambda i: (ranks[i] - shares[i], i)):
        if costs[index] <= rest and ranks[index] < upper[index]:
            ranks[index] += 1
            rest -= costs[index]
    return ranks


def _repair(
    costs: Sequence[int],
    ranks: Sequence[int],
    shares: Sequence[float],
    budget: int,
    *,
    lower: Sequence[int],
    upper: Sequence[int],
) -> list[int] | None:
    """Close the last gap with the fewest single-rank changes; None where the bounds forbid it."""
    rest = budget - sum(cost * rank for cost, rank in zip(costs, ranks, strict=True))
    changes = _fewest_changes(sorted(set(costs)), rest)
    if changes is None:
        return None
    repaired = list(ranks)
    for cost, change in changes:
        movable = [
            index
            for index, own in enumerate(costs)
            if own == cost and lower[index] <= repaired[index] + change <= upper[index]
        ]
        if not movable:
            return None
        best = min(movable, key=lambda i: (abs(repaired[i] + change - shares[i]), i))
        repaired[best] += change
    return repaired


def _fewest_changes(costs: Sequence[int], rest: int) -> list[tuple[int, int]] | None:
    """The shortest list of (cost, +1 or -1) that adds up to `rest`, breadth first.

    In some order every partial sum stays within the largest cost of the way to the rest, so the
    search is bounded by 4 * max(cost) / gcd states.
    """
    if rest == 0:
        return []
    bound = abs(rest) + max(costs)
    came_from: dict[int, tuple[int, int, int]] = {}
    queue = deque([0])
    while queue:
        total = queue.popleft()
        for cost in costs:
            for change in (1, -1):
                reached = total + change * cost
                if abs(reached) > bound or reached in came_from or reached == 0:
                    continue
                came_from[reached] = (total, cost, change)
                if reached == rest:
                    return _walk_back(came_from, rest)
                queue.append(reached)
    return None


def _walk_back(came_from: dict[int, tuple[int, int, int]], rest: int) -> list[tuple[int, int]]:
    steps = []
    total = rest
    while total != 0:
        total, cost, change = came_from[total]
        steps.append((cost, change))
    return steps
