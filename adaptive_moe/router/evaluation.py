"""Measures a router on graded answers it never saw, with the controls that keep it honest."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
from jaxtyping import Float

from adaptive_moe.errors import RouterError
from adaptive_moe.measures.calibration import (
    ReliabilityBin,
    auprc,
    auroc,
    brier,
    coverage_at_risk,
    e_aurc,
    expected_calibration_error,
    prr,
    reliability_bins,
    risk_coverage,
)
from adaptive_moe.measures.statistics import Interval, cluster_bootstrap
from adaptive_moe.router.evidence import RouterRow
from adaptive_moe.router.fitted_on import Target
from adaptive_moe.router.fitting import check_apart
from adaptive_moe.router.model import PREFILL_DEFAULT
from adaptive_moe.router.router import Router
from adaptive_moe.router.scores import mean_entropy

RISKS = (0.1, 0.2, 0.3)
_CURVE_POINTS = 50
_FEWEST_IN_DOMAIN = 20


@dataclass(frozen=True, slots=True)
class PointReport:
    """One decision point's figures on the test rows.

    `accuracy` is the share of right verdicts at p >= 0.5, `majority` what always saying the
    commoner one would get. auroc ranks right over wrong; auprc finds the wrong ones.
    `baseline_auroc` is that of plain entropy (first-token before, mean after decoding), and
    `auroc_gain` the difference with its 95 % interval over sources. `curve` are (coverage, risk).
    """

    accuracy: float
    majority: float
    auroc: float
    auprc: float
    prr: float
    e_aurc: float
    ece: float
    brier: float
    coverage_at_risk: Mapping[str, float]
    baseline_auroc: float
    auroc_gain: Interval
    reliability: tuple[ReliabilityBin, ...]
    curve: tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True)
class LeftOutDomain:
    """A domain judged (decision B) by a router that never saw it, beside mean entropy."""

    domain: str
    items: int
    auroc: float
    baseline_auroc: float
    ece: float


@dataclass(frozen=True, slots=True)
class Controls:
    """Figures that show whether the router learned anything at all.

    `permuted_labels_auroc` is decision B's when the labels of both parts are shuffled: about 0.5
    unless labels leak from training to test. `left_out` are the domains in turn; `not_measured`
    says which were skipped and why.
    """

    permuted_labels_auroc: float
    left_out: tuple[LeftOutDomain, ...]
    not_measured: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RouterReport:
    """All figures of one evaluation; `length_only_auroc` takes long answers for wrong ones.

    `left_out` questions could not be asked, or the router was fitted on them. `target` says what
    its probabilities are of; graded answers measured them whatever that is.
    """

    items: int
    sources: int
    base_accuracy: float
    calibrated: bool
    prefill: PointReport
    answer: PointReport
    length_only_auroc: float
    milliseconds_per_prompt: float
    controls: Controls | None
    left_out: int = 0
    target: Target = "answers"

    def to_dict(self) -> dict[str, object]:
        """Plain values for JSON; `metrics` repeats decision B's single numbers."""
        plain = asdict(self)
        answer = plain["answer"]
        plain["metrics"] = {
            name: value for name, value in answer.items() if isinstance(value, float)
        }
        return plain


def evaluate_router(
    router: Router,
    rows: Sequence[RouterRow],
    *,
    seed: int,
    training: Sequence[RouterRow] = (),
    fit: Callable[[Sequence[RouterRow]], Router] | None = None,
    resamples: int = 2000,
    clock: Callable[[], float] = time.perf_counter,
) -> RouterReport:
    """Every figure on `rows`; with `training` and `fit` the controls that refit as well.

    Raises RouterError when the router is untrained, when all answers are right or all wrong, or
    when a source of the training rows occurs among the test rows.
    """
    _check_rows(rows, training)
    evidence, traces = [row.evidence for row in rows], [row.trace for row in rows]
    correct = _correct(rows)
    groups = [row.source for row in rows]
    started = clock()
    p_prefill = router.model.prefill_probabilities(evidence)
    p_correct = router.model.answer_probabilities(evidence, traces)
    elapsed = clock() - started
    first_entropy = np.array([item.scores[PREFILL_DEFAULT] for item in evidence])
    lengths = np.array([float(len(trace)) for trace in traces])

    def point(p: np.ndarray, baseline: np.ndarray) -> PointReport:
        return _point_report(p, -baseline, correct, groups, resamples=resamples, seed=seed)

    return RouterReport(
        items=len(rows),
        sources=len(set(groups)),
        base_accuracy=float(correct.mean()),
        calibrated=router.is_calibrated,
        prefill=point(p_prefill, first_entropy),
        answer=point(p_correct, _entropies(rows)),
        length_only_auroc=auroc(-lengths, correct),
        milliseconds_per_prompt=1000 * elapsed / len(rows),
        controls=_controls(rows, training, fit, seed) if fit and training else None,
    )


def _point_report(
    p: Float[np.ndarray, " item"],
    baseline: Float[np.ndarray, " item"],
    correct: Float[np.ndarray, " item"],
    groups: Sequence[str],
    *,
    resamples: int,
    seed: int,
) -> PointReport:
    """Figures of probabilities beside a baseline confidence (higher = surer), both [item]."""
    curve = risk_coverage(1 - p, correct)
    points = np.unique(np.linspace(0, p.size - 1, _CURVE_POINTS).round().astype(int))

    def gain(picks: np.ndarray) -> float:
        if np.unique(correct[picks]).size == 1:
            return math.nan
        return auroc(p[picks], correct[picks]) - auroc(baseline[picks], correct[picks])

    return PointReport(
        accuracy=float(np.mean((p >= 1 / 2) == (correct > 0))),
        majority=float(max(correct.mean(), 1 - correct.mean())),
        auroc=auroc(p, correct),
        auprc=auprc(1 - p, 1 - correct),
        prr=prr(1 - p, correct),
        e_aurc=e_aurc(1 - p, correct),
        ece=expected_calibration_error(p, correct),
        brier=brier(p, correct),
        coverage_at_risk={
            f"{risk:g}": coverage_at_risk(1 - p, correct, risk=risk) for risk in RISKS
        },
        baseline_auroc=auroc(baseline, correct),
        auroc_gain=cluster_bootstrap(gain, groups, resamples=resamples, seed=seed),
        reliability=reliability_bins(p, correct),
        curve=tuple((float(curve.coverage[at]), float(curve.risk[at])) for at in points),
    )


def _controls(
    rows: Sequence[RouterRow],
    training: Sequence[RouterRow],
    fit: Callable[[Sequence[RouterRow]], Router],
    seed: int,
) -> Controls:
    left_out, skipped = [], []
    for domain in sorted({row.domain for row in rows if row.domain is not None}):
        members = [row for row in rows if row.domain == domain]
        right = sum(row.correct for row in members)
        if len(members) < _FEWEST_IN_DOMAIN or right in (0, len(members)):
            skipped.append(f"domain {domain}: {right} right of {len(members)} test rows")
            continue
        try:
            other = fit([row for row in training if row.domain != domain])
        except RouterError as error:
            skipped.append(f"domain {domain}: {error}")
            continue
        left_out.append(_judge_left_out(other, domain, members))
    shuffled = _permute_labels(rows, seed)
    permuted = _answer_probabilities(fit(_permute_labels(training, seed)), shuffled)
    return Controls(auroc(permuted, _correct(shuffled)), tuple(left_out), tuple(skipped))


def _judge_left_out(router: Router, domain: str, members: Sequence[RouterRow]) -> LeftOutDomain:
    p, correct = _answer_probabilities(router, members), _correct(members)
    return LeftOutDomain(
        domain=domain,
        items=len(members),
        auroc=auroc(p, correct),
        baseline_auroc=auroc(-_entropies(members), correct),
        ece=expected_calibration_error(p, correct),
    )


def _permute_labels(rows: Sequence[RouterRow], seed: int) -> list[RouterRow]:
    """The rows with their labels dealt out anew."""
    order = np.random.default_rng(seed).permutation(len(rows))
    return [
        replace(row, correct=rows[int(other)].correct)
        for row, other in zip(rows, order, strict=True)
    ]


def _answer_probabilities(router: Router, rows: Sequence[RouterRow]) -> np.ndarray:
    return router.model.answer_probabilities(
        [row.evidence for row in rows], [row.trace for row in rows]
    )


def _entropies(rows: Sequence[RouterRow]) -> np.ndarray:
    return np.array([mean_entropy(row.trace) for row in rows])


def _correct(rows: Sequence[RouterRow]) -> np.ndarray:
    return np.array([row.correct for row in rows], dtype=np.float64)


def _check_rows(rows: Sequence[RouterRow], training: Sequence[RouterRow]) -> None:
    right = sum(row.correct for row in rows)
    if right in (0, len(rows)):
        raise RouterError(f"{right} of {len(rows)} test answers are right: nothing can be ranked")
    check_apart(training, rows)
