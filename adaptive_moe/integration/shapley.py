"""Shares of a joint result among players who can only be seen in coalitions.

A player's Shapley value is what it adds when it joins, averaged over all orders of joining
(Shapley 1953). Up to four players every order is walked; beyond, orders are drawn in pairs of an
order and its reverse, whose errors partly cancel (Mitchell et al. 2022, "Sampling Permutations
for Shapley Value Estimation", section 4.1). Along every order the additions telescope, so shares
always sum to the result of all players less that of none.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np
from jaxtyping import Float

Coalition = frozenset[int]


@dataclass(frozen=True, slots=True)
class Orders:
    """Orders of joining; those drawn stand in pairs, an order and its reverse."""

    orders: tuple[tuple[int, ...], ...]
    is_complete: bool

    @property
    def coalitions(self) -> tuple[Coalition, ...]:
        """Every coalition met on the way, once, from nobody to everybody."""
        met = {frozenset(order[:size]) for order in self.orders for size in range(len(order) + 1)}
        return tuple(sorted(met, key=lambda coalition: (len(coalition), sorted(coalition))))


def all_orders(players: int) -> Orders:
    """Every order of the players 0, 1, ...: exact, for few players."""
    return Orders(tuple(permutations(range(players))), is_complete=True)


def draw_orders(players: int, *, pairs: int, generator: np.random.Generator) -> Orders:
    """`pairs` random orders, each followed by its reverse."""
    orders: list[tuple[int, ...]] = []
    for _ in range(pairs):
        order = tuple(int(player) for player in generator.permutation(players))
        orders += [order, order[::-1]]
    return Orders(tuple(orders), is_complete=False)


def shapley_shares(
    orders: Orders, values: Mapping[Coalition, Float[np.ndarray, " time"]]
) -> tuple[Float[np.ndarray, "time player"], float]:
    """The players' shares of every result, and the largest standard error of a share.

    `values` holds the results of each of the orders' coalitions. The error is 0 when the orders
    are complete, infinite when a single pair was drawn.
    """
    additions = np.stack([_additions(order, values) for order in orders.orders])
    shares = additions.mean(axis=0)
    if orders.is_complete or additions.size == 0:
        return shares, 0.0
    pairs = additions.reshape(-1, 2, *shares.shape).mean(axis=1)
    if len(pairs) == 1:
        return shares, float("inf")
    return shares, float(pairs.std(axis=0, ddof=1).max() / len(pairs) ** 0.5)


def _additions(
    order: Sequence[int], values: Mapping[Coalition, Float[np.ndarray, " time"]]
) -> Float[np.ndarray, "time player"]:
    """What each player adds to those before it, in the order of the players' numbers."""
    steps = [values[frozenset(order[:size])] for size in range(len(order) + 1)]
    table = np.stack(steps, axis=1).astype(np.float64)
    additions = np.empty((len(table), len(order)))
    additions[:, list(order)] = np.diff(table, axis=1)
    return additions
