"""How well an expert answers given questions, beside the base and beside other experts."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import final

import numpy as np
from jaxtyping import Float
from transformers import GenerationConfig

from adaptive_moe.config.settings import TrainingSettings
from adaptive_moe.engine.answering import Answerer
from adaptive_moe.engine.batches import in_batches
from adaptive_moe.engine.events import to_json
from adaptive_moe.engine.question_files import GradedQuestion
from adaptive_moe.engine.request import Request
from adaptive_moe.engine.shelf import Activation
from adaptive_moe.errors import DataError, ExpertError, NoUsableRowsError, PromptError
from adaptive_moe.experts.store import ExpertRecord
from adaptive_moe.experts.weights import LoraWeights
from adaptive_moe.measures.graders import normalised, token_f1
from adaptive_moe.measures.statistics import Interval, cluster_bootstraps
from adaptive_moe.training.answer_loss import AnswerLoss
from adaptive_moe.training.encoding import encode_examples
from adaptive_moe.training.steps import ExampleScore, score_examples
from adaptive_moe.training.synthesis import AS_WRITTEN, Example

BASE = "base"
MOST_OTHERS = 8
"""Experts to compare with where none are named."""

_METRICS = ("loss", "exact", "token_f1", "choice")


@dataclass(frozen=True, slots=True)
class SystemFigures:
    """What one system makes of all questions, with 95 % intervals that draw whole sources.

    `loss` is nats per token of the expected answers and `perplexity` its exponential. `exact` is
    the share of greedy answers that are the expected one after `normalised`, `token_f1` their mean
    likeness, 0 to 1. `choice` is the share of questions with choices of which the right one costs
    the fewest nats in all, None without such questions. `behind` says by metric how much better
    the evaluated expert is on the same questions, loss counted downwards; empty for itself.
    """

    name: str
    loss: Interval
    perplexity: Interval
    exact: Interval
    token_f1: Interval
    choice: Interval | None
    behind: Mapping[str, Interval] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ExpertEvaluation:
    """The expert first, then the base and the others. `dropped` are (place, reason).

    A version that does not serve goes by "NAME vN" among the `systems`.
    """

    expert: str
    version: int
    questions: int
    sources: int
    systems: tuple[SystemFigures, ...]
    dropped: tuple[tuple[str, str], ...]

    def to_dict(self) -> dict[str, object]:
        """The evaluation as JSON values."""
        values = to_json(self)
        assert isinstance(values, dict)
        return dict(values)


@dataclass(frozen=True, slots=True)
class _Measured:
    """One system's figures of every question, [question]; `choice` is NaN where there is none."""

    loss: Float[np.ndarray, " question"]
    tokens: Float[np.ndarray, " question"]
    exact: Float[np.ndarray, " question"]
    token_f1: Float[np.ndarray, " question"]
    choice: Float[np.ndarray, " question"]

    def means(self, picks: np.ndarray) -> np.ndarray:
        """The metrics of the picked questions, in order; NaN where none had choices."""
        chosen = self.choice[picks]
        chosen = chosen[~np.isnan(chosen)]
        return np.array(
            [
                self.loss[picks].sum() / self.tokens[picks].sum(),
                self.exact[picks].mean(),
                self.token_f1[picks].mean(),
                chosen.mean() if chosen.size else math.nan,
            ]
        )


@final
class ExpertEvaluator:
    """Asks every system the same questions; the experts are forced, nothing is routed or noted."""

    def __init__(self, answerer: Answerer, settings: TrainingSettings) -> None:
        self._answerer = answerer
        self._settings = settings

    def evaluate(
        self,
        name: str,
        questions: Sequence[GradedQuestion],
        *,
        against: Sequence[str],
        stored: ExpertRecord | None = None,
    ) -> ExpertEvaluation:
        """The figures of the named expert, the base and the active experts `against`.

        It is the active version, or the `stored` one, whatever its status but removed. Raises
        ExpertError, and NoUsableRowsError where no question fits the context.
        """
        with self._asked(name, stored) as system:
            return self._evaluation(name, system, questions, against=against)

    @contextmanager
    def _asked(self, name: str, stored: ExpertRecord | None) -> Iterator[str]:
        """By which name the expert is asked; another one than its own where it does not serve."""
        shelf = self._answerer.shelf
        if stored is None or (name in shelf and shelf[name].version == stored.version):
            yield name
            return
        if stored.status == "removed":
            raise ExpertError(
                f"expert {name!r} version {stored.version} was removed; train or import it again"
            )
        with shelf.out_of_service(stored) as told:
            yield told

    def _evaluation(
        self,
        expert: str,
        name: str,
        questions: Sequence[GradedQuestion],
        *,
        against: Sequence[str],
    ) -> ExpertEvaluation:
        """What is made of the questions by the expert that is asked as `name`, and by others."""
        (asked,) = self._answerer.shelf.require([name])
        named = dict.fromkeys(each for each in against if each not in (name, BASE))
        others = self._answerer.shelf.require(list(named))
        usable, dropped = self._usable(questions)
        measured = {
            system: self._measure(system, usable)
            for system in (name, BASE, *(each.name for each in others))
        }
        sources = [each.source for each in usable]
        return ExpertEvaluation(
            expert=expert,
            version=asked.version,
            questions=len(usable),
            sources=len(set(sources)),
            systems=_figures(name, measured, sources, seed=self._settings.seed),
            dropped=dropped,
        )

    def _usable(
        self, questions: Sequence[GradedQuestion]
    ) -> tuple[list[GradedQuestion], tuple[tuple[str, str], ...]]:
        """Questions that fit into the context with their answer and with every choice."""
        model = self._answerer.language_model
        usable: list[GradedQuestion] = []
        dropped: list[tuple[str, str]] = []
        for each in questions:
            texts = {each.answer, *each.choices}
            try:
                longest = max(len(model.encode_answer(text)) for text in texts)
                model.encode(each.question, max_new_tokens=longest)
            except (DataError, PromptError) as error:
                dropped.append((each.where, str(error)))
            else:
                usable.append(each)
        if not usable:
            reason = f"; the first: {dropped[0][0]}: {dropped[0][1]}" if dropped else ""
            raise NoUsableRowsError(f"none of {len(questions)} questions can be asked{reason}")
        return usable, tuple(dropped)

    def _measure(self, system: str, questions: Sequence[GradedQuestion]) -> _Measured:
        scores = self._scores(system, [(each, each.answer) for each in questions])
        texts = self._texts(system, questions)
        graded = list(zip(texts, (each.answer for each in questions), strict=True))
        return _Measured(
            loss=np.array([score.loss for score in scores]),
            tokens=np.array([score.tokens for score in scores], dtype=np.float64),
            exact=np.array([float(normalised(*pair)) for pair in graded]),
            token_f1=np.array([token_f1(*pair) for pair in graded]),
            choice=self._choices(system, questions),
        )

    def _choices(
        self, system: str, questions: Sequence[GradedQuestion]
    ) -> Float[np.ndarray, " question"]:
        pairs = [(each, choice) for each in questions for choice in each.choices]
        if not pairs:
            return np.full(len(questions), math.nan)
        costs = iter([score.loss for score in self._scores(system, pairs)])
        found = []
        for each in questions:
            own = [next(costs) for _ in each.choices]
            found.append(float(int(np.argmin(own)) == each.right_choice) if own else math.nan)
        return np.array(found)

    def _scores(
        self, system: str, pairs: Sequence[tuple[GradedQuestion, str]]
    ) -> list[ExampleScore]:
        """What every text costs as the answer to its question."""
        shelf, bank = self._answerer.shelf, self._answerer.bank
        encoded = encode_examples(
            self._answerer.language_model, [_example(each, text) for each, text in pairs]
        )
        weights: LoraWeights = {}
        activation: Activation = "answer"
        if system != BASE:
            expert_id = shelf.find(system).expert_id
            weights, activation = shelf.weights(expert_id), shelf.activation(expert_id)
        loss = AnswerLoss(
            self._answerer.language_model,
            bank,
            encoded.examples,
            activation=activation,
            prompt_cache_bytes=self._settings.prompt_cache_bytes,
        )
        return score_examples(weights, loss, self._settings)

    def _texts(self, system: str, questions: Sequence[GradedQuestion]) -> list[str]:
        """Greedy answers, of at most as many tokens as expected, whoever else is asked."""
        places: dict[int, list[int]] = {}
        for place, each in enumerate(questions):
            length = len(self._answerer.language_model.encode_answer(each.answer))
            places.setdefault(length, []).append(place)
        texts: dict[int, str] = {}
        for length, alike in places.items():
            found = self._answers(system, [questions[place] for place in alike], length)
            texts.update(zip(alike, found, strict=True))
        return [texts[place] for place in range(len(questions))]

    def _answers(self, system: str, questions: Sequence[GradedQuestion], length: int) -> list[str]:
        request = Request(
            generation=GenerationConfig(max_new_tokens=length),
            experts=None if system == BASE else [system],
            attribution=False,
        )

        def answers(batch: list[GradedQuestion]) -> list[str]:
            found = self._answerer.finished([each.question for each in batch], request)
            return [each.answer.text for each in found]

        return in_batches(questions, answers, length=lambda each: len(each.question))


def _figures(
    name: str, measured: Mapping[str, _Measured], sources: Sequence[str], *, seed: int
) -> tuple[SystemFigures, ...]:
    """Every system's means and its distance to the expert, on the same draws of sources."""
    own = measured[name]
    has_choices = not np.isnan(own.choice).all()
    metrics = _METRICS if has_choices else _METRICS[:-1]
    better = np.array([-1.0, 1.0, 1.0, 1.0])[: len(metrics)]  # loss falls where things improve

    def all_means(picks: np.ndarray) -> np.ndarray:
        means = [each.means(picks)[: len(metrics)] for each in measured.values()]
        leads = [better * (means[0] - each) for each in means[1:]]
        return np.concatenate([*means, *leads])

    found = cluster_bootstraps(all_means, sources, seed=seed)
    rows = [
        dict(zip(metrics, found[start : start + len(metrics)], strict=True))
        for start in range(0, len(found), len(metrics))
    ]
    means, leads = rows[: len(measured)], [{}, *rows[len(measured) :]]
    return tuple(
        SystemFigures(
            name=system,
            loss=mean["loss"],
            perplexity=_exponential(mean["loss"]),
            exact=mean["exact"],
            token_f1=mean["token_f1"],
            choice=mean.get("choice"),
            behind=lead,
        )
        for system, mean, lead in zip(measured, means, leads, strict=True)
    )


def _exponential(loss: Interval) -> Interval:
    """Of nats per token; what is beyond all floats is infinite."""
    with np.errstate(over="ignore"):
        values = np.exp(np.array([loss.mean, loss.low, loss.high]))
    return Interval(*values.tolist())


def _example(question: GradedQuestion, text: str) -> Example:
    prompt = (("user", question.question),)
    return Example(prompt, text, question.source, AS_WRITTEN, question.where, 0)
