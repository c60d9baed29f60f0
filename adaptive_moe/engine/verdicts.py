"""What people said of experts' answers, as the router's records of experts take it in."""

import math
from collections.abc import Mapping
from typing import final

import numpy as np
from jaxtyping import Float

from adaptive_moe.router.domains import Domain
from adaptive_moe.router.records import nearest_cluster

Judged = Mapping[str, Mapping[str, tuple[float, float]]]
"""By expert id and cluster: answers that were judged, and right ones among them."""

_UNPLACED = (0.0, 0.0)


@final
class Verdicts:
    """The verdicts last read from the ledger; `lessons` counts how often they changed."""

    def __init__(self) -> None:
        self._judged: Judged = {}
        self.lessons = 0

    def learn(self, judged: Judged) -> None:
        """Take these in place of the former ones."""
        if judged != self._judged:
            self._judged = judged
            self.lessons += 1

    def of(self, expert_id: str, domain: Domain) -> tuple[tuple[float, float], ...]:
        """One pair for every centroid of the domain, and one for what lies near none of these.

        That is what was said while the domain was placed by another router. Empty without any.
        """
        said = self._judged.get(expert_id)
        if not said:
            return ()
        names = [_name(domain, number) for number in range(len(domain.centroids))]
        strays = [counts for name, counts in said.items() if name not in names]
        elsewhere = (
            math.fsum(answers for answers, _ in strays),
            math.fsum(right for _, right in strays),
        )
        return (*(said.get(name, _UNPLACED) for name in names), elsewhere)


def cluster_of(domain: Domain, point: Float[np.ndarray, " dimension"]) -> str:
    """What the cluster of a whitened state is called in the ledger."""
    return _name(domain, nearest_cluster(domain.centroids, point))


def _name(domain: Domain, number: int) -> str:
    """With the state space in it: in another one the same expert has other clusters."""
    return f"{domain.whitening_digest}:{number}"
