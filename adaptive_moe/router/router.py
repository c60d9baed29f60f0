"""The router: decides from a prompt's prefill who answers, and judges the finished answer."""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import final

import numpy as np

from adaptive_moe.config.settings import RouterSettings
from adaptive_moe.errors import RouterError
from adaptive_moe.models.fingerprint import Numerics
from adaptive_moe.models.token_trace import TokenTrace
from adaptive_moe.router.arm_index import ArmIndex, index_arms
from adaptive_moe.router.certificates import Certificate, Void
from adaptive_moe.router.choice import ExpertArm, choose, domain_name, forced_route
from adaptive_moe.router.confidence import Confidence
from adaptive_moe.router.decision import BaseStanding, RouteDecision
from adaptive_moe.router.domains import Domain
from adaptive_moe.router.evidence import Evidence, RouterRow
from adaptive_moe.router.files import read_model, write_model
from adaptive_moe.router.fitted_on import FittedOn, Target
from adaptive_moe.router.fitting import fit_background, fit_model, recalibrate
from adaptive_moe.router.model import ANSWER_DEFAULT, PREFILL_DEFAULT, Reference, RouterModel
from adaptive_moe.router.scores import answer_scores, token_scores
from adaptive_moe.router.thresholds import Threshold, fixed_threshold
from adaptive_moe.router.trust import Point, Trust
from adaptive_moe.router.whitening import Whitening

__all__ = [
    "Confidence",
    "Evidence",
    "ExpertArm",
    "RouteDecision",
    "Router",
    "RouterRow",
]

_CLAIMS: Mapping[Target, str] = {
    "answers": "the base is right",
    "agreement": "the base would say the same again",
}
_LOGGER = logging.getLogger(__name__)


@final
class Router:
    """Decides and judges; immutable but for a cache of the last arms' domain index.

    A trained router goes by calibrated probabilities and trusts the base from the threshold on.
    An untrained one ranks entropies among the base's own samples and distrusts those beyond the
    threshold's percentile.
    """

    def __init__(
        self,
        model: RouterModel,
        settings: RouterSettings,
        *,
        is_calibrated: bool = True,
        void: Void | None = None,
    ) -> None:
        self._model = model
        self._settings = settings
        learned = model.learned
        self._is_calibrated = is_calibrated and learned is not None and learned.target == "answers"
        self._trust = Trust(model, settings, is_calibrated=is_calibrated, void=void)
        self._indexed: ArmIndex | None = None

    @classmethod
    def untrained(
        cls,
        reference_scores: Mapping[str, Sequence[float]],
        *,
        background: np.ndarray,
        base_id: str,
        numerics: Numerics,
        settings: RouterSettings | None = None,
    ) -> "Router":
        """A router for a model nobody has graded yet.

        `reference_scores` holds first_token_entropy and mean_entropy of the base's own samples,
        `background` their state vectors [prompt state], at least two. Raises RouterError when they
        cannot carry it.
        """
        whitening, region = fit_background(background)
        model = RouterModel(
            base_id=base_id,
            numerics=numerics.to_dict(),
            whitening=whitening,
            background=region,
            known_domains=(),
            reference=Reference.of(reference_scores),
            learned=None,
        )
        return cls(model, settings or RouterSettings())

    @classmethod
    def fit(
        cls,
        rows: Sequence[RouterRow],
        *,
        base_id: str,
        numerics: Numerics,
        settings: RouterSettings | None = None,
        whitening: Whitening | None = None,
        calibration: Sequence[RouterRow] | None = None,
        seed: int,
        fitted_on: FittedOn | None = None,
    ) -> "Router":
        """A router trained on labelled answers; sources are never split.

        Pass the `whitening` of an earlier router to keep experts' domains valid, `calibration` to
        calibrate on rows of your choice, not on a part of `rows`, and `fitted_on` where the labels
        are no grades. Raises RouterError with the counts when labels are too few or one-sided.
        """
        model = fit_model(
            rows,
            base_id=base_id,
            numerics=numerics.to_dict(),
            whitening=whitening,
            calibration=calibration,
            seed=seed,
            fitted_on=fitted_on,
        )
        return cls(model, settings or RouterSettings())

    @classmethod
    def load(
        cls,
        folder: Path,
        *,
        base_id: str,
        numerics: Numerics,
        settings: RouterSettings | None = None,
        force_uncalibrated: bool = False,
    ) -> "Router":
        """The router saved in a folder.

        Other numerics are accepted, and the router then says that it is not calibrated. Another
        base is a RouterError naming both, unless `force_uncalibrated`. Raises RouterError as well
        for missing, damaged or foreign files.
        """
        model = read_model(folder)
        if model.base_id != base_id and not force_uncalibrated:
            raise RouterError(
                f"the router in {folder} was fitted on base {model.base_id}, this model is "
                f"{base_id}; fit one for it (router train), or use this one uncalibrated: "
                "--force-uncalibrated, or router.force_uncalibrated in the settings"
            )
        fits = model.base_id == base_id and model.numerics == numerics.to_dict()
        if not fits:
            _LOGGER.warning(
                "router in %s was calibrated for %s, this is %s: it is not calibrated here",
                folder,
                model.numerics,
                numerics.to_dict(),
            )
        return cls(model, settings or RouterSettings(), is_calibrated=fits)

    def recalibrated(self, rows: Sequence[RouterRow], *, numerics: Numerics) -> "Router":
        """The same router, calibrated on graded answers that the base gave in these numerics.

        For another dtype or device, or for other traffic, with far fewer labels than a training
        takes. None of the rows may have taught it. Raises RouterError for an untrained router and,
        with the counts, for labels that are too few or one-sided.
        """
        model = replace(recalibrate(self._model, rows), numerics=numerics.to_dict())
        return Router(model, self._settings)

    def save(self, folder: Path) -> None:
        """Write router.safetensors and router.json, replacing what the folder holds."""
        write_model(folder, self._model)

    @property
    def is_trained(self) -> bool:
        """Whether labels taught it; otherwise p_prefill and p_correct are None."""
        return self._model.learned is not None

    @property
    def is_calibrated(self) -> bool:
        """Whether its probabilities were calibrated on graded answers of this base run so."""
        return self._is_calibrated

    @property
    def target(self) -> Target:
        """What its probabilities are of: right answers, or answers that samples agree with."""
        return "answers" if self._model.learned is None else self._model.learned.target

    @property
    def whitening(self) -> Whitening:
        """The space in which domains are compared."""
        return self._model.whitening

    @property
    def known_domains(self) -> tuple[Domain, ...]:
        """Regions in which the base itself is mostly right."""
        return self._model.known_domains

    @property
    def model(self) -> RouterModel:
        """Everything it has learned."""
        return self._model

    def with_settings(self, settings: RouterSettings) -> "Router":
        """The same router under other settings; what was taken back of the same risk stays so."""
        is_same = settings.target_risk == self._settings.target_risk
        void = self._trust.void if is_same else None
        return Router(self._model, settings, is_calibrated=self._is_calibrated, void=void)

    @property
    def certificate(self) -> Certificate | None:
        """What the configured target risk promised; None where it could not be certified."""
        return self._trust.certificate

    def voided(self, void: Void) -> "Router":
        """The same router with its certificate taken back: it trusts less, and promises nothing."""
        return Router(self._model, self._settings, is_calibrated=self._is_calibrated, void=void)

    def decide(
        self,
        evidence: Evidence,
        arms: Sequence[ExpertArm] = (),
        *,
        forced: str | Sequence[str] | None = "auto",
    ) -> RouteDecision:
        """Who answers: decision A, from the prefill alone.

        `forced` "auto" leaves it to the router, None (or "base") is the base, a name or names are
        those experts. Raises UnknownExpertError for a name without an arm.
        """
        point = self._model.whitening.apply(evidence.states)
        standing = self._stand(evidence, point)
        indexed = self._index(arms)
        match = indexed.index.locate(point)
        about = self._model.about(evidence, point)
        if forced != "auto":
            domain = domain_name(match, indexed.labels, about, is_low=standing.is_low)
            names = _forced_names(forced)
            return forced_route(standing, arms, names, domain=domain, topic=about.topic)
        return choose(
            standing,
            match,
            indexed.by_id,
            labels=indexed.labels,
            max_experts=self._settings.max_experts,
            about=about,
        )

    def judge(
        self,
        evidence: Evidence,
        trace: TokenTrace,
        *,
        records: Sequence[float] = (),
        decision: RouteDecision | None = None,
    ) -> Confidence:
        """How far the finished answer can be trusted: decision B.

        `records` are the success rates (0 to 1) of the experts that gave it, or what was expected
        of them on this prompt; none for the base. `decision` is this router's own on the same
        evidence, which saves finding out anew what it knew. An empty answer is certainly wrong.
        """
        if decision is None:
            point = self._model.whitening.apply(evidence.states)
            p_prefill, remoteness = self._foresee(evidence, point)
        else:
            p_prefill, remoteness = decision.p_prefill, decision.remoteness
        p_correct = None
        if self.is_trained:
            p_correct = self._judge_probability(evidence, trace, records, remoteness=remoteness)
        return Confidence(
            p_prefill=p_prefill,
            p_correct=p_correct,
            calibrated=self._is_calibrated and not records,
            scores={**evidence.scores, "ood": remoteness, **answer_scores(trace)},
            token_scores=token_scores(trace),
        )

    def is_low(self, confidence: Confidence) -> bool:
        """Whether the finished answer is not to be trusted at the configured threshold.

        p_correct below the threshold; untrained, a mean entropy beyond the threshold's percentile
        of the base's own samples.
        """
        threshold = self._trust.answer.value
        if confidence.p_correct is not None:
            return confidence.p_correct < threshold
        return self.percentile(ANSWER_DEFAULT, confidence.scores[ANSWER_DEFAULT]) > threshold

    def is_grey(self, confidence: Confidence) -> bool:
        """Whether the finished answer lies in the configured grey band, where samples decide.

        Untrained, what lies there is the share of the base's own samples that were less sure.
        """
        band = self._settings.grey_band
        if band is None:
            return False
        chance = confidence.p_correct
        if chance is None:
            chance = 1 - self.percentile(ANSWER_DEFAULT, confidence.scores[ANSWER_DEFAULT])
        return band[0] <= chance <= band[1]

    def percentile(self, name: str, value: float) -> float:
        """Rank of an entropy among the base's reference samples, 0 to 1."""
        return self._model.reference.percentile(name, value)

    def threshold(
        self,
        *,
        target_risk: float | None = None,
        coverage: float | None = None,
        error_cost: float | None = None,
        value: float | None = None,
        point: Point = "answer",
    ) -> Threshold:
        """The threshold for one aim, without applying it; no aim gives the one in force.

        Raises RouterError for several aims at once, and for one that needs labels untrained.
        """
        aims = (target_risk, coverage, error_cost, value)
        if sum(aim is not None for aim in aims) > 1:
            raise RouterError("give one of target_risk, coverage, error_cost and value")
        if value is not None:
            return fixed_threshold(value)
        if aims == (None,) * len(aims):
            return self._trust.answer if point == "answer" else self._trust.prefill
        return self._trust.threshold(
            target_risk=target_risk, coverage=coverage, error_cost=error_cost, point=point
        )

    def _foresee(self, evidence: Evidence, point: np.ndarray) -> tuple[float | None, float]:
        """Chance that the base will be right, None untrained, and the prompt's remoteness."""
        remoteness = self._model.remoteness_at(point)
        p = None
        if self.is_trained:
            known = np.array([remoteness])
            p = float(self._model.prefill_probabilities((evidence,), remoteness=known)[0])
        return p, remoteness

    def _stand(self, evidence: Evidence, point: np.ndarray) -> BaseStanding:
        threshold = self._trust.prefill.value
        learned = self._model.learned
        p, remoteness = self._foresee(evidence, point)
        if learned is not None and p is not None:
            is_low = p < threshold
            verdict = "it is not trusted below" if is_low else "it is trusted from"
            claim = _CLAIMS[learned.target]
            reason = f"{claim} with probability {p:.2f}; {verdict} {threshold:.2f}"
            return BaseStanding(
                p, learned.accuracy, 1 - p, threshold, is_low, reason, remoteness=remoteness
            )
        rank = self.percentile(PREFILL_DEFAULT, evidence.scores[PREFILL_DEFAULT])
        is_low = rank > threshold
        reason = (
            f"the base is less sure of its first word than in {rank:.0%} of its own samples; "
            f"more than {threshold:.0%} counts as unsure (the router is untrained)"
        )
        return BaseStanding(None, None, rank, threshold, is_low, reason, remoteness=remoteness)

    def _judge_probability(
        self,
        evidence: Evidence,
        trace: TokenTrace,
        records: Sequence[float],
        *,
        remoteness: float,
    ) -> float:
        if not records:
            known = np.array([remoteness])
            p = self._model.answer_probabilities((evidence,), (trace,), remoteness=known)
            return float(p[0])
        rate = math.fsum(records) / len(records)
        return self._model.expert_answer_probability(evidence, trace, expert_accuracy=rate)

    def _index(self, arms: Sequence[ExpertArm]) -> ArmIndex:
        """The domain index for these arms; kept until other arms come."""
        cached = self._indexed
        if cached is None or not cached.holds(arms):
            cached = self._indexed = index_arms(self._model, arms)
        return cached


def _forced_names(forced: str | Sequence[str] | None) -> tuple[str, ...]:
    if forced is None or forced == "base":
        return ()
    return (forced,) if isinstance(forced, str) else tuple(forced)
