"""Domains of prompts in the base's own state space: centroids, radii and nearest-domain search."""

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final
from weakref import WeakValueDictionary

import numpy as np
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from scipy.stats import t as student_t

from adaptive_moe.errors import RouterError
from adaptive_moe.models.prefilling import Prefill
from adaptive_moe.router.boundary import Axes, Boundary
from adaptive_moe.router.folds import fold_numbers
from adaptive_moe.router.products import product
from adaptive_moe.router.whitening import Whitening, fit_whitening
from adaptive_moe.router.wording import COLUMNS

__all__ = [
    "Domain",
    "DomainIndex",
    "DomainMatch",
    "Whitening",
    "cluster_centres",
    "fit_domain",
    "fit_whitening",
    "nearest_distances",
    "read_domain",
    "state_vector",
    "topic_columns",
    "write_domain",
]

RADIUS_QUANTILE = 0.99
_RANKING_LENGTH = 32
_FOLDS = 5
# Fewer prompts than this tell nothing about their own spread.
_FEWEST_FOR_SPREAD = 3
_MATRIX_AXES = 2
_POINTS_PER_CENTROID = 4
# A boundary's parts as they are kept.
_NUMBERS = ("bias", "gamma", "slope", "intercept")
_AXES_ARRAYS = {"mean": np.float32, "projection": np.float16}
_ARRAYS = {
    "supports": np.float16,
    "weights": np.float32,
    "word_weights": np.float16,
}
_known_axes: WeakValueDictionary[bytes, Axes] = WeakValueDictionary()


@dataclass(frozen=True, slots=True)
class Domain:
    """A region of prompts: within `radius` (whitened distance) of any of its centroids.

    An expert's domain also has a `boundary` against the base's own prompts where enough of those
    were known when it was trained.
    """

    label: str
    centroids: Float[np.ndarray, "centroid dimension"]
    radius: float
    whitening_digest: str
    boundary: Boundary | None = None


@dataclass(frozen=True, slots=True)
class DomainMatch:
    """Where a prompt lies. `label` is the nearest domain that contains it, None outside all.

    `distance` and `radius` belong to that domain, or to the nearest one when `label` is None.
    `ranking` lists the nearest 32 domains by distance to their nearest centroid, nearest first.
    `point` is the prompt's whitened state. An empty index gives infinite distance and an empty
    ranking.
    """

    label: str | None
    distance: float
    radius: float
    ranking: tuple[tuple[str, float], ...]
    point: Float[np.ndarray, " dimension"] = field(compare=False, repr=False)


def state_vector(prefill: Prefill, *, row: int | None = None) -> Float[np.ndarray, " state"]:
    """One prompt's pooled states and header states, three mid layers each, as one float32 vector.

    `row` may be left out when the prefill holds one prompt.
    """
    if row is None:
        if len(prefill.prompts) != 1:
            raise RouterError(f"name one of the {len(prefill.prompts)} rows of this prefill")
        row = 0
    parts = (prefill.pooled[row], prefill.header_states[row])
    flat = [part.detach().float().cpu().reshape(-1).numpy() for part in parts]
    return np.concatenate(flat)


def topic_columns(state_size: int) -> slice:
    """The part of a state vector that tells topics apart: the pooled states, its first half.

    The header states tell how the answer will begin. On the pocket model they halve the share of
    unknown topics that stand out.
    """
    return slice(0, state_size // 2)


def fit_domain(
    label: str,
    vectors: Float[np.ndarray, "prompt state"],
    whitening: Whitening,
    *,
    max_centroids: int = 16,
    seed: int,
    groups: Sequence[str] | None = None,
) -> Domain:
    """Centroids by k-means of the whitened prompts; radius such that 99 % of new ones lie inside.

    Distances are taken for prompts left out of the clustering, whole `groups` (question forms,
    sources) at a time where given. From 99 prompts on, the radius is their conformal quantile;
    below, the larger of their maximum and Student's prediction limit; below three prompts, half
    the length of a typical whitened vector. Raises RouterError without a prompt.
    """
    points = whitening.apply(np.asarray(vectors))
    if points.shape[0] == 0:
        raise RouterError(f"domain {label!r} has no prompt")
    names = [str(index) for index in range(len(points))] if groups is None else list(groups)
    if len(names) != len(points):
        raise RouterError(f"domain {label!r}: {len(points)} prompts but {len(names)} groups")
    distances = _left_out_distances(points, names, max_centroids=max_centroids, seed=seed)
    radius = _radius(distances, whitening.dimensions)
    centroids = cluster_centres(points, max_centroids=max_centroids, seed=seed)
    return Domain(label, centroids, radius, whitening.digest)


def cluster_centres(
    points: Float[np.ndarray, "prompt dimension"], *, max_centroids: int, seed: int
) -> Float[np.ndarray, "centroid dimension"]:
    """A k-means centre for every four whitened points, one at least, float32."""
    from sklearn.cluster import KMeans

    distinct = np.unique(points, axis=0).shape[0]
    clusters = min(max_centroids, max(1, len(points) // _POINTS_PER_CENTROID), distinct)
    if clusters == 1:
        return np.asarray(points.mean(axis=0, keepdims=True, dtype=np.float64), np.float32)
    found = KMeans(clusters, n_init=1, random_state=seed).fit(points.astype(np.float64))
    return np.asarray(found.cluster_centers_, dtype=np.float32)


def nearest_distances(
    points: Float[np.ndarray, "prompt dimension"],
    centroids: Float[np.ndarray, "centroid dimension"],
) -> Float[np.ndarray, " prompt"]:
    """Euclidean distance of every point to its nearest centroid, whitened units."""
    squared = (
        (points**2).sum(axis=1)[:, None] - 2 * points @ centroids.T + (centroids**2).sum(axis=1)
    )
    distances: np.ndarray = np.sqrt(np.maximum(squared.min(axis=1), 0.0))
    return distances


@final
class DomainIndex:
    """Finds the nearest of many domains with one matrix product over all their centroids.

    Not for concurrent changes; concurrent `assign` calls are safe.
    """

    def __init__(self, whitening: Whitening) -> None:
        self._whitening = whitening
        self._domains: dict[str, Domain] = {}
        self._matrix: _CentroidMatrix | None = None

    def __len__(self) -> int:
        return len(self._domains)

    def __contains__(self, key: str) -> bool:
        return key in self._domains

    def add(self, domain: Domain, *, key: str | None = None) -> None:
        """Let a domain compete under `key` (its label unless given), replacing that key's old one.

        Raises RouterError when it was fitted under another whitening.
        """
        if domain.whitening_digest != self._whitening.digest:
            raise RouterError(
                f"domain {domain.label!r} was fitted under whitening {domain.whitening_digest}, "
                f"this index uses {self._whitening.digest}; fit the domain again"
            )
        self._domains[domain.label if key is None else key] = domain
        self._matrix = None

    def remove(self, key: str) -> None:
        """Forget a domain; an unknown key is a RouterError."""
        if self._domains.pop(key, None) is None:
            raise RouterError(f"no domain is known as {key!r}")
        self._matrix = None

    def assign(self, vector: Float[np.ndarray, " state"]) -> DomainMatch:
        """The domain of a raw state vector; see `DomainMatch`."""
        return self.locate(self._whitening.apply(vector))

    def locate(self, point: Float[np.ndarray, " dimension"]) -> DomainMatch:
        """The domain of a whitened state vector."""
        if not self._domains:
            return DomainMatch(None, math.inf, 0.0, (), point)
        matrix = self._matrix
        if matrix is None:
            matrix = self._matrix = _CentroidMatrix.stack(self._domains)
        distances = matrix.distances(point)
        order = _smallest(distances, _RANKING_LENGTH)
        ranking = tuple((matrix.keys[i], float(distances[i])) for i in order)
        inside = np.flatnonzero(distances <= matrix.radii)
        chosen = inside[distances[inside].argmin()] if inside.size else order[0]
        label = matrix.keys[chosen] if inside.size else None
        distance, radius = float(distances[chosen]), float(matrix.radii[chosen])
        return DomainMatch(label, distance, radius, ranking, point)


def write_domain(path: Path, domain: Domain) -> None:
    """One domain as a safetensors file; the same domain always gives the same bytes."""
    record: dict[str, object] = {
        "label": domain.label,
        "radius": domain.radius,
        "whitening_digest": domain.whitening_digest,
        "boundary": None,
    }
    arrays = {"centroids": np.ascontiguousarray(domain.centroids)}
    if domain.boundary is not None:
        record["boundary"] = {name: getattr(domain.boundary, name) for name in _NUMBERS}
        for whole, kinds in ((domain.boundary, _ARRAYS), (domain.boundary.axes, _AXES_ARRAYS)):
            for name, kind in kinds.items():
                arrays[name] = np.ascontiguousarray(getattr(whole, name), dtype=kind)
    # One metadata entry: the order of several is not fixed by the format.
    metadata = {"domain": json.dumps(record, sort_keys=True)}
    save_file(arrays, path, metadata=metadata)


def read_domain(path: Path) -> Domain:
    """The domain in a file of `write_domain`. Raises RouterError when it is not one."""
    try:
        with safe_open(path, framework="numpy") as file:
            record = json.loads((file.metadata() or {})["domain"])
            centroids = file.get_tensor("centroids")
            boundary = None
            if record["boundary"] is not None:
                axes = _shared(*(file.get_tensor(name) for name in _AXES_ARRAYS))
                parts: dict[str, Any] = {
                    name: file.get_tensor(name).astype(np.float32) for name in _ARRAYS
                }
                parts |= {name: float(record["boundary"][name]) for name in _NUMBERS}
                boundary = Boundary(axes, **parts)
        domain = Domain(
            str(record["label"]),
            centroids,
            float(record["radius"]),
            str(record["whitening_digest"]),
            boundary,
        )
        is_possible = centroids.ndim == _MATRIX_AXES and _is_possible(domain)
    except (SafetensorError, OSError, KeyError, ValueError, TypeError) as error:
        raise RouterError(f"{path} holds no domain: {error}") from error
    if not is_possible:
        raise RouterError(f"{path} holds a domain with impossible numbers")
    return domain


def _shared(mean: np.ndarray, projection: np.ndarray) -> Axes:
    """The axes of these arrays, one object for all domains that have them."""
    digest = hashlib.sha256(mean.tobytes() + projection.tobytes()).digest()
    axes = _known_axes.get(digest)
    if axes is None:
        axes = Axes(mean.astype(np.float32), projection.astype(np.float32))
        _known_axes[digest] = axes
    return axes


def _is_possible(domain: Domain) -> bool:
    """Everything finite, and the parts of the boundary of one size."""
    numbers = [domain.centroids, np.array(domain.radius)]
    boundary = domain.boundary
    if boundary is not None:
        axes = boundary.axes
        numbers += [axes.mean, axes.projection]
        numbers += [np.asarray(getattr(boundary, name)) for name in (*_ARRAYS, *_NUMBERS)]
        size, count = axes.projection.shape
        if axes.mean.shape != (size,) or boundary.supports.shape[1:] != (count,):
            return False
        if boundary.weights.shape != boundary.supports.shape[:1]:
            return False
        if boundary.word_weights.shape != (COLUMNS,):
            return False
    return all(bool(np.isfinite(each).all()) for each in numbers)


@dataclass(frozen=True, slots=True)
class _CentroidMatrix:
    """All centroids of an index beside each other: every domain's first, then every second, ...

    Domains stand by falling number of centroids, so those that have an n-th one are the first
    `counts[n]`.
    """

    keys: tuple[str, ...]
    centroids: Float[np.ndarray, "dimension centroid"]
    half_squared_norms: Float[np.ndarray, " centroid"]
    counts: tuple[int, ...]
    radii: Float[np.ndarray, " domain"]

    @classmethod
    def stack(cls, domains: dict[str, Domain]) -> "_CentroidMatrix":
        """The matrix of these domains."""
        ordered = sorted(domains.items(), key=lambda item: -len(item[1].centroids))
        together = np.concatenate([domain.centroids for _, domain in ordered])
        places = np.concatenate([np.arange(len(domain.centroids)) for _, domain in ordered])
        centroids = together[np.argsort(places, kind="stable")]
        return cls(
            tuple(key for key, _ in ordered),
            np.ascontiguousarray(centroids.T, dtype=np.float32),
            (centroids**2).sum(axis=1) / 2,
            tuple(np.bincount(places).tolist()),
            np.array([domain.radius for _, domain in ordered], dtype=np.float32),
        )

    def distances(self, point: np.ndarray) -> np.ndarray:
        """Distance of a whitened point to every domain's nearest centroid, [domain]."""
        relative = self.half_squared_norms - product(self.centroids.T, point)
        nearest, start = relative[: self.counts[0]], self.counts[0]
        for count in self.counts[1:]:
            part = nearest[:count]
            np.minimum(part, relative[start : start + count], out=part)
            start += count
        distances: np.ndarray = np.sqrt(np.maximum(2 * nearest + point @ point, 0.0))
        return distances


def _left_out_distances(
    points: np.ndarray, names: Sequence[str], *, max_centroids: int, seed: int
) -> np.ndarray:
    """Distance of every point to centroids that never saw its group; empty when not possible."""
    if len(set(names)) == 1 or len(points) < _FEWEST_FOR_SPREAD:
        return np.empty(0)
    folds = fold_numbers(names, folds=_FOLDS, seed=seed)
    distances = np.empty(len(points))
    for fold in np.unique(folds):
        inside, outside = points[folds != fold], folds == fold
        centroids = cluster_centres(inside, max_centroids=max_centroids, seed=seed)
        distances[outside] = nearest_distances(points[outside], centroids)
    return distances


def _radius(distances: np.ndarray, dimensions: int) -> float:
    count = distances.size
    if count < _FEWEST_FOR_SPREAD:
        return 0.5 * math.sqrt(dimensions)
    rank = math.ceil(RADIUS_QUANTILE * (count + 1))
    if rank <= count:
        return float(np.sort(distances)[rank - 1])
    limit = float(student_t.ppf(RADIUS_QUANTILE, count - 1)) * math.sqrt(1 + 1 / count)
    return max(float(distances.max()), float(distances.mean() + limit * distances.std(ddof=1)))


def _smallest(values: np.ndarray, count: int) -> np.ndarray:
    """Indices of the smallest values in rising order."""
    if values.size <= count:
        return np.argsort(values, kind="stable")
    part = np.argpartition(values, count)[:count]
    return part[np.argsort(values[part], kind="stable")]
