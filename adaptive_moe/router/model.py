"""What a router has learned, as one frozen value: regions, reference samples and two estimators."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from adaptive_moe.errors import RouterError
from adaptive_moe.models.token_trace import TokenTrace
from adaptive_moe.router.calibration import with_prior
from adaptive_moe.router.domains import Domain, nearest_distances
from adaptive_moe.router.estimator import Estimator
from adaptive_moe.router.evidence import Evidence
from adaptive_moe.router.fitted_on import FittedOn, Target
from adaptive_moe.router.scores import SCORES, answer_scores
from adaptive_moe.router.topics import About, Topics
from adaptive_moe.router.whitening import Whitening
from adaptive_moe.router.wording import wording

PREFILL_DEFAULT = "first_token_entropy"
ANSWER_DEFAULT = "mean_entropy"
PREFILL_FEATURES = (
    PREFILL_DEFAULT,
    "first_token_msp",
    "first_token_margin",
    "first_token_self_certainty",
    "first_token_renyi",
    "first_token_energy",
    "ood",
)
ANSWER_FEATURES = (*PREFILL_FEATURES, *SCORES, "log_length")
_LEAST_RADIUS = 1e-6


@dataclass(frozen=True, slots=True)
class Reference:
    """Entropies of ordinary prompts and answers of the base, rising, in nats.

    An untrained router ranks a new prompt among them.
    """

    first_token_entropy: Float[np.ndarray, " prompt"]
    mean_entropy: Float[np.ndarray, " answer"]

    @classmethod
    def of(cls, scores: Mapping[str, Sequence[float]]) -> "Reference":
        """Sorted copies. Raises RouterError when either score is missing, empty or not finite."""
        arrays = []
        for name in (PREFILL_DEFAULT, ANSWER_DEFAULT):
            values = np.sort(np.asarray(scores.get(name, ()), dtype=np.float64))
            if values.size == 0 or not np.isfinite(values).all():
                raise RouterError(f"the reference samples hold no finite {name}")
            arrays.append(values)
        return cls(*arrays)

    def percentile(self, name: str, value: float) -> float:
        """Share of reference samples below `value`, ties half, 0 to 1."""
        values = self.mean_entropy if name == ANSWER_DEFAULT else self.first_token_entropy
        below = np.searchsorted(values, value, side="left")
        upto = np.searchsorted(values, value, side="right")
        return float((below + upto) / (2 * values.size))


@dataclass(frozen=True, slots=True)
class CalibrationSplit:
    """What the estimators say of the labels that calibrated them, one of each source.

    Thresholds are chosen here.
    """

    p_prefill: Float[np.ndarray, " item"]
    p_correct: Float[np.ndarray, " item"]
    correct: Float[np.ndarray, " item"]


@dataclass(frozen=True, slots=True)
class Learned:
    """Everything that labels taught: present in a trained router only.

    `support` covers the training prompts; its radius holds 95 % of the calibration ones.
    `labels` counts all rows, `accuracy` is the base's share of right answers among them. Fitted on
    agreement, right is what samples agree with, here and in all probabilities. `fitted_on` is None
    where a file does not say.
    """

    prefill: Estimator
    answer: Estimator
    support: Domain
    calibration: CalibrationSplit
    labels: int
    accuracy: float
    fitted_on: FittedOn | None = None

    @property
    def target(self) -> Target:
        """What the labels stand for."""
        return "answers" if self.fitted_on is None else self.fitted_on.target


@dataclass(frozen=True, slots=True)
class RouterModel:
    """A router without its settings; bound to one base and the numerics it was run in.

    `topics` is None where too few domains were labelled.
    """

    base_id: str
    numerics: dict[str, str | None]
    whitening: Whitening
    background: Domain
    known_domains: tuple[Domain, ...]
    reference: Reference
    learned: Learned | None
    topics: Topics | None = None

    def about(self, evidence: Evidence, point: Float[np.ndarray, " dimension"]) -> About:
        """What a prompt with this whitened state is about."""
        columns = wording(evidence.text)
        topic = None if self.topics is None else self.topics.find(point, columns)
        return About(evidence.states, columns, topic, is_told=self.topics is not None)

    def remoteness(self, states: Float[np.ndarray, "item state"]) -> Float[np.ndarray, " item"]:
        """`remoteness_from` the training prompts; untrained, from the base's background prompts."""
        region = self.background if self.learned is None else self.learned.support
        return remoteness_from(region, self.whitening.apply(states))

    def remoteness_at(self, point: Float[np.ndarray, " dimension"]) -> float:
        """The same of one prompt whose whitened state is known."""
        region = self.background if self.learned is None else self.learned.support
        return float(remoteness_from(region, point[None])[0])

    def prefill_probabilities(
        self,
        evidence: Sequence[Evidence],
        *,
        remoteness: Float[np.ndarray, " item"] | None = None,
    ) -> Float[np.ndarray, " item"]:
        """Chance that the base will answer each prompt right.

        `remoteness` may be given where it is known already. Raises RouterError untrained.
        """
        scores, states, remoteness = self._prefill_inputs(evidence, remoteness)
        estimator = self.require_learned().prefill
        return estimator.probability(scores, states, remoteness=remoteness)

    def answer_probabilities(
        self,
        evidence: Sequence[Evidence],
        traces: Sequence[TokenTrace],
        *,
        remoteness: Float[np.ndarray, " item"] | None = None,
    ) -> Float[np.ndarray, " item"]:
        """Chance that each finished answer of the base is right; an empty one has none.

        `remoteness` may be given where it is known already. Raises RouterError untrained.
        """
        estimator = self.require_learned().answer
        scores, states, remoteness = self._prefill_inputs(evidence, remoteness)
        scores = with_answers(scores, traces)
        p = estimator.probability(scores, states, remoteness=remoteness)
        return np.where([len(trace) > 0 for trace in traces], p, 0.0)

    def expert_answer_probability(
        self, evidence: Evidence, trace: TokenTrace, *, expert_accuracy: float
    ) -> float:
        """Chance that an expert's answer is right: its own success rate, moved by its entropy.

        What the base's states say of the base does not hold for an expert, so only the calibrated
        entropy speaks, and the base's accuracy in it is exchanged for the expert's. An estimate,
        not calibrated on the expert's answers.
        """
        if len(trace) == 0:
            return 0.0
        learned = self.require_learned()
        scores = with_answers((evidence.scores,), (trace,))
        by_entropy = learned.answer.fallback_probability(scores, evidence.states[None])[0]
        return with_prior(float(by_entropy), usual=learned.accuracy, there=expert_accuracy)

    def require_learned(self) -> Learned:
        """What labels taught. Raises RouterError untrained."""
        if self.learned is None:
            raise RouterError("this router is untrained: fit it on prompts with references first")
        return self.learned

    def _prefill_inputs(
        self,
        evidence: Sequence[Evidence],
        remoteness: Float[np.ndarray, " item"] | None = None,
    ) -> tuple[tuple[dict[str, float], ...], np.ndarray, np.ndarray]:
        states = np.stack([item.states for item in evidence])
        if remoteness is None:
            remoteness = self.remoteness(states)
        return with_remoteness(evidence, remoteness), states, remoteness


def remoteness_from(
    region: Domain, points: Float[np.ndarray, "item dimension"]
) -> Float[np.ndarray, " item"]:
    """Distance of whitened states to a region over its radius, [item]; 1 is its edge.

    The Mahalanobis distance of Lee et al. 2018, to the nearest of several centroids.
    """
    distances = nearest_distances(points, region.centroids)
    remoteness: np.ndarray = distances.astype(np.float64) / max(region.radius, _LEAST_RADIUS)
    return remoteness


def with_remoteness(
    evidence: Sequence[Evidence], remoteness: Float[np.ndarray, " item"]
) -> tuple[dict[str, float], ...]:
    """Every prompt's scores with `ood` among them. Raises RouterError when one is missing."""
    rows = tuple(
        {**item.scores, "ood": float(value)}
        for item, value in zip(evidence, remoteness, strict=True)
    )
    for row in rows:
        missing = [name for name in PREFILL_FEATURES if name not in row]
        if missing:
            raise RouterError(f"the prompt's scores lack {', '.join(missing)}")
    return rows


def with_answers(
    scores: Sequence[Mapping[str, float]], traces: Sequence[TokenTrace]
) -> tuple[dict[str, float], ...]:
    """Prompt scores joined by the answer's own and `log_length`, log(1 + tokens)."""
    return tuple(
        {**row, **answer_scores(trace), "log_length": float(np.log1p(len(trace)))}
        for row, trace in zip(scores, traces, strict=True)
    )
