"""Chooses a threshold by what it is to achieve, on the labels that calibrated the router."""

from dataclasses import dataclass, replace
from typing import Literal

from adaptive_moe.errors import RouterError
from adaptive_moe.router.model import Learned
from adaptive_moe.router.thresholds import (
    Threshold,
    cost_threshold,
    coverage_threshold,
    risk_threshold,
)

Point = Literal["prefill", "answer"]


@dataclass(frozen=True, slots=True)
class Aim:
    """What a threshold is to achieve: an error rate, a share of trusted answers, or least cost."""

    target_risk: float | None = None
    coverage: float | None = None
    error_cost: float | None = None

    @property
    def is_about_errors(self) -> bool:
        """Whether only somebody who knows the answers can tell if it is achieved."""
        return self.coverage is None


def aimed_threshold(
    aim: Aim, learned: Learned | None, *, point: Point, fallback: float, is_calibrated: bool
) -> Threshold:
    """The threshold for one aim.

    Where the probabilities are not calibrated a risk is never certified. Raises RouterError for a
    router that knows no error: an untrained one, or one fitted on agreement.
    """
    reason = refusal(aim, learned)
    if reason is not None:
        raise RouterError(reason)
    assert learned is not None
    split = learned.calibration
    p = split.p_correct if point == "answer" else split.p_prefill
    if aim.coverage is not None:
        return coverage_threshold(p, coverage=aim.coverage)
    if aim.error_cost is not None:
        return cost_threshold(p, split.correct, error_cost=aim.error_cost)
    assert aim.target_risk is not None
    found = risk_threshold(p, split.correct, target_risk=aim.target_risk, fallback=fallback)
    if found.certified and not is_calibrated:
        text = "not certified: the router was calibrated on another base or in other numerics"
        found = replace(found, certified=False, explanation=text)
    return found


def refusal(aim: Aim, learned: Learned | None) -> str | None:
    """Why no threshold can have this aim; None if one can."""
    if learned is None:
        return "an untrained router knows no risk: fit it on graded prompts first"
    if learned.target == "agreement" and aim.is_about_errors:
        return (
            "this router was fitted on the agreement of sampled answers, which nobody graded, so "
            "it knows no errors: fit it on questions with known answers, or give a coverage"
        )
    return None
