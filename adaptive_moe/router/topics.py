"""How wide a topic is that nobody labelled, and where the base's own topics lie."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from adaptive_moe.measures.sampling import evenly
from adaptive_moe.router.domains import topic_columns
from adaptive_moe.router.whitening import Whitening, fit_whitening

_FEWEST = 8  # prompts of a domain
_MOST = 100
_FEWEST_DOMAINS = 3  # one left out, two others to tell apart
_QUANTILES = np.linspace(0.01, 0.99, 99)


@dataclass(frozen=True, slots=True)
class Topics:
    """The average distance within which prompts of one topic lie, and the known topics' means.

    Distance is 1 - cosine of whitened states. `means` are mean directions, not rescaled, so that
    1 - mean @ direction is the average distance to the topic's prompts.
    """

    radius: float
    means: Float[np.ndarray, "topic dimension"]


def fit_topics(
    states: Mapping[str, Float[np.ndarray, "prompt state"]],
    *,
    known: Sequence[str],
    whitening: Whitening,
) -> Topics | None:
    """From labelled prompts; `known` are the labels of which the base knows something.

    Whitening draws the domains that it was fitted on together, and new ones not. So every domain
    in turn is left out of it, and the radius is the distance that on average best tells the left
    out one's prompts from all others. None for fewer than three domains of eight prompts.
    """
    several = {
        label: np.stack(evenly(list(each), _MOST))
        for label, each in states.items()
        if len(each) >= _FEWEST
    }
    if len(several) < _FEWEST_DOMAINS:
        return None
    parted = [_left_out(several, label) for label in several]
    candidates = np.quantile(np.concatenate([own for own, _ in parted]), _QUANTILES)
    errors = np.mean([_errors(own, other, candidates) for own, other in parted], axis=0)
    means = [
        units(whitening.apply(several[label])).mean(axis=0) for label in known if label in several
    ]
    width = whitening.apply(next(iter(several.values()))).shape[1]
    return Topics(
        float(candidates[int(errors.argmin())]),
        np.array(means, dtype=np.float32).reshape(-1, width),
    )


def units(vectors: Float[np.ndarray, "prompt dimension"]) -> Float[np.ndarray, "prompt dimension"]:
    """The directions of vectors; one without a direction stays zero."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    directions: np.ndarray = vectors / np.where(lengths > 0, lengths, 1.0)
    return directions


def _left_out(
    states: Mapping[str, np.ndarray], label: str
) -> tuple[Float[np.ndarray, " own"], Float[np.ndarray, " other"]]:
    """Average distances to a domain's prompts, of its own and of all others, which whiten alone."""
    others = {name: each for name, each in states.items() if name != label}
    stacked = np.concatenate(list(others.values()))
    labels = [name for name, each in others.items() for _ in each]
    whitening = fit_whitening(stacked, labels=labels, columns=topic_columns(stacked.shape[1]))
    own, strangers = units(whitening.apply(states[label])), units(whitening.apply(stacked))
    mean, size = own.mean(axis=0), len(own)
    return 1.0 - (own @ mean * size - 1.0) / (size - 1), 1.0 - strangers @ mean


def _errors(own: np.ndarray, other: np.ndarray, candidates: np.ndarray) -> np.ndarray:
    """Shares missed and swallowed at every radius."""
    missed = 1.0 - np.searchsorted(np.sort(own), candidates, side="right") / len(own)
    return missed + np.searchsorted(np.sort(other), candidates, side="right") / len(other)
