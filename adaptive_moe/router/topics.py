"""The topics of a router's labelled prompts: which one a prompt is of, and how wide one is."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int

from adaptive_moe.measures.sampling import evenly
from adaptive_moe.router.domains import topic_columns
from adaptive_moe.router.evidence import RouterRow
from adaptive_moe.router.folds import fold_numbers
from adaptive_moe.router.whitening import Whitening, fit_whitening
from adaptive_moe.router.wording import COLUMNS, unit, wording_matrix

if TYPE_CHECKING:
    from scipy.sparse import csr_array

_FEWEST = 8  # prompts of a domain
_MOST = 100  # of each while the radius is sought
_FEWEST_DOMAINS = 3  # one left out, two others to tell apart
_MOST_FOLDS = 6  # of domains that are left out together
_QUANTILES = np.linspace(0.01, 0.99, 99)
# Chosen on the pocket model's calibration split, and on other questions of its packs than are
# tested: 10 to 100, and lengths of .15 to .35, hardly differ there.
_SOFTNESS = 30.0
_STATE_LENGTH = 0.25  # of a state's direction beside words, whose vectors have length 1


@dataclass(frozen=True, slots=True)
class Topics:
    """The domains that were labelled when a router was fitted, and what prompts of them look like.

    A prompt's logits over `labels` are linear in its words (a vector of length 1) and the direction
    of its whitened state. A prompt for which none reaches a probability of `least` is of another
    topic. `radius` is the average distance within which prompts of one topic lie, even of one that
    nobody labelled; distance is 1 - cosine of whitened states.
    """

    radius: float
    labels: tuple[str, ...]
    words: Float[np.ndarray, "column topic"]
    states: Float[np.ndarray, "dimension topic"]
    bias: Float[np.ndarray, " topic"]
    least: float

    def check(self, dimensions: int) -> None:
        """Raises ValueError when its parts do not fit together, or states of so many dimensions."""
        count = len(self.labels)
        shapes = [self.words.shape, self.states.shape, self.bias.shape]
        if shapes != [(COLUMNS, count), (dimensions, count), (count,)]:
            raise ValueError(f"{count} topics cannot have numbers of shapes {shapes}")
        if not (0.0 <= self.least <= 1.0 and 0.0 <= self.radius <= 2.0):  # noqa: PLR2004 - 1 - cosine
            raise ValueError(f"no topic is {self.radius} wide or {self.least} likely")

    def find(
        self, point: Float[np.ndarray, " dimension"], columns: Int[np.ndarray, " column"]
    ) -> str | None:
        """The label of a prompt with this whitened state and `wording`; None for another topic."""
        said = self.words[columns].sum(axis=0, dtype=np.float32) * unit(columns)
        direction = point / (math.sqrt(float(point @ point)) or 1.0)
        logits = said + direction @ self.states + self.bias
        best = int(logits.argmax())
        share = 1.0 / float(np.exp(logits - logits[best]).sum())
        return self.labels[best] if share >= self.least else None


@dataclass(frozen=True, slots=True)
class About:
    """What a prompt is about: its raw state vector, its `wording`, and its topic if one is known.

    `is_told` says whether the router knows topics at all.
    """

    states: Float[np.ndarray, " state"]
    columns: Int[np.ndarray, " column"]
    topic: str | None
    is_told: bool


def fit_topics(rows: Sequence[RouterRow], whitening: Whitening, *, seed: int) -> Topics | None:
    """From rows with domains; None for fewer than three domains of eight prompts.

    A multinomial logistic regression over words and states. What it is to say at least, and how
    wide a topic is, are learned from domains that are left out in turn, as of those that it knows
    it would be too sure.
    """
    by_label: dict[str, list[RouterRow]] = defaultdict(list)
    for row in rows:
        if row.domain is not None:
            by_label[row.domain].append(row)
    several = {label: each for label, each in sorted(by_label.items()) if len(each) >= _FEWEST}
    if len(several) < _FEWEST_DOMAINS:
        return None
    few = {label: evenly(each, _MOST) for label, each in several.items()}
    machine = _Machine.fit([row for each in several.values() for row in each], whitening)
    return Topics(
        radius=_radius(few),
        labels=machine.labels,
        words=machine.weights[:COLUMNS].astype(np.float16),
        states=(machine.weights[COLUMNS:] * _STATE_LENGTH).astype(np.float32),
        bias=machine.bias,
        least=_least(several, seed=seed),
    )


def units(vectors: Float[np.ndarray, "prompt dimension"]) -> Float[np.ndarray, "prompt dimension"]:
    """The directions of vectors; one without a direction stays zero."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    directions: np.ndarray = vectors / np.where(lengths > 0, lengths, 1.0)
    return directions


@dataclass(frozen=True, slots=True)
class _Machine:
    """The regression as it is fitted, under its whitening; `weights` are [feature topic]."""

    whitening: Whitening
    labels: tuple[str, ...]
    weights: Float[np.ndarray, "feature topic"]
    bias: Float[np.ndarray, " topic"]

    @classmethod
    def fit(cls, rows: Sequence[RouterRow], whitening: Whitening) -> "_Machine":
        """From rows of two domains at least."""
        from sklearn.linear_model import LogisticRegression

        features = _features(rows, whitening)
        used = np.flatnonzero(features.count_nonzero(axis=0))  # of most words there are none
        machine = LogisticRegression(C=_SOFTNESS, max_iter=1000)
        machine.fit(features[:, used], [row.domain for row in rows])
        weights, bias = np.zeros((len(machine.coef_), features.shape[1])), machine.intercept_
        weights[:, used] = machine.coef_
        if len(weights) == 1:  # of two topics it keeps one side
            weights, bias = (
                np.concatenate([-weights, weights]) / 2,
                np.repeat(bias, 2) * [-0.5, 0.5],
            )
        labels = tuple(str(label) for label in machine.classes_)
        return cls(whitening, labels, weights.T, bias.astype(np.float32))

    def surest(self, rows: Sequence[RouterRow]) -> Float[np.ndarray, " row"]:
        """The probability of every row's likeliest topic."""
        logits = _features(rows, self.whitening) @ self.weights + self.bias
        surest: np.ndarray = 1.0 / np.exp(logits - logits.max(axis=1, keepdims=True)).sum(axis=1)
        return surest


def _features(rows: Sequence[RouterRow], whitening: Whitening) -> "csr_array":
    from scipy.sparse import csr_array, hstack

    words = wording_matrix([row.evidence.text for row in rows])
    directions = units(whitening.apply(_states(rows))).astype(np.float64)
    return csr_array(hstack([words, csr_array(directions * _STATE_LENGTH)]))


def _states(rows: Sequence[RouterRow]) -> Float[np.ndarray, "row state"]:
    return np.stack([row.evidence.states for row in rows])


def _whitening(rows: Sequence[RouterRow]) -> Whitening:
    """One that knows the domains of these rows only."""
    states = _states(rows)
    labels = [row.domain for row in rows]
    return fit_whitening(states, labels=labels, columns=topic_columns(states.shape[1]))


def _least(domains: Mapping[str, Sequence[RouterRow]], *, seed: int) -> float:
    """The probability that best tells prompts of known topics from those of others.

    Some domains at a time are left out, and half the sources of every other one.
    """
    fold_of = fold_numbers(list(domains), folds=min(_MOST_FOLDS, len(domains)), seed=seed)
    halves = [_halves(rows, seed) for rows in domains.values()]
    known, unknown = [], []
    for fold in np.unique(fold_of):
        others = [half for half, own in zip(halves, fold_of, strict=True) if own != fold]
        left_out = [half for half, own in zip(halves, fold_of, strict=True) if own == fold]
        taught = [row for first, _ in others for row in first]
        machine = _Machine.fit(taught, _whitening(taught))
        known.append(machine.surest([row for _, second in others for row in second]))
        unknown.append(machine.surest([row for both in left_out for half in both for row in half]))
    inside, outside = 1.0 - np.concatenate(known), 1.0 - np.concatenate(unknown)
    candidates = np.quantile(np.concatenate([inside, outside]), _QUANTILES)
    return 1.0 - float(candidates[_errors(inside, outside, candidates).argmin()])


def _halves(
    rows: Sequence[RouterRow], seed: int
) -> tuple[tuple[RouterRow, ...], tuple[RouterRow, ...]]:
    """Two halves of a domain that share no source; of a single source, any two."""
    fold_of = fold_numbers([row.source for row in rows], folds=2, seed=seed)
    pairs = list(zip(rows, fold_of, strict=True))
    return tuple(row for row, own in pairs if own), tuple(row for row, own in pairs if not own)


def _radius(domains: Mapping[str, Sequence[RouterRow]]) -> float:
    """The average distance that best tells a new domain's prompts from all others.

    Whitening draws the domains that it was fitted on together, and new ones not, so every domain
    in turn is left out of it.
    """
    parted = [_distances(domains, label) for label in domains]
    candidates = np.quantile(np.concatenate([own for own, _ in parted]), _QUANTILES)
    errors = np.mean([_errors(own, other, candidates) for own, other in parted], axis=0)
    return float(candidates[int(errors.argmin())])


def _distances(
    domains: Mapping[str, Sequence[RouterRow]], label: str
) -> tuple[Float[np.ndarray, " own"], Float[np.ndarray, " other"]]:
    """Average distances to a domain's prompts, of its own and of all others, which whiten alone."""
    others = [row for name, rows in domains.items() if name != label for row in rows]
    whitening = _whitening(others)
    own = units(whitening.apply(_states(domains[label])))
    mean, size = own.mean(axis=0), len(own)
    strangers = units(whitening.apply(_states(others)))
    return 1.0 - (own @ mean * size - 1.0) / (size - 1), 1.0 - strangers @ mean


def _errors(own: np.ndarray, other: np.ndarray, candidates: np.ndarray) -> np.ndarray:
    """Shares missed and swallowed when what is at most a candidate counts as own."""
    missed = 1.0 - np.searchsorted(np.sort(own), candidates, side="right") / len(own)
    return missed + np.searchsorted(np.sort(other), candidates, side="right") / len(other)
