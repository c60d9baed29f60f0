"""The probability that an answer is right: a calibrated probe, entropy far from what it learned."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.special import expit, logit

from adaptive_moe.router.calibration import Calibrator, fit_calibrator
from adaptive_moe.router.probe import Probe, fit_probe

# At 1 + this many times the edge the probe's say has fallen to 1/e.
_GATE_SOFTNESS = 0.25


@dataclass(frozen=True, slots=True)
class Estimator:
    """A probe and a one-score fallback, each with its calibrator, and the gate between them."""

    probe: Probe
    calibrator: Calibrator
    fallback: Probe
    fallback_calibrator: Calibrator

    def probability(
        self,
        scores: Sequence[Mapping[str, float]],
        states: Float[np.ndarray, "item state"],
        *,
        remoteness: Float[np.ndarray, " item"],
    ) -> Float[np.ndarray, " item"]:
        """Probabilities of being right, [item], mixed in logits.

        `remoteness` is the distance to the training prompts in units of their edge: within 1 the
        probe decides alone, beyond it its say falls as exp(-(remoteness - 1) / 0.25) and the
        calibrated entropy takes over.
        """
        near = self.calibrator.probability(self.probe.logits(scores, states))
        far = self.fallback_probability(scores, states)
        say = np.exp(-np.maximum(remoteness - 1.0, 0.0) / _GATE_SOFTNESS)
        mixed: np.ndarray = expit(say * logit(near) + (1 - say) * logit(far))
        return mixed

    def fallback_probability(
        self, scores: Sequence[Mapping[str, float]], states: Float[np.ndarray, "item state"]
    ) -> Float[np.ndarray, " item"]:
        """Calibrated probabilities from the entropy alone, [item]."""
        return self.fallback_calibrator.probability(self.fallback.logits(scores, states))


@dataclass(frozen=True, slots=True)
class LabelledScores:
    """One split of the training labels as arrays: scores by item, states and labels, 0 to 1."""

    scores: tuple[Mapping[str, float], ...]
    states: Float[np.ndarray, "item state"]
    correct: Float[np.ndarray, " item"]
    groups: tuple[str, ...]


def fit_estimator(
    training: LabelledScores,
    calibration: LabelledScores,
    *,
    features: Sequence[str],
    fallback_feature: str,
    seed: int,
) -> Estimator:
    """Probes from the one split, calibrators from the other; they share no source."""

    def probe(names: Sequence[str], *, use_states: bool) -> Probe:
        return fit_probe(
            training.scores,
            training.states,
            training.correct,
            features=names,
            groups=training.groups,
            use_states=use_states,
            seed=seed,
        )

    main = probe(features, use_states=True)
    fallback = probe((fallback_feature,), use_states=False)
    return calibrated(main, fallback, calibration)


def calibrated(probe: Probe, fallback: Probe, labels: LabelledScores) -> Estimator:
    """These probes with calibrators from labels that taught neither of them."""

    def calibrate(fitted: Probe) -> Calibrator:
        return fit_calibrator(fitted.logits(labels.scores, labels.states), labels.correct)

    return Estimator(probe, calibrate(probe), fallback, calibrate(fallback))
