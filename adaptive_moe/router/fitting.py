"""Fits a router: checks labels, splits by source, learns regions, probes and calibrators."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Float

from adaptive_moe.errors import RouterError
from adaptive_moe.router.domains import Domain, cluster_centres, fit_domain, topic_columns
from adaptive_moe.router.estimator import (
    Estimator,
    LabelledScores,
    calibrated,
    fit_estimator,
)
from adaptive_moe.router.evidence import RouterRow
from adaptive_moe.router.fitted_on import FittedOn, Target
from adaptive_moe.router.model import (
    ANSWER_DEFAULT,
    ANSWER_FEATURES,
    PREFILL_DEFAULT,
    PREFILL_FEATURES,
    CalibrationSplit,
    Learned,
    Reference,
    RouterModel,
    remoteness_from,
    with_answers,
    with_remoteness,
)
from adaptive_moe.router.scores import mean_entropy
from adaptive_moe.router.topics import fit_topics
from adaptive_moe.router.whitening import Whitening, fit_whitening

FEWEST_LABELS = 60
FEWEST_OF_EACH_KIND = 12
FEWEST_SOURCES = 20
_FOLDS = 5
_TRAINING_FOLDS = 3
_SUPPORT_QUANTILE = 0.95
_FEWEST_IN_DOMAIN = 8
_LEAST_KNOWN = 0.15
_SUPPORT_CENTROIDS = 16
_KINDS: Mapping[Target, tuple[str, str]] = {
    "answers": ("right", "wrong"),
    "agreement": ("with agreement", "without"),
}
_ADVICE: Mapping[Target, str] = {
    "answers": "add prompts that the base gets right and prompts that it gets wrong",
    "agreement": "add prompts that the base is sure of and prompts that it is not",
}


def fit_background(states: Float[np.ndarray, "prompt state"]) -> tuple[Whitening, Domain]:
    """Whitening and region of a base's ordinary prompts, without any label."""
    whitening = fit_whitening(states, columns=topic_columns(states.shape[1]))
    return whitening, fit_domain("background", states, whitening, seed=0)


def fit_model(
    rows: Sequence[RouterRow],
    *,
    base_id: str,
    numerics: dict[str, str | None],
    whitening: Whitening | None,
    calibration: Sequence[RouterRow] | None = None,
    seed: int,
    fitted_on: FittedOn | None = None,
) -> RouterModel:
    """Everything a router learns from labelled answers of the base.

    `fitted_on` says what the labels stand for; without it the answers were graded. Three fifths of
    the sources train the probes, the rest calibrate them and choose thresholds; where there are
    `calibration` rows, all others train. Raises RouterError, with the counts, for fewer than 60
    labels, 20 sources or 12 of either kind, and for a source on both sides.
    """
    fitted_on = fitted_on or FittedOn.of([*rows, *(calibration or ())])
    check_labels(rows, target=fitted_on.target)
    states = np.stack([row.evidence.states for row in rows])
    whitening = whitening or fit_whitening(
        states,
        labels=[row.domain for row in rows],
        columns=topic_columns(states.shape[1]),
    )
    if calibration is None:
        training, calibration = split_by_source(rows, seed=seed)
    else:
        training = tuple(rows)
        check_apart(training, calibration)
        check_labels(calibration)
    known = _known_domains(rows, whitening, seed)
    return RouterModel(
        base_id=base_id,
        numerics=numerics,
        whitening=whitening,
        background=fit_domain("background", states, whitening, seed=seed),
        known_domains=known,
        reference=Reference.of(
            {
                PREFILL_DEFAULT: [row.evidence.scores[PREFILL_DEFAULT] for row in rows],
                ANSWER_DEFAULT: [mean_entropy(row.trace) for row in rows],
            }
        ),
        learned=replace(_learn(rows, training, calibration, whitening, seed), fitted_on=fitted_on),
        topics=fit_topics(rows, whitening, seed=seed),
    )


def recalibrate(model: RouterModel, rows: Sequence[RouterRow]) -> RouterModel:
    """The same probes, calibrated on other graded answers, on which thresholds are chosen too.

    None of them may have taught the probes. Raises RouterError for an untrained router and, with
    the counts, for labels that cannot teach.
    """
    learned = model.require_learned()
    check_labels(rows)
    points = []
    for estimator, with_trace in ((learned.prefill, False), (learned.answer, True)):
        labels = _labelled(rows, learned.support, model.whitening, with_trace=with_trace)
        found = calibrated(estimator.probe, estimator.fallback, labels)
        points.append((found, _said(found, labels)))
    (prefill, p_prefill), (answer, p_correct) = points
    split = _calibration_split(rows, p_prefill, p_correct, seed=0)
    known = learned.fitted_on
    changed = replace(
        learned,
        prefill=prefill,
        answer=answer,
        calibration=split,
        fitted_on=None if known is None else known.joined(FittedOn.of(rows)),
    )
    return replace(model, learned=changed)


def check_apart(training: Sequence[RouterRow], other: Sequence[RouterRow]) -> None:
    """Raises RouterError, with the count, when a source stands on both sides."""
    shared = {row.source for row in training} & {row.source for row in other}
    if shared:
        raise RouterError(
            f"{len(shared)} sources stand on both sides of a split, {min(shared)!r} for one"
        )


def check_labels(rows: Sequence[RouterRow], *, target: Target = "answers") -> None:
    """Raises RouterError, with the counts, for labels that cannot teach."""
    yes, no = _KINDS[target]
    right = sum(row.correct for row in rows)
    sources = len({row.source for row in rows})
    counts = f"{len(rows)} labels ({right} {yes}, {len(rows) - right} {no}) from {sources} sources"
    if len(rows) < FEWEST_LABELS or sources < FEWEST_SOURCES:
        raise RouterError(
            f"{counts} are too few; a router needs {FEWEST_LABELS} from {FEWEST_SOURCES}"
        )
    if min(right, len(rows) - right) < FEWEST_OF_EACH_KIND:
        raise RouterError(
            f"{counts} are one-sided; a router needs {FEWEST_OF_EACH_KIND} of either kind, so "
            f"{_ADVICE[target]}"
        )


def split_by_source(
    rows: Sequence[RouterRow], *, seed: int
) -> tuple[tuple[RouterRow, ...], tuple[RouterRow, ...]]:
    """Three fifths and two fifths of the rows with like shares of right answers; no source in both.

    Raises RouterError when the sources do not let both parts have both kinds of label.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    correct = np.array([row.correct for row in rows], dtype=np.int64)
    sources = [row.source for row in rows]
    folds = StratifiedGroupKFold(_FOLDS, shuffle=True, random_state=seed)
    parts = [outside for _, outside in folds.split(correct, correct, sources)]
    chosen = [np.sort(np.concatenate(part)) for part in _in_two(parts)]
    for part in chosen:
        right = int(correct[part].sum())
        if not 0 < right < part.size:
            raise RouterError(
                f"splitting by source leaves a part of {part.size} labels with {right} right: "
                "too many labels share a source"
            )
    training, calibration = (tuple(rows[index] for index in part) for part in chosen)
    return training, calibration


def _in_two(parts: list[np.ndarray]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    return parts[:_TRAINING_FOLDS], parts[_TRAINING_FOLDS:]


def _learn(
    rows: Sequence[RouterRow],
    training: Sequence[RouterRow],
    calibration: Sequence[RouterRow],
    whitening: Whitening,
    seed: int,
) -> Learned:
    support = _support(training, calibration, whitening, seed)
    prefill, p_prefill = _fit_point(
        *(
            _labelled(part, support, whitening, with_trace=False)
            for part in (training, calibration)
        ),
        features=PREFILL_FEATURES,
        fallback_feature=PREFILL_DEFAULT,
        seed=seed,
    )
    answer, p_correct = _fit_point(
        *(_labelled(part, support, whitening, with_trace=True) for part in (training, calibration)),
        features=ANSWER_FEATURES,
        fallback_feature=ANSWER_DEFAULT,
        seed=seed,
    )
    accuracy = (sum(row.label for row in rows) + 1) / (len(rows) + 2)
    split = _calibration_split(calibration, p_prefill, p_correct, seed=seed)
    return Learned(prefill, answer, support, split, len(rows), accuracy)


def _calibration_split(
    rows: Sequence[RouterRow], p_prefill: np.ndarray, p_correct: np.ndarray, *, seed: int
) -> CalibrationSplit:
    """One answer of each source: limits of a risk count independent ones only."""
    order = np.random.default_rng(seed).permutation(len(rows))
    first = np.unique([rows[place].source for place in order], return_index=True)[1]
    chosen = np.sort(order[first])
    return CalibrationSplit(p_prefill[chosen], p_correct[chosen], _labels(rows)[chosen])


def _fit_point(
    training: LabelledScores,
    calibration: LabelledScores,
    *,
    features: Sequence[str],
    fallback_feature: str,
    seed: int,
) -> tuple[Estimator, np.ndarray]:
    """One decision point's estimator, and what it says of the calibration labels."""
    estimator = fit_estimator(
        training, calibration, features=features, fallback_feature=fallback_feature, seed=seed
    )
    return estimator, _said(estimator, calibration)


def _said(estimator: Estimator, labels: LabelledScores) -> np.ndarray:
    remoteness = np.array([row["ood"] for row in labels.scores])
    return estimator.probability(labels.scores, labels.states, remoteness=remoteness)


def _labels(rows: Sequence[RouterRow]) -> np.ndarray:
    return np.array([row.label for row in rows], dtype=np.float64)


def _labelled(
    rows: Sequence[RouterRow], support: Domain, whitening: Whitening, *, with_trace: bool
) -> LabelledScores:
    states = np.stack([row.evidence.states for row in rows])
    remoteness = remoteness_from(support, whitening.apply(states))
    scores = with_remoteness([row.evidence for row in rows], remoteness)
    if with_trace:
        scores = with_answers(scores, [row.trace for row in rows])
    return LabelledScores(scores, states, _labels(rows), tuple(row.source for row in rows))


def _support(
    training: Sequence[RouterRow],
    calibration: Sequence[RouterRow],
    whitening: Whitening,
    seed: int,
) -> Domain:
    """Where the training prompts lie, domain by domain; 95 % of the calibration ones are inside."""
    parts = []
    for label in sorted({row.domain or "" for row in training}):
        members = [row.evidence.states for row in training if (row.domain or "") == label]
        points = whitening.apply(np.stack(members))
        parts.append(cluster_centres(points, max_centroids=_SUPPORT_CENTROIDS, seed=seed))
    region = Domain("training prompts", np.concatenate(parts), 1.0, whitening.digest)
    states = np.stack([row.evidence.states for row in calibration])
    radius = np.quantile(remoteness_from(region, whitening.apply(states)), _SUPPORT_QUANTILE)
    return Domain(region.label, region.centroids, float(radius), whitening.digest)


def _known_domains(
    rows: Sequence[RouterRow], whitening: Whitening, seed: int
) -> tuple[Domain, ...]:
    """Domains of at least 8 rows of which the base gets some share right.

    What it always gets wrong is not its own, and must stay open to experts. By agreement that is
    what its samples always contradict; a domain that it always gets wrong alike counts as its own.
    """
    known = []
    for label in sorted({row.domain for row in rows if row.domain is not None}):
        members = [row for row in rows if row.domain == label]
        right = sum(row.correct for row in members)
        if len(members) < _FEWEST_IN_DOMAIN or right < _LEAST_KNOWN * len(members):
            continue
        states = np.stack([row.evidence.states for row in members])
        sources = [row.source for row in members]
        known.append(fit_domain(label, states, whitening, seed=seed, groups=sources))
    return tuple(known)
