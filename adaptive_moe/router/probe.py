"""A linear probe: logistic regression on uncertainty scores and, if they help, on states."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float

# A score further out than this is as bad as this: one wild value must not decide alone.
_MOST_DEVIATIONS = 5.0
_MOST_COMPONENTS = 128
_PROMPTS_PER_COMPONENT = 4
_STATE_VARIANCE = 16.0
_FOLDS = 5
_PENALTIES = (0.003, 0.03, 0.3, 3.0)
_SCORES_ONLY = 1.0
_FEWEST_FOR_STATES = 60
_LEAST_SPREAD = 1e-9


@dataclass(frozen=True, slots=True)
class StateProjection:
    """Principal components of standardised state vectors, all together of variance 16.

    That is the weight of 16 standardised scores, so that one penalty suits both kinds.
    """

    mean: Float[np.ndarray, " state"]
    components: Float[np.ndarray, "state component"]

    def apply(self, states: Float[np.ndarray, "item state"]) -> Float[np.ndarray, "item component"]:
        """Components of every state vector, float64."""
        projected: np.ndarray = (states.astype(np.float64) - self.mean) @ self.components
        return projected


@dataclass(frozen=True, slots=True)
class Probe:
    """Weights over squashed and z-scored scores, then over state components where there are any.

    `penalty` is the inverse strength C of the chosen L2 penalty. `state_weights` are the weights
    of the components, taken back to the state vectors.
    """

    features: tuple[str, ...]
    centre: Float[np.ndarray, " score"]
    scale: Float[np.ndarray, " score"]
    projection: StateProjection | None
    coefficients: Float[np.ndarray, " feature"]
    intercept: float
    penalty: float
    state_weights: Float[np.ndarray, " state"] | None = field(init=False, repr=False)

    def __post_init__(self) -> None:
        found = None
        if self.projection is not None:
            found = self.projection.components @ self.coefficients[len(self.features) :]
        object.__setattr__(self, "state_weights", found)

    def logits(
        self, scores: Sequence[Mapping[str, float]], states: Float[np.ndarray, "item state"]
    ) -> Float[np.ndarray, " item"]:
        """Log-odds of being right, [item]; `scores` must hold every feature by name."""
        inputs = self._standardise(scores)
        logits: np.ndarray = inputs @ self.coefficients[: len(self.features)] + self.intercept
        if self.projection is not None:
            logits += (states.astype(np.float64) - self.projection.mean) @ self.state_weights
        return logits

    def _standardise(self, scores: Sequence[Mapping[str, float]]) -> np.ndarray:
        return _standardise(score_matrix(scores, self.features), self.centre, self.scale)


def fit_probe(
    scores: Sequence[Mapping[str, float]],
    states: Float[np.ndarray, "item state"],
    correct: Float[np.ndarray, " item"],
    *,
    features: Sequence[str],
    groups: Sequence[str],
    use_states: bool = True,
    seed: int,
) -> Probe:
    """Fit with and without states under several L2 penalties; the best cross-validated loss wins.

    Folds keep `groups` together, and "scores alone" stands in the contest, so states are taken
    only when they help on sources never seen. Each kind of label must occur in two groups; labels
    may lie between 0 and 1.
    """
    matrix = score_matrix(scores, tuple(features))
    centre, scale = matrix.mean(axis=0), matrix.std(axis=0)
    scale[scale < _LEAST_SPREAD] = 1.0
    plain = _standardise(matrix, centre, scale)
    candidates: list[tuple[StateProjection | None, np.ndarray, float]] = [
        (None, plain, _SCORES_ONLY)
    ]
    if use_states and len(correct) >= _FEWEST_FOR_STATES:
        projection = _fit_projection(states, seed)
        wide = np.concatenate([plain, projection.apply(states)], axis=1)
        candidates += [(projection, wide, penalty) for penalty in _PENALTIES]
    folds = _folds(correct, groups, seed) if len(candidates) > 1 else []
    losses = [
        _held_out_loss(inputs, correct, folds, penalty=penalty) for _, inputs, penalty in candidates
    ]
    chosen, inputs, penalty = candidates[int(np.argmin(losses))]
    coefficients, intercept = _logistic(inputs, correct, penalty)
    return Probe(tuple(features), centre, scale, chosen, coefficients, intercept, penalty)


def score_matrix(
    scores: Sequence[Mapping[str, float]], features: Sequence[str]
) -> Float[np.ndarray, "item score"]:
    """Scores by row and feature, squashed by sign(x) log(1 + |x|) so that long tails stay short."""
    raw = np.array([[row[name] for name in features] for row in scores], dtype=np.float64)
    squashed: np.ndarray = np.sign(raw) * np.log1p(np.abs(raw))
    return squashed


def _standardise(matrix: np.ndarray, centre: np.ndarray, scale: np.ndarray) -> np.ndarray:
    deviations: np.ndarray = np.clip((matrix - centre) / scale, -_MOST_DEVIATIONS, _MOST_DEVIATIONS)
    return deviations


def _fit_projection(states: np.ndarray, seed: int) -> StateProjection:
    from sklearn.decomposition import PCA

    values = states.astype(np.float64)
    mean, scale = values.mean(axis=0), values.std(axis=0)
    scale[scale < 1e-6 * max(1.0, float(scale.max()))] = np.inf
    standard = (values - mean) / scale
    most = min(_MOST_COMPONENTS, len(values) // _PROMPTS_PER_COMPONENT, values.shape[1])
    fitted = PCA(max(1, most), svd_solver="randomized", random_state=seed).fit(standard)
    weight = np.sqrt(_STATE_VARIANCE / max(float(fitted.explained_variance_.sum()), 1e-12))
    return StateProjection(mean, fitted.components_.T / scale[:, None] * weight)


def _folds(
    correct: np.ndarray, groups: Sequence[str], seed: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """(inside, outside) indices that keep groups together, both kinds of label inside."""
    from sklearn.model_selection import StratifiedGroupKFold

    splitter = StratifiedGroupKFold(_FOLDS, shuffle=True, random_state=seed)
    parts = splitter.split(correct, correct >= 1 / 2, groups)
    return [(inside, outside) for inside, outside in parts if np.ptp(correct[inside]) > 0]


def _held_out_loss(
    inputs: np.ndarray,
    correct: np.ndarray,
    folds: Sequence[tuple[np.ndarray, np.ndarray]],
    *,
    penalty: float,
) -> float:
    """Negative log-likelihood summed over the folds' outsides."""
    total = 0.0
    for inside, outside in folds:
        coefficients, intercept = _logistic(inputs[inside], correct[inside], penalty)
        logits = inputs[outside] @ coefficients + intercept
        total += float((np.logaddexp(0.0, logits) - correct[outside] * logits).sum())
    return total


def _logistic(inputs: np.ndarray, correct: np.ndarray, penalty: float) -> tuple[np.ndarray, float]:
    """A label between 0 and 1 counts as right by its share, and as wrong by the rest."""
    from sklearn.linear_model import LogisticRegression

    right, wrong = np.flatnonzero(correct > 0), np.flatnonzero(correct < 1)
    kinds = np.repeat([1, 0], [right.size, wrong.size])
    weights = np.concatenate([correct[right], 1 - correct[wrong]])
    doubled = inputs[np.concatenate([right, wrong])]
    fitted = LogisticRegression(C=penalty, max_iter=2000).fit(doubled, kinds, weights)
    return fitted.coef_[0].astype(np.float64), float(fitted.intercept_[0])
