"""An expert's record of right answers: the gate's figures, and what people said afterwards.

Its domain has clusters, the prompts nearest to one centroid; what people say of an answer is said
of the cluster its prompt lies in.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

# Judged answers that together weigh as much as the whole gate, whose questions were made of the
# expert's own material: where people say otherwise, a few dozen of them are to be heard.
_GATE_WEIGHT = 20.0
_ELSEWHERE = 0.5  # what a judged answer counts in the other clusters of its domain


def success_rate(
    successes: int,
    trials: int,
    *,
    judged: Sequence[tuple[float, float]] = (),
    cluster: int | None = None,
) -> float:
    """How likely an expert is right on a prompt of its own: a Beta posterior's mean.

    The gate alone gives (successes + 1) / (trials + 2), from Beta(1, 1), so 0.5 without a trial.
    That mean is the prior of what people judged, worth trials + 2 answers but 20 at most. `judged`
    holds for every cluster how many answers were judged and how many were right (shares of answers
    as fractions); those of other clusters than `cluster` count half, without one all count whole.
    """
    prior = (successes + 1) / (trials + 2)
    weight = min(trials + 2, _GATE_WEIGHT)
    right = prior * weight
    for place, (answers, right_ones) in enumerate(judged):
        share = 1.0 if cluster is None or place == cluster else _ELSEWHERE
        weight += share * answers
        right += share * right_ones
    return right / weight


def nearest_cluster(
    centroids: Float[np.ndarray, "centroid dimension"], point: Float[np.ndarray, " dimension"]
) -> int:
    """The number of the centroid nearest to a whitened state."""
    return int(((centroids - point) ** 2).sum(axis=1).argmin())
