"""How far a finished answer can be trusted, as one frozen value."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Confidence:
    """How far a finished answer can be trusted.

    `p_prefill` was the chance before decoding that the base would be right, `p_correct` is the
    chance that this very answer is; both None untrained. `calibrated` says that p_correct was
    calibrated on graded answers of this base in these numerics; an expert's answer never is, nor is
    any where nobody graded answers: then both are chances that samples agree with it. `scores`
    holds every score by name, higher = more uncertain; `token_scores` one value a token.
    """

    p_prefill: float | None
    p_correct: float | None
    calibrated: bool
    scores: Mapping[str, float]
    token_scores: Mapping[str, tuple[float, ...]]
