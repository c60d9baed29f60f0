"""Two published ways to choose who answers, given the same states as our router: baselines."""

from collections.abc import Mapping, Sequence
from typing import final

import numpy as np
from jaxtyping import Float

BASE = ""
"""Stands for the base among the names of experts."""

_GAMMA = 10.0
_EVEN = 0.5
_LEAST = 1e-12
_BLOCK = 256


@final
class NearestMean:
    """A prompt belongs to the class whose mean state is nearest by cosine.

    Class means of prompts choose adapters in LoRA retrieval (LoraRetriever, Zhao et al. 2024).
    """

    def __init__(self, classes: Mapping[str, Float[np.ndarray, "prompt dimension"]]) -> None:
        self._names = tuple(classes)
        self._means = units(np.stack([units(each).mean(axis=0) for each in classes.values()]))

    def choose(self, states: Float[np.ndarray, "prompt dimension"]) -> list[str]:
        """The nearest class of every prompt."""
        nearest = (units(states) @ self._means.T).argmax(axis=1)
        return [self._names[int(place)] for place in nearest]


@final
class SimilarityWeightedWins:
    """An expert answers where it wins more than half of the comparisons, weighed by similarity.

    RouteLLM's similarity-weighted ranking, Ong et al. 2024: weights gamma^(1 + s) with
    gamma = 10 and s the cosine over its largest value; for two models its Bradley-Terry fit is the
    weighted share of wins. There it decides between two models; here each expert is compared with
    the base, and the one with the largest share answers if that is above one half.
    """

    def __init__(
        self,
        wins: Mapping[str, Float[np.ndarray, "comparison dimension"]],
        base: Float[np.ndarray, "comparison dimension"],
        base_right: Float[np.ndarray, " comparison"],
    ) -> None:
        self._names = tuple(wins)
        self._won = [units(each) for each in wins.values()]
        self._base = units(base)
        # Where the base is right it wins; where it is wrong, an expert of something else is too.
        self._lost = np.where(base_right > 0, 0.0, _EVEN)

    def choose(self, states: Float[np.ndarray, "prompt dimension"]) -> list[str]:
        """Who answers each prompt: an expert's name or BASE."""
        parts = [states[start : start + _BLOCK] for start in range(0, len(states), _BLOCK)]
        return [name for part in parts for name in self._choose(units(part))]

    def _choose(self, directions: Float[np.ndarray, "prompt dimension"]) -> Sequence[str]:
        shares = np.stack([self._share(directions, won) for won in self._won], axis=1)
        best = shares.argmax(axis=1)
        is_sure = shares.max(axis=1) > _EVEN
        return [
            self._names[int(place)] if sure else BASE
            for place, sure in zip(best, is_sure, strict=True)
        ]

    def _share(
        self, directions: Float[np.ndarray, "prompt dimension"], won: np.ndarray
    ) -> Float[np.ndarray, " prompt"]:
        similarities = directions @ np.concatenate([won, self._base]).T
        outcomes = np.concatenate([np.ones(len(won)), self._lost])
        largest = np.maximum(similarities.max(axis=1, keepdims=True), _LEAST)
        weights = _GAMMA ** (1 + similarities / largest)
        share: np.ndarray = (weights * outcomes).sum(axis=1) / weights.sum(axis=1)
        return share


def units(vectors: Float[np.ndarray, "row dimension"]) -> Float[np.ndarray, "row dimension"]:
    """The directions of vectors."""
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    directions: np.ndarray = vectors / np.maximum(lengths, _LEAST)
    return directions
