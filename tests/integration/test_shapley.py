"""Shares follow Shapley's rule: checked against games whose values are known."""

from itertools import combinations
from math import factorial

import numpy as np
import pytest

from adaptive_moe.integration.shapley import (
    Coalition,
    all_orders,
    draw_orders,
    shapley_shares,
)


def _every_coalition(players: int) -> list[Coalition]:
    sizes = range(players + 1)
    return [frozenset(chosen) for size in sizes for chosen in combinations(range(players), size)]


def _random_game(players: int, *, seed: int, time: int = 3) -> dict[Coalition, np.ndarray]:
    generator = np.random.default_rng(seed)
    return {each: generator.normal(size=time) for each in _every_coalition(players)}


def weighted_sum_of_subsets(game: dict[Coalition, np.ndarray], players: int) -> np.ndarray:
    """Shapley 1953, Eq. 13: the slow definition, by subsets instead of orders."""
    shares = np.zeros((len(game[frozenset()]), players))
    for player in range(players):
        for before in _every_coalition(players):
            if player in before:
                continue
            count = factorial(len(before)) * factorial(players - len(before) - 1)
            added = game[before | {player}] - game[before]
            shares[:, player] += count / factorial(players) * added
    return shares


def test_two_left_gloves_and_a_right_one() -> None:
    game = {each: np.array([float(2 in each and len(each) > 1)]) for each in _every_coalition(3)}
    shares, error = shapley_shares(all_orders(3), game)
    assert shares.tolist() == [pytest.approx([1 / 6, 1 / 6, 2 / 3])]
    assert error == 0.0


@pytest.mark.parametrize("players", [0, 1, 2, 3, 4])
def test_all_orders_agree_with_the_sum_over_subsets(players: int) -> None:
    game = _random_game(players, seed=players)
    shares, _ = shapley_shares(all_orders(players), game)
    np.testing.assert_allclose(shares, weighted_sum_of_subsets(game, players), atol=1e-12)


@pytest.mark.parametrize("players", [0, 1, 4])
def test_all_orders_meet_every_coalition_once(players: int) -> None:
    met = all_orders(players).coalitions
    assert len(met) == 2**players
    assert set(met) == set(_every_coalition(players))


def test_drawn_orders_share_out_everything() -> None:
    game = _random_game(6, seed=1)
    orders = draw_orders(6, pairs=3, generator=np.random.default_rng(0))
    shares, _ = shapley_shares(orders, game)
    total = game[frozenset(range(6))] - game[frozenset()]
    np.testing.assert_allclose(shares.sum(axis=1), total, atol=1e-12)


def test_drawn_orders_are_exact_where_additions_do_not_depend_on_the_order() -> None:
    worth = np.array([[1.0, -2.0, 0.5, 4.0, 0.0]])
    game = {each: worth[:, sorted(each)].sum(axis=1) for each in _every_coalition(5)}
    orders = draw_orders(5, pairs=4, generator=np.random.default_rng(0))
    shares, error = shapley_shares(orders, game)
    np.testing.assert_allclose(shares, worth, atol=1e-12)
    assert error < 1e-12


def test_the_stated_error_is_the_spread_of_repeated_draws() -> None:
    game = _random_game(5, seed=2, time=1)
    draws = [
        shapley_shares(draw_orders(5, pairs=8, generator=np.random.default_rng(seed)), game)
        for seed in range(400)
    ]
    shares = np.array([share for share, _ in draws])
    np.testing.assert_allclose(shares.mean(axis=0), weighted_sum_of_subsets(game, 5), atol=0.06)
    stated = np.mean([error for _, error in draws])
    assert 0.7 < shares.std(axis=0).max() / stated < 1.3


def test_a_single_pair_does_not_know_its_error() -> None:
    orders = draw_orders(5, pairs=1, generator=np.random.default_rng(0))
    assert shapley_shares(orders, _random_game(5, seed=3))[1] == float("inf")
