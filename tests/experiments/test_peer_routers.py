"""The baselines choose as their papers say, on numbers that can be worked out by hand."""

import numpy as np

from adaptive_moe.experiments.peer_routers import BASE, NearestMean, SimilarityWeightedWins


def test_the_nearest_mean_is_nearest_by_direction_whatever_the_length():
    classes = {"east": np.array([[2.0, 0.0], [9.0, 0.1]]), "north": np.array([[0.0, 1.0]])}
    router = NearestMean(classes)
    assert router.choose(np.array([[0.1, 0.0], [0.4, 0.6]])) == ["east", "north"]


def test_wins_are_weighed_by_similarity():
    wins = {"east": np.array([[1.0, 0.0]]), "west": np.array([[-1.0, 0.0]])}
    router = SimilarityWeightedWins(wins, np.array([[0.0, 1.0]]), np.array([1.0]))
    # Due east the only win weighs 10 ** 2, the base's 10 ** 1: a share of 10 / 11.
    assert router.choose(np.array([[3.0, 0.0], [-1.0, 0.2]])) == ["east", "west"]
    assert router.choose(np.array([[0.0, 5.0]])) == [BASE]


def test_an_expert_takes_nothing_where_the_base_is_wrong_about_something_else():
    wins = {"east": np.array([[1.0, 0.0]])}
    router = SimilarityWeightedWins(wins, np.array([[-1.0, 0.0]] * 9), np.array([0.0] * 9))
    # Where the base was wrong counts one half: the expert's share is above it by its own win alone.
    assert router.choose(np.array([[1.0, 0.0]])) == ["east"]
