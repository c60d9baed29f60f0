"""Where an expert's prompts end and those begin that are not its own."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from adaptive_moe.errors import RouterError
from adaptive_moe.router.folds import fold_numbers
from adaptive_moe.router.wording import unit, wording_matrix

_FEWEST = 8  # prompts on either side that a boundary can be drawn between
# Chosen on the pocket model, on the packs' development questions and known questions of the
# calibration split: a linear boundary in state space lost several times as many of the base's own
# prompts, and without the words nine times as many questions went to another pack's expert.
_AXES = 256  # principal axes kept of the standardised states
_SOFTNESS = 10.0  # cost of a prompt on the wrong side in state space
_WIDTH = 0.5  # of the kernel: this over the states' total variance
_WORD_SOFTNESS = 30.0  # cost of a prompt on the wrong side by its words
_FOLDS = 3
_PLATT_STRENGTH = 10.0


@dataclass(frozen=True, slots=True)
class Placed:
    """Prompts as a boundary sees them: where each lies and what its last turn says."""

    states: Float[np.ndarray, "prompt state"]
    texts: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.texts)

    def __add__(self, other: "Placed") -> "Placed":
        return Placed(np.concatenate([self.states, other.states]), self.texts + other.texts)


@dataclass(frozen=True, slots=True)
class Boundary:
    """A kernel boundary in the raw state space, and a linear one over the prompt's words.

    A state x lies at z = (x - mean) @ projection; the margin is the sum of weight_i
    exp(-gamma |z - support_i|^2) plus bias. A wording w of unit length adds word_weights @ w, and
    the membership is logistic(slope margin + word_weights @ w + intercept).
    """

    mean: Float[np.ndarray, " state"]
    projection: Float[np.ndarray, "state axis"]
    supports: Float[np.ndarray, "support axis"]
    weights: Float[np.ndarray, " support"]
    word_weights: Float[np.ndarray, " column"]
    bias: float
    gamma: float
    slope: float
    intercept: float

    def membership(
        self, state: Float[np.ndarray, " state"], columns: Int[np.ndarray, " column"]
    ) -> float:
        """How surely a prompt with this state and `wording` is one of the expert's, 0 to 1.

        Raises RouterError for a state vector of another length.
        """
        if state.shape != self.mean.shape:
            raise RouterError(
                f"state vectors have {state.size} values, this expert expects {self.mean.size}"
            )
        place = (state.astype(np.float32) - self.mean) @ self.projection
        away = ((self.supports - place) ** 2).sum(axis=1)
        margin = float(self.weights @ np.exp(-self.gamma * away)) + self.bias
        words = float(self.word_weights[columns].sum()) * unit(columns)
        value = self.slope * margin + words + self.intercept
        return 1 / (1 + math.exp(-max(-700.0, min(700.0, value))))


def fit_boundary(inside: Placed, outside: Placed, *, groups: Sequence[str]) -> Boundary | None:
    """A boundary between an expert's training prompts, in `groups`, and all others.

    A support vector machine over states and a logistic regression over words, each fitted with
    whole groups (question forms, sources) left out; their margins there are joined into a
    probability at the shares in which the two sides are given (Platt 1999). None with fewer than
    eight prompts on a side.
    """
    from sklearn.decomposition import PCA
    from sklearn.linear_model import LogisticRegression
    from sklearn.svm import SVC

    if min(len(inside), len(outside)) < _FEWEST:
        return None
    mean, spread = outside.states.mean(axis=0), outside.states.std(axis=0)
    scale = np.where(spread > 0, spread, 1.0)
    axes = min(_AXES, len(outside) - 1, outside.states.shape[1])
    axes_of = PCA(axes, svd_solver="randomized", random_state=0)
    axes_of.fit((outside.states - mean) / scale)
    # As they are kept: the machine is fitted to what it will see.
    mean = mean.astype(np.float32)
    projection = (axes_of.components_ / scale).T.astype(np.float16).astype(np.float32)
    both = inside + outside
    places = (both.states.astype(np.float32) - mean) @ projection
    places = places.astype(np.float16).astype(np.float32)
    words = wording_matrix(both.texts)
    labels = np.repeat([1, 0], [len(inside), len(outside)])
    gamma = _WIDTH / float(places.var(axis=0).sum())

    def by_state(rows: np.ndarray) -> SVC:
        return SVC(C=_SOFTNESS, gamma=gamma).fit(places[rows], labels[rows])

    def by_words(rows: np.ndarray) -> LogisticRegression:
        machine = LogisticRegression(C=_WORD_SOFTNESS, max_iter=1000)
        return machine.fit(words[rows], labels[rows])

    margins = np.zeros((len(labels), 2))
    fold_of = np.concatenate(
        [
            fold_numbers(groups, folds=_FOLDS, seed=0),
            fold_numbers([str(i) for i in range(len(outside))], folds=_FOLDS, seed=0),
        ]
    )
    for fold in range(_FOLDS):
        rest, left_out = np.flatnonzero(fold_of != fold), np.flatnonzero(fold_of == fold)
        margins[left_out, 0] = by_state(rest).decision_function(places[left_out])
        margins[left_out, 1] = by_words(rest).decision_function(words[left_out])
    platt = LogisticRegression(C=_PLATT_STRENGTH).fit(margins, labels)
    slope, word_slope = platt.coef_[0].tolist()
    everything = np.arange(len(labels))
    state_machine, word_machine = by_state(everything), by_words(everything)
    return Boundary(
        mean=mean,
        projection=projection,
        supports=state_machine.support_vectors_.astype(np.float32),
        weights=state_machine.dual_coef_[0].astype(np.float32),
        word_weights=(word_slope * word_machine.coef_[0]).astype(np.float16).astype(np.float32),
        bias=float(state_machine.intercept_[0]),
        gamma=gamma,
        slope=slope,
        intercept=float(platt.intercept_[0]) + word_slope * float(word_machine.intercept_[0]),
    )
