"""What an expert gained on what was held out, against the base and the version before it."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from adaptive_moe.config.settings import TrainingSettings
from adaptive_moe.experts.bank import LoraBank
from adaptive_moe.experts.weights import LoraWeights
from adaptive_moe.measures.statistics import Interval, paired_bootstrap
from adaptive_moe.models.language_model import LanguageModel
from adaptive_moe.training.answer_loss import AnswerLoss
from adaptive_moe.training.encoding import EncodedExample, encode_examples
from adaptive_moe.training.material import question_key
from adaptive_moe.training.splits import METRICS, Metric, Split, SplitName
from adaptive_moe.training.steps import ExampleScore, score_examples
from adaptive_moe.training.synthesis import Example

_CONFIDENCE = 0.95
_RESAMPLES = 2000
_FEWEST_COMPARED = 4  # facts or sources, for a comparison on what is new to both versions alone


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

    @property
    def right(self) -> int:
        """Examples that speak for the expert: answered exactly right; for loss, those improved."""
        return round(self.exact_after * self.examples) if self.metric == "exact" else self.improved

    @property
    def base_right(self) -> int | None:
        """Examples the base answered exactly right; a loss does not tell how often it is right."""
        return round(self.exact_before * self.examples) if self.metric == "exact" else None


@dataclass(frozen=True, slots=True)
class Predecessor:
    """The version that serves until now, and the questions that it was taught."""

    version: int
    weights: LoraWeights
    activation: Literal["answer", "prompt"]
    taught: frozenset[str]


@dataclass(frozen=True, slots=True)
class VersionFigures:
    """What a new version gains over the one that serves.

    Measured on held-out questions that neither was taught, `taught` is 0; where these are too few,
    on all that are held out for the new version, of which the other was taught `taught`: that one
    then has the advantage. What an imported version was taught is not known. `*_before` are the
    serving version's figures, as in `HeldOutFigures`.
    """

    version: int
    examples: int
    taught: int
    exact_before: float
    exact_after: float
    loss_before: float
    loss_after: float
    gain: Interval


@dataclass(frozen=True, slots=True)
class Measure:
    """Scores one expert's weights beside those of the base, on any examples."""

    language_model: LanguageModel
    bank: LoraBank
    weights: LoraWeights
    settings: TrainingSettings
    seed: int

    def held_out(self, examples: Sequence[Example], split: SplitName) -> HeldOutFigures:
        """Before and after on one held-out set, by the metric of its split."""
        usable, before, after = self.scores(examples)
        metric = METRICS[split]
        return HeldOutFigures(
            split=split,
            metric=metric,
            examples=len(usable),
            exact_before=_share_exact(before),
            exact_after=_share_exact(after),
            loss_before=_mean_loss(before),
            loss_after=_mean_loss(after),
            improved=sum(new.loss < old.loss for old, new in zip(before, after, strict=True)),
            gain=self._gain(usable, before, after, metric),
        )

    def gain_over(self, predecessor: Predecessor, split: Split) -> VersionFigures:
        """The same comparison with an earlier version where the base stands in `held_out`."""
        pairs = list(zip(*self._usable(split.held_out), strict=True))
        taught = set(map(question_key, predecessor.taught))
        fresh = [pair for pair in pairs if question_key(pair[0].prompt[-1][1]) not in taught]
        is_fair = len({each.fact for each, _ in fresh}) >= _FEWEST_COMPARED
        compared = fresh if is_fair else pairs
        usable, encoded = [each for each, _ in compared], [each for _, each in compared]
        old, new = (
            score_examples(weights, self._loss(encoded, activation), self.settings)
            for weights, activation in (
                (predecessor.weights, predecessor.activation),
                (self.weights, self.settings.activation),
            )
        )
        return VersionFigures(
            version=predecessor.version,
            examples=len(compared),
            taught=0 if is_fair else len(pairs) - len(fresh),
            exact_before=_share_exact(old),
            exact_after=_share_exact(new),
            loss_before=_mean_loss(old),
            loss_after=_mean_loss(new),
            gain=self._gain(usable, old, new, METRICS[split.name]),
        )

    def scores(
        self, examples: Sequence[Example]
    ) -> tuple[list[Example], list[ExampleScore], list[ExampleScore]]:
        """The examples that can be written down for this model; the base's scores; the expert's."""
        usable, encoded = self._usable(examples)
        loss = self._loss(encoded, self.settings.activation)
        before = score_examples({}, loss, self.settings)
        return usable, before, score_examples(self.weights, loss, self.settings)

    def _usable(
        self, examples: Sequence[Example]
    ) -> tuple[list[Example], Sequence[EncodedExample]]:
        encoded = encode_examples(self.language_model, examples)
        unusable = {id(example) for example, _ in encoded.dropped}
        return [each for each in examples if id(each) not in unusable], encoded.examples

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


def _share_exact(scores: Sequence[ExampleScore]) -> float:
    return float(np.mean([score.exact for score in scores]))


def _mean_loss(scores: Sequence[ExampleScore]) -> float:
    """Mean nats per answer token."""
    return sum(score.loss for score in scores) / sum(score.tokens for score in scores)


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
