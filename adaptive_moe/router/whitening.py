"""Whitening of state vectors: the directions in which prompts differ, each at unit spread."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float

from adaptive_moe.errors import RouterError

MAXIMUM_DIMENSIONS = 64
_MOST_COMPONENTS = 256


@dataclass(frozen=True, slots=True)
class Whitening:
    """Maps a state vector x to (x - mean) @ projection, where ordinary prompts have unit spread.

    `digest` names these very numbers: domains fitted under one whitening mean nothing under
    another.
    """

    mean: Float[np.ndarray, " state"]
    projection: Float[np.ndarray, "state dimension"]
    digest: str = field(init=False)

    def __post_init__(self) -> None:
        content = hashlib.sha256()
        for array in (self.mean, self.projection):
            content.update(np.ascontiguousarray(array, dtype=np.float32).tobytes())
        object.__setattr__(self, "digest", content.hexdigest()[:16])

    @property
    def dimensions(self) -> int:
        """Length of a whitened vector."""
        return int(self.projection.shape[1])

    def apply(self, states: np.ndarray) -> np.ndarray:
        """Whitened vectors, float32, of one state vector or of [prompt state].

        Raises RouterError when the vectors are not as long as those of the fit.
        """
        if states.shape[-1] != self.mean.size:
            raise RouterError(
                f"state vectors have {states.shape[-1]} values, this router expects "
                f"{self.mean.size}: it was made for another model"
            )
        whitened: np.ndarray = (states.astype(np.float32) - self.mean) @ self.projection
        return whitened


def fit_whitening(
    states: Float[np.ndarray, "prompt state"],
    *,
    labels: Sequence[str | None] | None = None,
    dimensions: int = MAXIMUM_DIMENSIONS,
    columns: slice = slice(None),
) -> Whitening:
    """Standardise, keep principal components, whiten, and keep where prompts still differ most.

    Whitening goes by the Ledoit-Wolf covariance (2004) in at most 256 components. With labels it
    is that within domains, which makes the distance to a centroid the Mahalanobis distance of Lee
    et al. 2018; without, that of all prompts. Keeps at most `dimensions` and at most prompts - 1
    directions; state values outside `columns` do not count. Raises RouterError below two distinct
    prompts.
    """
    from sklearn.covariance import ledoit_wolf

    values = np.asarray(states[:, columns], dtype=np.float64)
    if len(values) <= 1 or not np.ptp(values, axis=0).any():
        raise RouterError(f"whitening needs distinct prompts, got {len(values)}")
    mean = values.mean(axis=0)
    scale = values.std(axis=0)
    scale[scale < 1e-6 * max(1.0, float(scale.max()))] = np.inf
    standard = (values - mean) / scale
    components = _principal_components(standard, _MOST_COMPONENTS)
    scores = standard @ components
    covariance = ledoit_wolf(_residuals(scores, labels), assume_centered=True)[0]
    variances, axes = np.linalg.eigh(covariance)
    root = axes / np.sqrt(np.maximum(variances, 1e-8 * variances.max()))
    telling = _principal_components(scores @ root, dimensions)
    return _spread_out(mean, components / scale[:, None] @ root @ telling, states.shape[1], columns)


def _spread_out(mean: np.ndarray, projection: np.ndarray, size: int, columns: slice) -> Whitening:
    """The whitening of whole state vectors that looks at these columns only."""
    whole_mean = np.zeros(size, dtype=np.float32)
    whole = np.zeros((size, projection.shape[1]), dtype=np.float32)
    whole_mean[columns] = mean
    whole[columns] = projection
    return Whitening(whole_mean, whole)


def _principal_components(values: np.ndarray, most: int) -> np.ndarray:
    """[value, component] axes of largest variance, no more than the prompts can span."""
    from sklearn.decomposition import PCA

    count = min(most, values.shape[0] - 1, values.shape[1])
    solver = "full" if min(values.shape) <= 2 * _MOST_COMPONENTS else "randomized"
    fitted = PCA(count, svd_solver=solver, random_state=0).fit(values)
    axes: np.ndarray = fitted.components_.T
    return axes


def _residuals(scores: np.ndarray, labels: Sequence[str | None] | None) -> np.ndarray:
    """Scores with each domain's mean taken away; domains of one prompt say nothing and leave."""
    if labels is None:
        return scores
    names = np.array(["" if label is None else f"={label}" for label in labels])
    parts = [scores[names == name] for name in np.unique(names)]
    centred = [part - part.mean(axis=0) for part in parts if len(part) > 1]
    return np.concatenate(centred) if centred else scores
