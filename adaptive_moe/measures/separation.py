"""How far apart members of one domain are, and members of different ones, by direction."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

Units = Float[np.ndarray, "_ width"]  # unit vectors; sets of them differ in number

_FEWEST_DOMAINS = 2
_FEWEST_MEMBERS = 2


def separating_radius(domains: Sequence[Units]) -> tuple[float, float]:
    """The average distance that best tells a domain's own members from those of the nearest other.

    Distance is 1 - cosine, of a unit vector to a domain the mean of those to its members (the
    others of its own). The threshold has the fewest errors of both kinds, each kind weighing the
    same. Returns it with the median distance of strangers. Raises ValueError for fewer than two
    domains, or one of a single vector.
    """
    if len(domains) < _FEWEST_DOMAINS or min(len(units) for units in domains) < _FEWEST_MEMBERS:
        raise ValueError("a radius needs two domains of two vectors each")
    means = [units.mean(axis=0) for units in domains]
    same, other, strangers = [], [], []
    for index, units in enumerate(domains):
        size = len(units)
        without_self = (units @ means[index] * size - 1.0) / (size - 1)
        same.append(1.0 - without_self)
        rest = np.stack([mean for place, mean in enumerate(means) if place != index])
        apart = 1.0 - units @ rest.T
        other.append(apart.min(axis=1))
        strangers.append(apart.reshape(-1))
    inside, outside = np.sort(np.concatenate(same)), np.sort(np.concatenate(other))
    candidates = np.unique(np.concatenate([inside, outside]))
    middles = (candidates[1:] + candidates[:-1]) / 2.0 if len(candidates) > 1 else candidates
    missed = 1.0 - np.searchsorted(inside, middles, side="right") / len(inside)
    swallowed = np.searchsorted(outside, middles, side="right") / len(outside)
    errors = missed + swallowed
    best = middles[errors <= errors.min() + 1e-12]
    return float(np.median(best)), float(np.median(np.concatenate(strangers)))
