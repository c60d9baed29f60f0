"""Measures a router on graded answers that it never saw, beside plain entropy."""

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from jaxtyping import Float

from adaptive_moe.errors import RouterError
from adaptive_moe.measures.calibration import (
    ReliabilityBin,
    auroc,
    reliability_bins,
    risk_coverage,
)
from adaptive_moe.measures.judgements import FIGURES, Judgements
from adaptive_moe.measures.sampling import evenly
from adaptive_moe.measures.statistics import Interval, cluster_bootstraps
from adaptive_moe.router.controls import Controls, Fit, Tell, measure_controls
from adaptive_moe.router.evidence import RouterRow
from adaptive_moe.router.fitted_on import Target
from adaptive_moe.router.model import PREFILL_DEFAULT, with_answers
from adaptive_moe.router.router import Router
from adaptive_moe.router.scores import mean_entropy

_CURVE_POINTS = 100
_HISTOGRAM_BINS = 20
_TIMED_PROMPTS = 50


@dataclass(frozen=True, slots=True)
class Comparison:
    """A figure of the router's, that of plain entropy, and the first less the second.

    `gain` has the 95 % interval over sources. That of ece is rough: resampling adds about as much
    to either side.
    """

    router: float
    entropy: float
    gain: Interval


@dataclass(frozen=True, slots=True)
class PointReport:
    """One decision point on the test rows: every figure of `judgements.FIGURES` by its name.

    Entropy is that of the first token before decoding, the mean one afterwards; where a probability
    is needed (ece, brier, accuracy) it is calibrated on the labels that calibrated the router.
    `curve` and `entropy_curve` are (coverage, risk); `histogram` counts (right, wrong) answers
    between equal steps of the probability from 0 to 1.
    """

    figures: Mapping[str, Comparison]
    reliability: tuple[ReliabilityBin, ...]
    curve: tuple[tuple[float, float], ...]
    entropy_curve: tuple[tuple[float, float], ...]
    histogram: tuple[tuple[int, int], ...]

    def numbers(self) -> dict[str, float]:
        """The router's own figures by name."""
        return {name: figure.router for name, figure in self.figures.items()}


@dataclass(frozen=True, slots=True)
class RouterReport:
    """All figures of one evaluation: decision A is `prefill`, decision B `answer`.

    `majority` is what always saying the commoner verdict would get. `length_only_auroc` takes long
    answers for wrong ones. `milliseconds_per_prompt` is for routing and judging one prompt at a
    time, without experts; the base's own passes are not in it. `left_out` questions could
    not be asked, or the router was fitted on them. `target` says what its probabilities are of;
    graded answers measured them whatever that is.
    """

    items: int
    sources: int
    base_accuracy: float
    majority: float
    calibrated: bool
    prefill: PointReport
    answer: PointReport
    length_only_auroc: float
    milliseconds_per_prompt: float
    controls: Controls
    left_out: int = 0
    target: Target = "answers"

    def to_dict(self) -> dict[str, object]:
        """Plain values for JSON; `metrics` repeats decision B's single numbers."""
        entropy = self.answer.figures["auroc"].entropy
        more = {"majority": self.majority, "baseline_auroc": entropy}
        return {**asdict(self), "metrics": {**self.answer.numbers(), **more}}


def evaluate_router(
    router: Router,
    rows: Sequence[RouterRow],
    *,
    seed: int,
    training: Sequence[RouterRow] = (),
    fit: Fit | None = None,
    resamples: int = 2000,
    clock: Callable[[], float] = time.perf_counter,
    tell: Tell = lambda _: None,
) -> RouterReport:
    """Every figure on `rows`; with `training` and `fit` the controls that refit as well.

    `tell` hears what takes its time. Raises RouterError when the router is untrained, when all
    answers are right or all wrong, or when a source of the training rows occurs among the test
    rows.
    """
    check_trained(router)
    check_sources([row.source for row in rows], [row.source for row in training])
    _check_labels(rows)
    correct = np.array([row.correct for row in rows], dtype=np.float64)
    groups = [row.source for row in rows]
    tell("comparing with entropy")
    before, after = (
        _point_report(judged, correct, groups, resamples=resamples, seed=seed)
        for judged in (_before(router, rows), _after(router, rows))
    )
    lengths = np.array([float(len(row.trace)) for row in rows])
    return RouterReport(
        items=len(rows),
        sources=len(set(groups)),
        base_accuracy=float(correct.mean()),
        majority=float(max(correct.mean(), 1 - correct.mean())),
        calibrated=router.is_calibrated,
        prefill=before,
        answer=after,
        length_only_auroc=auroc(-lengths, correct),
        milliseconds_per_prompt=_milliseconds(router, rows, clock),
        controls=measure_controls(rows, training, fit, seed=seed, resamples=resamples, tell=tell),
    )


def check_trained(router: Router) -> None:
    """Raises RouterError where there is nothing to measure."""
    if not router.is_trained:
        raise RouterError(
            "the router is untrained, so there is nothing to measure; fit it first, on graded "
            "questions (router train, or moe.router.fit)"
        )


def check_sources(tested: Collection[str], training: Collection[str]) -> None:
    """Raises RouterError when a source stands on both sides."""
    shared = set(tested) & set(training)
    if shared:
        raise RouterError(
            f"{len(shared)} sources stand in both training and test, {min(shared)!r} for one; "
            "measure on questions about something else"
        )


@dataclass(frozen=True, slots=True)
class _Judged:
    """What the router says of every row, and the entropy alone, raw and calibrated; [item] each."""

    p: Float[np.ndarray, " item"]
    entropy: Float[np.ndarray, " item"]
    p_entropy: Float[np.ndarray, " item"]


def _before(router: Router, rows: Sequence[RouterRow]) -> _Judged:
    """Decision A, from the prefill alone."""
    evidence, states = [row.evidence for row in rows], _states(rows)
    scores = [item.scores for item in evidence]
    learned = router.model.learned
    assert learned is not None
    return _Judged(
        p=router.model.prefill_probabilities(evidence),
        entropy=np.array([each[PREFILL_DEFAULT] for each in scores]),
        p_entropy=learned.prefill.fallback_probability(scores, states),
    )


def _after(router: Router, rows: Sequence[RouterRow]) -> _Judged:
    """Decision B, from the finished answer."""
    evidence, traces = [row.evidence for row in rows], [row.trace for row in rows]
    scores = with_answers([item.scores for item in evidence], traces)
    learned = router.model.learned
    assert learned is not None
    return _Judged(
        p=router.model.answer_probabilities(evidence, traces),
        entropy=np.array([mean_entropy(trace) for trace in traces]),
        p_entropy=learned.answer.fallback_probability(scores, _states(rows)),
    )


def _point_report(
    judged: _Judged,
    correct: Float[np.ndarray, " item"],
    groups: Sequence[str],
    *,
    resamples: int,
    seed: int,
) -> PointReport:
    return PointReport(
        figures=_compare(judged, correct, groups, resamples=resamples, seed=seed),
        reliability=reliability_bins(judged.p, correct),
        curve=_curve(1 - judged.p, correct),
        entropy_curve=_curve(judged.entropy, correct),
        histogram=_histogram(judged.p, correct),
    )


def _compare(
    judged: _Judged,
    correct: Float[np.ndarray, " item"],
    groups: Sequence[str],
    *,
    resamples: int,
    seed: int,
) -> dict[str, Comparison]:
    router = Judgements.of(1 - judged.p, judged.p, correct)
    entropy = Judgements.of(judged.entropy, judged.p_entropy, correct)

    def gains(picks: np.ndarray) -> np.ndarray:
        difference: np.ndarray = router.figures(picks) - entropy.figures(picks)
        return difference

    intervals = cluster_bootstraps(gains, groups, resamples=resamples, seed=seed)
    pairs = zip(router.figures(), entropy.figures(), intervals, strict=True)
    found = (Comparison(float(ours), float(plain), gain) for ours, plain, gain in pairs)
    return dict(zip(FIGURES, found, strict=True))


def _curve(
    uncertainty: Float[np.ndarray, " item"], correct: Float[np.ndarray, " item"]
) -> tuple[tuple[float, float], ...]:
    """At most a hundred points of the risk-coverage curve, evenly spread, the last among them."""
    curve = risk_coverage(uncertainty, correct)
    points = np.unique(np.linspace(0, correct.size - 1, _CURVE_POINTS).round().astype(int))
    return tuple((float(curve.coverage[at]), float(curve.risk[at])) for at in points)


def _histogram(
    p: Float[np.ndarray, " item"], correct: Float[np.ndarray, " item"]
) -> tuple[tuple[int, int], ...]:
    step = np.minimum((p * _HISTOGRAM_BINS).astype(int), _HISTOGRAM_BINS - 1)
    right = np.bincount(step, weights=correct, minlength=_HISTOGRAM_BINS)
    wrong = np.bincount(step, weights=1 - correct, minlength=_HISTOGRAM_BINS)
    return tuple((int(good), int(bad)) for good, bad in zip(right, wrong, strict=True))


def _milliseconds(router: Router, rows: Sequence[RouterRow], clock: Callable[[], float]) -> float:
    """Mean over prompts that are routed and judged one at a time, as in service."""
    asked = evenly(rows, _TIMED_PROMPTS)
    router.decide(asked[0].evidence)
    started = clock()
    for row in asked:
        decision = router.decide(row.evidence)
        router.judge(row.evidence, row.trace, decision=decision)
    return 1000 * (clock() - started) / len(asked)


def _states(rows: Sequence[RouterRow]) -> Float[np.ndarray, "item state"]:
    return np.stack([row.evidence.states for row in rows])


def _check_labels(rows: Sequence[RouterRow]) -> None:
    right = sum(row.correct for row in rows)
    if right in (0, len(rows)):
        raise RouterError(
            f"{right} of {len(rows)} test answers are right, so nothing can be ranked; measure on "
            "questions of which the base knows some and some not"
        )
