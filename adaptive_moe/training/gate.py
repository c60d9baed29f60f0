"""Decides by measurement whether a trained expert may answer anyone."""

import dataclasses
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from adaptive_moe.config.settings import TrainingSettings
from adaptive_moe.experts.bank import LoraBank
from adaptive_moe.experts.weights import LoraWeights
from adaptive_moe.measures.graders import normalised
from adaptive_moe.measures.sampling import evenly
from adaptive_moe.measures.statistics import Interval, clopper_pearson_upper, paired_bootstrap
from adaptive_moe.models.language_model import LanguageModel
from adaptive_moe.training.answer_loss import AnswerLoss
from adaptive_moe.training.documents import Passage
from adaptive_moe.training.encoding import EncodedExample, encode_examples
from adaptive_moe.training.retrieval import RetrievalFigures, measure_retrieval
from adaptive_moe.training.rows import Turn
from adaptive_moe.training.splits import METRICS, Metric, Split, SplitName
from adaptive_moe.training.steps import ExampleScore, score_examples
from adaptive_moe.training.synthesis import Example

Prompts = Sequence[tuple[Turn, ...]]
Answerer = Callable[[Prompts], Sequence[str]]
"""Conversations in, the text of one answer each out, in order."""

_UNITS: dict[Metric, str] = {"exact": "exact answers", "loss": "nats per token"}
_CONFIDENCE = 0.95
_RESAMPLES = 2000
_FEWEST_COMPARED = 4  # facts or sources that a new version and an old one must both meet anew
_FORCED_AT_MOST = 300  # guard prompts; this figure decides nothing


@dataclass(frozen=True, slots=True)
class GuardItem:
    """A prompt that the base answers right and must go on answering right; near = alike in kind."""

    prompt: tuple[Turn, ...]
    answer: str
    near: bool


@dataclass(frozen=True, slots=True)
class HeldOutFigures:
    """One held-out set before and after.

    `exact_*` is the share of answers greedy decoding gets exactly right, `loss_*` mean nats per
    answer token, `improved` the number of examples whose loss fell. `gain` is the improvement of
    `metric` (for loss: before minus after), averaged per fact or source, with its paired
    bootstrap interval.
    """

    split: SplitName
    metric: Metric
    examples: int
    exact_before: float
    exact_after: float
    loss_before: float
    loss_after: float
    improved: int
    gain: Interval


@dataclass(frozen=True, slots=True)
class GuardFigures:
    """Guard prompts right before and wrong after; `bound` is the exact upper 95 % limit."""

    items: int
    lost: int
    near_items: int
    near_lost: int
    rate: float
    bound: float


@dataclass(frozen=True, slots=True)
class Predecessor:
    """The version that serves until now, and the questions that it was taught."""

    version: int
    weights: LoraWeights
    activation: Literal["answer", "prompt"]
    taught: frozenset[str]


@dataclass(frozen=True, slots=True)
class VersionFigures:
    """What a new version gains over the one that serves, on questions that neither was taught.

    What an imported version was taught is not known.
    """

    version: int
    examples: int
    gain: Interval


@dataclass(frozen=True, slots=True)
class GateReport:
    """The verdict, why, and every figure behind it.

    `other` is the split that was not chosen, where the material offers it. `guard` is None when
    `training.guard_prompts` is 0; `guard_forced` when forced answers were not asked for;
    `versions` when no version of this name serves, or too few held-out questions are new to it.
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

    def to_dict(self) -> dict[str, object]:
        """The report as JSON values."""
        return dataclasses.asdict(self) | {"reasons": list(self.reasons)}


def run_gate(  # noqa: PLR0913  what is measured, on what, with whom answering
    language_model: LanguageModel,
    bank: LoraBank,
    weights: LoraWeights,
    split: Split,
    *,
    passages: Sequence[Passage],
    guard: Sequence[GuardItem],
    answer_automatic: Answerer,
    answer_before: Answerer | None = None,
    answer_forced: Answerer | None = None,
    predecessor: Predecessor | None = None,
    settings: TrainingSettings,
    seed: int,
) -> GateReport:
    """Measure an expert's weights on what was held out and on what must not get worse.

    Accepted only if the held-out gain (exact answers for recall, loss for generalise) has a lower
    95 % limit above 0 and the guard's exact upper 95 % limit of the loss is at most
    `settings.max_guard_loss` with automatic routing; the forced figure is reported beside it.
    What was wrong before too, by `answer_before`, is no loss of this expert's. A new version may
    not be surely worse (95 %) than its `predecessor`.
    """
    other_name: SplitName = "generalise" if split.name == "recall" else "recall"
    measure = _Measure(language_model, bank, weights, settings, seed)
    held_out = measure.held_out(split.held_out, split.name)
    other = measure.held_out(split.other, other_name) if split.other else None
    versions = None if predecessor is None else measure.gain_over(predecessor, split)
    automatic = forced = None
    if settings.guard_prompts > 0:
        automatic = measure_guard(guard, answer_automatic, before=answer_before)
        if answer_forced is not None:
            forced = measure_guard(evenly(guard, _FORCED_AT_MOST), answer_forced)
    reasons = (
        *_held_out_reasons(held_out),
        *_version_reasons(versions, held_out.metric),
        *_guard_reasons(automatic, settings),
    )
    return GateReport(
        accepted=not reasons,
        reasons=reasons,
        held_out=held_out,
        other=other,
        guard=automatic,
        guard_forced=forced,
        guard_limit=settings.max_guard_loss,
        retrieval=measure_retrieval(passages, split.train, split.held_out),
        split_digest=split.digest,
        versions=versions,
    )


def measure_guard(
    guard: Sequence[GuardItem], answer: Answerer, *, before: Answerer | None = None
) -> GuardFigures:
    """Ask every guard prompt and count the answers that are no longer right.

    Where other experts answer already, `before` asks without the new one, and what they spoil is
    left out. The bound is Clopper and Pearson's: 0 of 300 lost gives 0.00994, no item gives 1.
    """
    wrong = _wrong(guard, answer)
    if before is not None:
        spoilt = {id(item) for item in _wrong(wrong, before)}
        guard = [item for item in guard if id(item) not in spoilt]
        wrong = [item for item in wrong if id(item) not in spoilt]
    return GuardFigures(
        items=len(guard),
        lost=len(wrong),
        near_items=sum(item.near for item in guard),
        near_lost=sum(item.near for item in wrong),
        rate=len(wrong) / len(guard) if guard else 0.0,
        bound=clopper_pearson_upper(len(wrong), len(guard), confidence=_CONFIDENCE),
    )


def _wrong(guard: Sequence[GuardItem], answer: Answerer) -> list[GuardItem]:
    """The items that are not answered right."""
    answers = answer([item.prompt for item in guard]) if guard else []
    return [
        item for item, text in zip(guard, answers, strict=True) if not normalised(text, item.answer)
    ]


@dataclass(frozen=True, slots=True)
class _Measure:
    language_model: LanguageModel
    bank: LoraBank
    weights: LoraWeights
    settings: TrainingSettings
    seed: int

    def held_out(self, examples: Sequence[Example], split: SplitName) -> HeldOutFigures:
        usable, encoded = _usable(self.language_model, examples)
        loss = self._loss(encoded, self.settings.activation)
        before = score_examples(self.bank, {}, loss, self.settings)
        after = score_examples(self.bank, self.weights, loss, self.settings)
        metric = METRICS[split]
        tokens = sum(score.tokens for score in before)
        return HeldOutFigures(
            split=split,
            metric=metric,
            examples=len(usable),
            exact_before=float(np.mean([score.exact for score in before])),
            exact_after=float(np.mean([score.exact for score in after])),
            loss_before=sum(score.loss for score in before) / tokens,
            loss_after=sum(score.loss for score in after) / tokens,
            improved=sum(new.loss < old.loss for old, new in zip(before, after, strict=True)),
            gain=self._gain(usable, before, after, metric),
        )

    def gain_over(self, predecessor: Predecessor, split: Split) -> VersionFigures | None:
        """The same comparison with an earlier version where the base stands in `held_out`."""
        pairs = zip(*_usable(self.language_model, split.held_out), strict=True)
        fresh = [pair for pair in pairs if pair[0].prompt[-1][1] not in predecessor.taught]
        usable, encoded = [each for each, _ in fresh], [each for _, each in fresh]
        if len({each.fact for each in usable}) < _FEWEST_COMPARED:
            return None
        old, new = (
            score_examples(self.bank, weights, self._loss(encoded, activation), self.settings)
            for weights, activation in (
                (predecessor.weights, predecessor.activation),
                (self.weights, self.settings.activation),
            )
        )
        gain = self._gain(usable, old, new, METRICS[split.name])
        return VersionFigures(predecessor.version, len(usable), gain)

    def _loss(
        self, examples: Sequence[EncodedExample], activation: Literal["answer", "prompt"]
    ) -> AnswerLoss:
        return AnswerLoss(
            self.language_model,
            self.bank,
            examples,
            activation=activation,
            prompt_cache_bytes=self.settings.prompt_cache_bytes,
        )

    def _gain(
        self,
        examples: Sequence[Example],
        before: Sequence[ExampleScore],
        after: Sequence[ExampleScore],
        metric: Metric,
    ) -> Interval:
        return paired_bootstrap(
            _gains(examples, before, after, metric),
            confidence=_CONFIDENCE,
            resamples=_RESAMPLES,
            seed=self.seed,
        )


def _usable(
    language_model: LanguageModel, examples: Sequence[Example]
) -> tuple[list[Example], Sequence[EncodedExample]]:
    """The examples that can be written down for this model, as they are and as ids."""
    encoded = encode_examples(language_model, examples)
    unusable = {id(example) for example, _ in encoded.dropped}
    return [each for each in examples if id(each) not in unusable], encoded.examples


def _gains(
    examples: Sequence[Example],
    before: Sequence[ExampleScore],
    after: Sequence[ExampleScore],
    metric: Metric,
) -> list[float]:
    """Mean improvement per fact or source: paraphrases of one fact are not independent."""
    by_fact: dict[str, list[float]] = defaultdict(list)
    for example, old, new in zip(examples, before, after, strict=True):
        exact = float(new.exact) - float(old.exact)
        per_token = (old.loss - new.loss) / old.tokens
        by_fact[example.fact].append(exact if metric == "exact" else per_token)
    return [float(np.mean(gains)) for gains in by_fact.values()]


def _held_out_reasons(figures: HeldOutFigures) -> list[str]:
    if figures.gain.low > 0:
        return []
    reason = (
        f"held-out gain of {figures.gain.mean:+.3f} {_UNITS[figures.metric]} is not proven: the "
        f"95 % interval {figures.gain.low:+.3f} to {figures.gain.high:+.3f} does not lie above 0"
    )
    return [reason]


def _version_reasons(versions: VersionFigures | None, metric: Metric) -> list[str]:
    if versions is None or versions.gain.high >= 0:
        return []
    reason = (
        f"version {versions.version}, which serves, is better by {-versions.gain.mean:.3f} "
        f"{_UNITS[metric]} (95 %: {-versions.gain.high:.3f} to {-versions.gain.low:.3f}) on "
        f"{versions.examples} held-out questions that it was not taught"
    )
    return [reason]


def _guard_reasons(guard: GuardFigures | None, settings: TrainingSettings) -> list[str]:
    limit = settings.max_guard_loss
    if guard is None or guard.bound <= limit:
        return []
    if clopper_pearson_upper(0, guard.items, confidence=_CONFIDENCE) > limit:
        reason = (
            f"the guard set holds only {guard.items} prompts: with none of them lost up to "
            f"{clopper_pearson_upper(0, guard.items, confidence=_CONFIDENCE):.2%} still might be, "
            f"allowed are {limit:.2%}"
        )
    else:
        reason = (
            f"{guard.lost} of {guard.items} guard prompts are no longer answered right: up to "
            f"{guard.bound:.2%} lost (upper 95 % limit), allowed are {limit:.2%}"
        )
    return [reason]
