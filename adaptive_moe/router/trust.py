"""From which probability on a router trusts: the thresholds in force, and those for another aim."""

import logging
from dataclasses import replace
from typing import Literal, final

from adaptive_moe.config.settings import RouterSettings
from adaptive_moe.errors import RouterError
from adaptive_moe.router.certificates import Certificate, Void, certificate_of
from adaptive_moe.router.model import Learned, RouterModel
from adaptive_moe.router.thresholds import (
    Threshold,
    cost_threshold,
    coverage_threshold,
    fixed_threshold,
    risk_threshold,
    voided_threshold,
)

Point = Literal["prefill", "answer"]
_LOGGER = logging.getLogger(__name__)


@final
class Trust:
    """What one router's settings make of its labels; immutable.

    `prefill` and `answer` are the thresholds in force at the two decisions. `certificate` is the
    promise that the answer threshold was certified with, None without one; with `void` it does not
    hold any more, and neither does any other certificate on the same labels. Where the labels are
    not of this base in these numerics (`is_calibrated`) nothing is certified.
    """

    def __init__(
        self,
        model: RouterModel,
        settings: RouterSettings,
        *,
        is_calibrated: bool = True,
        void: Void | None = None,
    ) -> None:
        self._learned = model.learned
        self._is_calibrated = is_calibrated
        self._settings = settings
        self.void = void
        self.prefill = self._in_force("prefill")
        self.answer = self._in_force("answer")
        self.certificate = self._promise(model)

    def threshold(
        self,
        *,
        target_risk: float | None,
        coverage: float | None,
        error_cost: float | None,
        point: Point,
    ) -> Threshold:
        """The threshold for the one aim that is given.

        Raises RouterError untrained, and for an aim about errors where nobody graded answers.
        """
        reason = _refusal(self._learned, is_about_errors=coverage is None)
        if reason is not None:
            raise RouterError(reason)
        assert self._learned is not None
        split = self._learned.calibration
        p = split.p_correct if point == "answer" else split.p_prefill
        if coverage is not None:
            return coverage_threshold(p, coverage=coverage)
        if error_cost is not None:
            return cost_threshold(p, split.correct, error_cost=error_cost)
        assert target_risk is not None
        return self._by_risk(self._learned, target_risk, point)

    def _in_force(self, point: Point) -> Threshold:
        target = self._settings.target_risk
        if target is None:
            return fixed_threshold(self._settings.threshold)
        reason = _refusal(self._learned, is_about_errors=True)
        if reason is not None:
            _LOGGER.warning("router.target_risk is not used, the fixed threshold is: %s", reason)
            return fixed_threshold(self._settings.threshold)
        assert self._learned is not None
        chosen = self._by_risk(self._learned, target, point)
        if not chosen.certified and chosen.void is None:
            _LOGGER.warning("threshold of the %s decision: %s", point, chosen.explanation)
        return chosen

    def _by_risk(self, learned: Learned, target: float, point: Point) -> Threshold:
        split, fallback = learned.calibration, self._settings.threshold
        p = split.p_correct if point == "answer" else split.p_prefill
        found = risk_threshold(p, split.correct, target_risk=target, fallback=fallback)
        if found.certified and not self._is_calibrated:
            text = "not certified: the router was calibrated on another base or in other numerics"
            return replace(found, certified=False, explanation=text)
        if self.void is None or not found.certified:
            return found
        return voided_threshold(
            found, p, split.correct, void=self.void, target_risk=target, fallback=fallback
        )

    def _promise(self, model: RouterModel) -> Certificate | None:
        target = self._settings.target_risk
        if target is None or self._learned is None or not self._is_calibrated:
            return None
        if _refusal(self._learned, is_about_errors=True) is not None:
            return None
        split = self._learned.calibration
        found = risk_threshold(
            split.p_correct,
            split.correct,
            target_risk=target,
            fallback=self._settings.threshold,
        )
        if not found.certified:
            return None
        return certificate_of(model, target_risk=target, value=found.value)


def _refusal(learned: Learned | None, *, is_about_errors: bool) -> str | None:
    """Why no threshold can have an aim; None if one can."""
    if learned is None:
        return "an untrained router knows no risk: fit it on graded prompts first"
    if learned.target == "agreement" and is_about_errors:
        return (
            "this router was fitted on the agreement of sampled answers, which nobody graded, so "
            "it knows no errors: fit it on questions with known answers, or give a coverage"
        )
    return None
