"""Controls that show whether a router learned anything: without a domain, on dealt out labels."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from adaptive_moe.errors import RouterError
from adaptive_moe.measures.calibration import auroc, expected_calibration_error
from adaptive_moe.measures.statistics import Interval, cluster_bootstrap
from adaptive_moe.router.evidence import RouterRow
from adaptive_moe.router.router import Router
from adaptive_moe.router.scores import mean_entropy

Fit = Callable[[Sequence[RouterRow]], Router]
Tell = Callable[[str], None]

_FEWEST_IN_DOMAIN = 20
_NOT_REFITTED = (
    "leave-one-domain-out, permuted labels: they fit the router anew, so give the questions that "
    "it was fitted on (--training FILE, or training=)"
)


@dataclass(frozen=True, slots=True)
class LeftOutDomain:
    """A domain judged (decision B) by a router that never saw it, beside mean entropy."""

    domain: str
    items: int
    auroc: float
    entropy_auroc: float
    ece: float


@dataclass(frozen=True, slots=True)
class Controls:
    """What the router is worth where it should be worth less, or nothing.

    `permuted_labels_auroc` is decision B's when every distinct question gets another one's label,
    in training and test alike: about 0.5 unless questions of the one stand in the other.
    `left_out` are the domains in turn, `left_out_gain` is the mean of their AUROC less that of mean
    entropy, with a 95 % interval over sources. `not_measured` says what was skipped and why.
    """

    permuted_labels_auroc: float | None
    left_out: tuple[LeftOutDomain, ...]
    left_out_gain: Interval | None
    not_measured: tuple[str, ...]


def measure_controls(
    rows: Sequence[RouterRow],
    training: Sequence[RouterRow],
    fit: Fit | None,
    *,
    seed: int,
    resamples: int,
    tell: Tell,
) -> Controls:
    """Fits a router anew without each domain of `rows`, and once on dealt out labels.

    Without training rows, or a way to fit, nothing is measured, and that is told.
    """
    if fit is None or not training:
        return Controls(None, (), None, (_NOT_REFITTED,))
    skipped: list[str] = []
    judged = _leave_domains_out(rows, training, fit, skipped, tell)
    permuted = _permute_labels(rows, training, fit, skipped, seed=seed, tell=tell)
    return Controls(
        permuted_labels_auroc=permuted,
        left_out=tuple(each.figures() for each in judged),
        left_out_gain=_mean_gain(judged, seed=seed, resamples=resamples) if judged else None,
        not_measured=tuple(skipped),
    )


@dataclass(frozen=True, slots=True)
class _Judged:
    """A domain's rows as arrays, [item], with what a router said that never saw it."""

    domain: str
    p_correct: np.ndarray
    entropy: np.ndarray
    correct: np.ndarray
    sources: tuple[str, ...]

    def figures(self) -> LeftOutDomain:
        """The domain's row of the table."""
        return LeftOutDomain(
            domain=self.domain,
            items=self.correct.size,
            auroc=auroc(self.p_correct, self.correct),
            entropy_auroc=auroc(-self.entropy, self.correct),
            ece=expected_calibration_error(self.p_correct, self.correct),
        )


def _leave_domains_out(
    rows: Sequence[RouterRow],
    training: Sequence[RouterRow],
    fit: Fit,
    skipped: list[str],
    tell: Tell,
) -> list[_Judged]:
    domains = sorted({row.domain for row in rows if row.domain is not None})
    if not domains:
        skipped.append("leave-one-domain-out: no question names its domain")
    judged = []
    for number, domain in enumerate(domains, start=1):
        members = [row for row in rows if row.domain == domain]
        reason = _unfit(members)
        if reason is None:
            tell(f"fitting without {domain} ({number} of {len(domains)} domains)")
            try:
                other = fit([row for row in training if row.domain != domain])
            except RouterError as error:
                reason = str(error)
            else:
                judged.append(_judge(other, domain, members))
        if reason is not None:
            skipped.append(f"without {domain}: {reason}")
    return judged


def _unfit(members: Sequence[RouterRow]) -> str | None:
    """Why a domain's rows cannot be ranked, if they cannot."""
    right = sum(row.correct for row in members)
    if len(members) < _FEWEST_IN_DOMAIN:
        return f"{len(members)} test questions, at least {_FEWEST_IN_DOMAIN} are needed"
    if right in (0, len(members)):
        return f"{right} of {len(members)} test answers are right, so nothing can be ranked"
    return None


def _judge(router: Router, domain: str, members: Sequence[RouterRow]) -> _Judged:
    return _Judged(
        domain=domain,
        p_correct=_answer_probabilities(router, members),
        entropy=np.array([mean_entropy(row.trace) for row in members]),
        correct=_correct(members),
        sources=tuple(row.source for row in members),
    )


def _mean_gain(judged: Sequence[_Judged], *, seed: int, resamples: int) -> Interval:
    """AUROC less entropy's, averaged over the domains; sources are drawn over all of them."""
    p_correct = np.concatenate([each.p_correct for each in judged])
    entropy = np.concatenate([each.entropy for each in judged])
    correct = np.concatenate([each.correct for each in judged])
    domain = np.repeat(np.arange(len(judged)), [each.correct.size for each in judged])

    def gain(picks: np.ndarray) -> float:
        drawn = [picks[domain[picks] == number] for number in range(len(judged))]
        gains = [
            auroc(p_correct[part], correct[part]) - auroc(-entropy[part], correct[part])
            for part in drawn
            if np.unique(correct[part]).size > 1
        ]
        return float(np.mean(gains)) if gains else float("nan")

    sources = [source for each in judged for source in each.sources]
    return cluster_bootstrap(gain, sources, resamples=resamples, seed=seed)


def _permute_labels(
    rows: Sequence[RouterRow],
    training: Sequence[RouterRow],
    fit: Fit,
    skipped: list[str],
    *,
    seed: int,
    tell: Tell,
) -> float | None:
    tell("fitting on labels that were dealt out anew")
    label_of = _deal_labels([*training, *rows], seed)
    learned, tested = (
        [replace(row, correct=label_of[row.evidence.text]) for row in part]
        for part in (training, rows)
    )
    if len({row.correct for row in tested}) == 1:
        skipped.append("permuted labels: all test questions got the same one")
        return None
    try:
        router = fit(learned)
    except RouterError as error:
        skipped.append(f"permuted labels: {error}")
        return None
    return auroc(_answer_probabilities(router, tested), _correct(tested))


def _deal_labels(rows: Sequence[RouterRow], seed: int) -> dict[str, bool]:
    """A label for every distinct question: that of another one, drawn by chance."""
    known = {row.evidence.text: row.correct for row in rows}
    order = np.random.default_rng(seed).permutation(len(known))
    labels = list(known.values())
    return {text: labels[int(other)] for text, other in zip(known, order, strict=True)}


def _answer_probabilities(router: Router, rows: Sequence[RouterRow]) -> np.ndarray:
    return router.model.answer_probabilities(
        [row.evidence for row in rows], [row.trace for row in rows]
    )


def _correct(rows: Sequence[RouterRow]) -> np.ndarray:
    return np.array([row.correct for row in rows], dtype=np.float64)
