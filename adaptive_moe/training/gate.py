"""Decides by measurement whether a trained expert may answer anyone."""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from adaptive_moe.config.settings import TrainingSettings
from adaptive_moe.measures.sampling import evenly
from adaptive_moe.measures.statistics import clopper_pearson_upper
from adaptive_moe.training.documents import Passage
from adaptive_moe.training.guarding import (
    GUARD_CONFIDENCE,
    Answerer,
    GuardFigures,
    GuardItem,
    ask_again,
    measure_guard,
)
from adaptive_moe.training.held_out import HeldOutFigures, Measure, Predecessor, VersionFigures
from adaptive_moe.training.retrieval import RetrievalFigures, measure_retrieval
from adaptive_moe.training.side_effects import (
    ForgettingFigures,
    RoutedFigures,
    measure_forgetting,
    measure_routed,
)
from adaptive_moe.training.splits import Metric, Split, SplitName
from adaptive_moe.training.synthesis import Example

_UNITS: dict[Metric, str] = {"exact": "exact answers", "loss": "nats per token"}
_FORCED_AT_MOST = 300  # guard prompts; this figure decides nothing


@dataclass(frozen=True, slots=True)
class Respondents:
    """Who is asked at the gate.

    `live` answers with routing automatic, as if the expert served with that record; `before` so
    without it, `forced` by the expert alone, and `base` by the base alone.
    """

    live: Callable[[HeldOutFigures], Answerer]
    before: Answerer
    forced: Answerer
    base: Answerer


@dataclass(frozen=True, slots=True)
class GateReport:
    """The verdict, why, and every figure behind it.

    `other` is the split that was not chosen, where the material offers it. `guard` is None when
    `training.guard_prompts` is 0; `guard_forced` when forced answers were not asked for;
    `versions` when no version of this name serves.
    `routed` and `forgetting` are asked with routing automatic, as the guard is.
    """

    accepted: bool
    reasons: tuple[str, ...]
    held_out: HeldOutFigures
    other: HeldOutFigures | None
    guard: GuardFigures | None
    guard_forced: GuardFigures | None
    guard_limit: float
    retrieval: RetrievalFigures
    split_digest: str
    versions: VersionFigures | None = None
    routed: RoutedFigures | None = None
    forgetting: ForgettingFigures | None = None

    def to_dict(self) -> dict[str, object]:
        """The report as JSON values."""
        return dataclasses.asdict(self) | {"reasons": list(self.reasons)}


def run_gate(
    measure: Measure,
    split: Split,
    *,
    passages: Sequence[Passage],
    guard: Sequence[GuardItem],
    general: Sequence[Example],
    respondents: Respondents,
    predecessor: Predecessor | None = None,
) -> GateReport:
    """Measure an expert's weights on what was held out and on what must not get worse.

    `guard` are candidates; see `measure_guard`.
    Accepted only if the held-out gain (exact answers for recall, loss for generalise) has a lower
    95 % limit above 0 and the guard's exact upper 95 % limit of the loss is at most
    `max_guard_loss` of the settings with automatic routing; the forced figure is reported beside
    it. What was wrong before too is no loss of this expert's. Nor may it be sure (95 %) that the
    expert is worse than its `predecessor`, that the text of `general_text`, as it is routed, loses
    more than `max_forgetting`, or that stated probabilities are further off than before by more
    than `max_miscalibration`.
    """
    settings, seed = measure.settings, measure.seed
    other_name: SplitName = "generalise" if split.name == "recall" else "recall"
    held_out = measure.held_out(split.held_out, split.name)
    other = measure.held_out(split.other, other_name) if split.other else None
    versions = None if predecessor is None else measure.gain_over(predecessor, split)
    live = respondents.live(held_out)
    automatic = forced = None
    if settings.guard_prompts > 0:
        known = measure_guard(
            guard,
            live,
            base=respondents.base,
            before=respondents.before,
            count=settings.guard_prompts,
            seed=seed,
        )
        automatic = known.figures
        forced = ask_again(evenly(known.items, _FORCED_AT_MOST), respondents.forced).figures
    routed = measure_routed(
        split.held_out, held_out.metric, before=respondents.before, after=live, seed=seed
    )
    forgetting = measure_forgetting(measure, general, live)
    reasons = (
        *_held_out_reasons(held_out),
        *_version_reasons(versions, held_out.metric),
        *_guard_reasons(automatic, settings),
        *_forgetting_reasons(forgetting, settings),
        *_calibration_reasons(routed, settings),
    )
    return GateReport(
        accepted=not reasons,
        reasons=reasons,
        held_out=held_out,
        other=other,
        guard=automatic,
        guard_forced=forced,
        guard_limit=settings.max_guard_loss,
        retrieval=measure_retrieval(passages, split.train, split.held_out, answer=respondents.base),
        split_digest=split.digest,
        versions=versions,
        routed=routed,
        forgetting=forgetting,
    )


def _held_out_reasons(figures: HeldOutFigures) -> list[str]:
    if figures.gain.low > 0:
        return []
    reason = (
        f"held-out gain of {figures.gain.mean:+.3f} {_UNITS[figures.metric]} is not proven: the "
        f"95 % interval {figures.gain.low:+.3f} to {figures.gain.high:+.3f} does not lie above 0"
    )
    if figures.split == "generalise":
        reason += (
            "; it was measured on rows unlike those it learned from: where every row is a fact of "
            "its own, set training.split=recall, or give several wordings of each"
        )
    return [reason]


def _version_reasons(versions: VersionFigures | None, metric: Metric) -> list[str]:
    if versions is None or versions.gain.high >= 0:
        return []
    asked = f"{versions.examples} held-out questions"
    if versions.taught:
        asked += (
            f", of which it was taught {versions.taught}: too few are new to both versions for a "
            "fair comparison"
        )
    else:
        asked += " that it was not taught"
    reason = (
        f"version {versions.version}, which serves, is better by {-versions.gain.mean:.3f} "
        f"{_UNITS[metric]} (95 %: {-versions.gain.high:.3f} to {-versions.gain.low:.3f}) on {asked}"
    )
    return [reason]


def _guard_reasons(guard: GuardFigures | None, settings: TrainingSettings) -> list[str]:
    limit = settings.max_guard_loss
    if guard is None or guard.bound <= limit:
        return []
    at_best = clopper_pearson_upper(0, guard.items, confidence=GUARD_CONFIDENCE)
    if at_best > limit:
        reason = (
            f"the guard set holds only {guard.items} prompts: with none of them lost up to "
            f"{at_best:.2%} still might be, allowed are {limit:.2%}"
        )
    else:
        reason = (
            f"{guard.lost} of {guard.items} guard prompts are no longer answered right: up to "
            f"{guard.bound:.2%} lost (upper 95 % limit), allowed are {limit:.2%}"
        )
    return [reason]


def _forgetting_reasons(found: ForgettingFigures, settings: TrainingSettings) -> list[str]:
    if settings.general_text is None or found.rise.low <= settings.max_forgetting:
        return []
    reason = (
        f"general text loses {found.rise.mean:.3f} nats per token (95 %: {found.rise.low:.3f} to "
        f"{found.rise.high:.3f}), allowed are {settings.max_forgetting:.3f}: "
        f"{found.to_expert} of {found.texts} texts are sent to the expert"
    )
    return [reason]


def _calibration_reasons(found: RoutedFigures, settings: TrainingSettings) -> list[str]:
    if found.worse is None or found.worse.low <= settings.max_miscalibration:
        return []
    assert found.stated_after is not None
    assert found.right_after is not None
    reason = (
        f"its answers are said to be right with {found.stated_after:.2f}, and "
        f"{found.right_after:.2f} are: further off than before by {found.worse.mean:.2f} (95 %: "
        f"{found.worse.low:.2f} to {found.worse.high:.2f}), allowed are "
        f"{settings.max_miscalibration:.2f}"
    )
    return [reason]
