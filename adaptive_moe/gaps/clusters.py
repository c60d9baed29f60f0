"""Groups prompts that belong to no known domain by the directions of their hidden states.

A group is as wide as the average distance between its members allows: distance means 1 - cosine,
and the distance of a prompt to a group is the mean of those to its members, so that one number,
the radius, says for groups of any size what belongs together.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float
from scipy.cluster.hierarchy import linkage
from scipy.spatial.distance import squareform

Units = Float[np.ndarray, "_ width"]  # samples; sets of them differ in number

# Distance of strangers: in centred states unrelated directions are orthogonal.
_STRANGERS = 1.0
_STRANGERS_DEVIATION = 0.15
_MIXED = 0.7
_MIN_TO_LEARN = 5
_MIN_DENSITY = 20  # density estimates on fewer vectors are noise


def unit(vector: np.ndarray) -> Float[np.ndarray, " width"] | None:
    """The direction of a vector, float32; None when it has none (empty, zero, not finite)."""
    flat = np.asarray(vector, dtype=np.float64).reshape(-1)
    length = float(np.linalg.norm(flat)) if flat.size else 0.0
    if not np.isfinite(length) or length == 0.0:
        return None
    return (flat / length).astype(np.float32)


def learn_radius(known: Mapping[str, Units], *, strays: Units, unknown: Units) -> float:
    """The largest average distance at which two prompts still belong to one topic.

    From the known domains where at least two have five vectors: the distance that best separates
    prompts of the same domain from the nearest other one. Else from the `unknown` vectors (at
    least five), if their average linkage shows a clear step between topics. Else what hardly
    happens between strangers: three deviations below their typical distance, as the `strays`
    show it, confident prompts of no domain.
    """
    domains = [units for units in known.values() if len(units) >= _MIN_TO_LEARN]
    if len(domains) > 1:
        return _separating_radius(domains)
    step = _step_radius(unknown) if len(unknown) >= _MIN_TO_LEARN else None
    return _strangers_radius(strays) if step is None else step


def nearest(
    direction: Float[np.ndarray, " width"], means: Mapping[int, Float[np.ndarray, " width"]]
) -> tuple[int, float] | None:
    """The nearest group and the average distance to its members, given their mean directions.

    The means are not rescaled: their shortness tells how wide a group is. None without a group.
    """
    if not means:
        return None
    distances = {key: 1.0 - float(mean @ direction) for key, mean in means.items()}
    key = min(distances, key=lambda key: (distances[key], key))
    return key, distances[key]


def regroup(units: Units, *, radius: float, min_size: int) -> tuple[tuple[int, ...], ...]:
    """Partition row numbers into topics, largest first; order of arrival plays no part.

    Dense regions (HDBSCAN, Campello et al. 2013) stay together, less what strays out of their
    radius; then groups are joined, nearest first, while the average distance between their
    members is within `radius`.
    """
    groups = _dense_regions(units, radius=radius, min_size=min_size)
    members = {row for group in groups for row in group}
    groups += [[row] for row in range(len(units)) if row not in members]
    joined = _join(groups, 1.0 - units @ units.T, radius=radius)
    return tuple(sorted((tuple(sorted(group)) for group in joined), key=lambda g: (-len(g), g)))


def _separating_radius(domains: Sequence[Units]) -> float:
    """The threshold with the fewest errors of both kinds, each kind weighing the same."""
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
    return _within(float(np.median(best)), float(np.median(np.concatenate(strangers))))


def _strangers_radius(strays: Units) -> float:
    """Three deviations below the median distance; most pairs of mixed traffic are strangers.

    Traffic that is small or keeps to one topic says nothing; then what centred states show.
    """
    typical, deviation = _STRANGERS, _STRANGERS_DEVIATION
    if len(strays) >= _MIN_DENSITY:
        distances = _pairs(strays)
        median = float(np.median(distances))
        if median > _MIXED * _STRANGERS:
            typical = min(median, _STRANGERS)
            deviation = 1.4826 * float(np.median(np.abs(distances - median)))
    return _within(typical - 3.0 * deviation, typical)


def _within(radius: float, strangers: float) -> float:
    """A topic is neither as wide as the world nor a single question."""
    return float(np.clip(radius, 0.3 * strangers, 0.8 * strangers))


def _pairs(units: Units) -> Float[np.ndarray, " pair"]:
    """The distances of all pairs."""
    pairs: np.ndarray = (1.0 - units @ units.T)[np.triu_indices(len(units), k=1)]
    return pairs


def _step_radius(units: Units) -> float | None:
    """The middle of the largest step between merge heights, None without a clear one."""
    distances = np.clip(1.0 - units @ units.T, 0.0, 2.0).astype(np.float64)
    np.fill_diagonal(distances, 0.0)
    heights = linkage(squareform(distances, checks=False), method="average")[:, 2]
    steps = np.diff(heights)
    place = int(steps.argmax())
    if steps[place] < 0.25 * heights[place + 1]:
        return None
    middle = float((heights[place] + heights[place + 1]) / 2.0)
    return _within(middle, min(float(np.quantile(_pairs(units), 0.9)), _STRANGERS))


def _dense_regions(units: Units, *, radius: float, min_size: int) -> list[list[int]]:
    if len(units) < max(_MIN_DENSITY, 2 * min_size):
        return []
    from sklearn.cluster import HDBSCAN  # half a second to import

    labels = HDBSCAN(min_cluster_size=min_size, metric="euclidean", copy=True).fit_predict(units)
    regions = []
    for label in range(int(labels.max()) + 1):
        rows = np.flatnonzero(labels == label)
        distances = 1.0 - units[rows] @ units[rows].mean(axis=0)
        regions.append([int(row) for row in rows[distances <= radius]])
    return [region for region in regions if region]


def _join(
    groups: list[list[int]], distances: Float[np.ndarray, "sample sample"], *, radius: float
) -> list[list[int]]:
    """Average linkage from given groups up to `radius`."""
    indicator = np.zeros((len(groups), len(distances)))
    for place, group in enumerate(groups):
        indicator[place, group] = 1.0 / len(group)
    between = indicator @ distances @ indicator.T
    np.fill_diagonal(between, np.inf)
    groups = [list(group) for group in groups]
    while len(groups) > 1:
        first, second = sorted(np.unravel_index(int(between.argmin()), between.shape))
        if between[first, second] > radius:
            break
        share = len(groups[first]) / (len(groups[first]) + len(groups[second]))
        row = share * between[first] + (1.0 - share) * between[second]
        between[first], between[:, first] = row, row
        between[first, first] = np.inf
        between = np.delete(np.delete(between, second, axis=0), second, axis=1)
        groups[first] += groups.pop(second)
    return groups
