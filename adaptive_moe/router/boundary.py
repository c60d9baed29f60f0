"""Where an expert's prompts end and those begin that are not its own."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int

from adaptive_moe.errors import RouterError
from adaptive_moe.router.folds import fold_numbers
from adaptive_moe.router.products import product
from adaptive_moe.router.wording import unit, wording_matrix

if TYPE_CHECKING:
    from scipy.sparse import csr_array
    from sklearn.linear_model import LogisticRegression
    from sklearn.svm import SVC

_FEWEST = 8  # prompts on either side that a boundary can be drawn between
# Chosen on the pocket model, on the packs' development questions and known questions of the
# calibration split: a linear boundary in state space lost several times as many of the base's own
# prompts, and without the words five times as many questions went to another pack's expert.
_AXES = 256  # principal axes kept of the standardised states
_SOFTNESS = 10.0  # cost of a prompt on the wrong side in state space
_WIDTH = 0.5  # of the kernel: this over the states' total variance
_WORD_SOFTNESS = 30.0  # cost of a prompt on the wrong side by its words
_LEAST_SPREAD = 1e-3  # of a state's number, over their median
_FOLDS = 3
_PLATT_STRENGTH = 10.0


@dataclass(frozen=True, slots=True)
class Placed:
    """Prompts as a boundary sees them: where each lies and what its last turn says.

    That is in state space, or on axes.
    """

    states: Float[np.ndarray, "prompt state"]
    texts: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.texts)

    def __add__(self, other: "Placed") -> "Placed":
        return Placed(np.concatenate([self.states, other.states]), self.texts + other.texts)


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Axes:
    """How boundaries look at raw states: a state x lies at z = (x - mean) @ projection."""

    mean: Float[np.ndarray, " state"]
    projection: Float[np.ndarray, "state axis"]

    def place(self, state: Float[np.ndarray, " state"]) -> Float[np.ndarray, " axis"]:
        """Where a state lies. Raises RouterError for a state vector of another length."""
        if state.shape != self.mean.shape:
            raise RouterError(
                f"state vectors have {state.size} values, this expert expects {self.mean.size}"
            )
        return product(self.projection.T, state.astype(np.float32) - self.mean)

    def places(self, states: Float[np.ndarray, "prompt state"]) -> Float[np.ndarray, "prompt axis"]:
        """Where many lie, rounded to float16 as supports are kept: what a machine is fitted to."""
        most = float(np.finfo(np.float16).max)
        found = np.clip((states.astype(np.float32) - self.mean) @ self.projection, -most, most)
        rounded: np.ndarray = found.astype(np.float16).astype(np.float32)
        return rounded


@dataclass(frozen=True, slots=True)
class Outside:
    """What boundaries are drawn against: prompts, and the axes that all of them look along.

    With `axes` the prompts are given by their places there. Without, a boundary looks along those
    of its own outside.
    """

    prompts: Placed
    axes: Axes | None = None

    @classmethod
    def shared(cls, known: Placed) -> "Outside":
        """Prompts that all boundaries are drawn against, along their axes if they are enough."""
        axes = principal_axes(known.states) if len(known) > _AXES else None
        return cls(_seen(known, axes), axes)

    def and_also(self, others: Placed) -> "Outside":
        """With more prompts, which are given by their states, seen along the same axes."""
        return Outside(self.prompts + _seen(others, self.axes), self.axes)


def _seen(prompts: Placed, axes: Axes | None) -> Placed:
    return prompts if axes is None else Placed(axes.places(prompts.states), prompts.texts)


@dataclass(frozen=True, slots=True)
class Boundary:
    """A kernel boundary in the raw state space, and a linear one over the prompt's words.

    The margin of a state at z is the sum of weight_i exp(-gamma |z - support_i|^2) plus bias. A
    wording w of unit length adds word_weights @ w, and the membership is
    logistic(slope margin + word_weights @ w + intercept). Boundaries that were drawn against the
    same known prompts share their axes, so that a state is placed once for all of them.
    """

    axes: Axes
    supports: Float[np.ndarray, "support axis"]
    weights: Float[np.ndarray, " support"]
    word_weights: Float[np.ndarray, " column"]
    bias: float
    gamma: float
    slope: float
    intercept: float
    squared_norms: Float[np.ndarray, " support"] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        squares = np.einsum("sa,sa->s", self.supports, self.supports)
        object.__setattr__(self, "squared_norms", squares)

    def membership(
        self, state: Float[np.ndarray, " state"], columns: Int[np.ndarray, " column"]
    ) -> float:
        """How surely a prompt with this state and `wording` is one of the expert's, 0 to 1.

        Raises RouterError for a state vector of another length.
        """
        return self.claim(self.axes.place(state), self.said(columns))

    def said(self, columns: Int[np.ndarray, " column"]) -> float:
        """What a `wording` alone says: log-odds, to which the state's part is added."""
        return float(self.word_weights[columns].sum()) * unit(columns) + self.intercept

    def claim(self, place: Float[np.ndarray, " axis"], said: float) -> float:
        """The membership of a prompt that lies at `place` on the axes, by what its words said."""
        away = self.squared_norms - 2 * product(self.supports, place) + place @ place
        margin = float(self.weights @ np.exp(-self.gamma * away)) + self.bias
        value = self.slope * margin + said
        return 1 / (1 + math.exp(-max(-700.0, min(700.0, value))))


def fit_boundary(inside: Placed, outside: Outside, *, groups: Sequence[str]) -> Boundary | None:
    """A boundary between an expert's training prompts, in `groups`, and all others.

    A support vector machine over states and a logistic regression over words, each fitted with
    whole groups (question forms, sources) left out; their margins there are joined into a
    probability at the shares in which the two sides are given (Platt 1999). None with fewer than
    eight prompts on a side.
    """
    from sklearn.linear_model import LogisticRegression

    others = outside.prompts
    if min(len(inside), len(others)) < _FEWEST:
        return None
    axes = outside.axes or principal_axes(others.states)
    both = _seen(inside, axes) + (others if outside.axes else _seen(others, axes))
    total = float(both.states.astype(np.float64).var(axis=0).sum())
    sides = _Sides(
        places=both.states,
        words=wording_matrix(both.texts),
        labels=np.repeat([1, 0], [len(inside), len(others)]),
        gamma=_WIDTH / total if total > 0 else 1.0,
    )
    alone = [str(index) for index in range(len(others))]
    folds = [fold_numbers(each, folds=_FOLDS, seed=0) for each in (groups, alone)]
    margins = sides.left_out_margins(np.concatenate(folds))
    platt = LogisticRegression(C=_PLATT_STRENGTH).fit(margins, sides.labels)
    slope, word_slope = platt.coef_[0].tolist()
    everything = np.arange(len(both))
    state_machine, word_machine = sides.by_state(everything), sides.by_words(everything)
    return Boundary(
        axes=axes,
        supports=state_machine.support_vectors_.astype(np.float32),
        weights=state_machine.dual_coef_[0].astype(np.float32),
        word_weights=(word_slope * word_machine.coef_[0]).astype(np.float16).astype(np.float32),
        bias=float(state_machine.intercept_[0]),
        gamma=sides.gamma,
        slope=slope,
        intercept=float(platt.intercept_[0]) + word_slope * float(word_machine.intercept_[0]),
    )


def principal_axes(states: Float[np.ndarray, "prompt state"]) -> Axes:
    """The standardised states' main axes, rounded as they are kept; two states at least."""
    from sklearn.decomposition import PCA

    mean, spread = states.mean(axis=0), states.std(axis=0)
    scale = np.maximum(spread, _LEAST_SPREAD * np.median(spread))
    scale = np.where(scale > 0, scale, 1.0)
    axes = min(_AXES, len(states) - 1, states.shape[1])
    with np.errstate(invalid="ignore"):  # the shares of a variance of 0 are not used
        found = PCA(axes, svd_solver="randomized", random_state=0).fit((states - mean) / scale)
    most = float(np.finfo(np.float16).max)
    projection = np.clip((found.components_ / scale).T, -most, most)
    projection = projection.astype(np.float16).astype(np.float32)
    return Axes(mean.astype(np.float32), projection)


@dataclass(frozen=True, slots=True)
class _Sides:
    """Prompts of both sides as the two machines see them; `labels` are 1 inside."""

    places: Float[np.ndarray, "prompt axis"]
    words: "csr_array"
    labels: Int[np.ndarray, " prompt"]
    gamma: float

    def by_state(self, rows: Int[np.ndarray, " row"]) -> "SVC":
        from sklearn.svm import SVC

        return SVC(C=_SOFTNESS, gamma=self.gamma).fit(self.places[rows], self.labels[rows])

    def by_words(self, rows: Int[np.ndarray, " row"]) -> "LogisticRegression":
        from sklearn.linear_model import LogisticRegression

        machine = LogisticRegression(C=_WORD_SOFTNESS, max_iter=1000)
        return machine.fit(self.words[rows], self.labels[rows])

    def left_out_margins(
        self, fold_of: Int[np.ndarray, " prompt"]
    ) -> Float[np.ndarray, "prompt machine"]:
        """Both machines' margins on prompts that they were not fitted on."""
        margins = np.zeros((len(self.labels), 2))
        for fold in np.unique(fold_of):
            rest, left_out = np.flatnonzero(fold_of != fold), np.flatnonzero(fold_of == fold)
            margins[left_out, 0] = self.by_state(rest).decision_function(self.places[left_out])
            margins[left_out, 1] = self.by_words(rest).decision_function(self.words[left_out])
        return margins
