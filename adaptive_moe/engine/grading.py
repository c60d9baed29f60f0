"""Lets the bare base answer questions, and labels its answers: by grades, or by its own samples."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import final

from transformers import GenerationConfig

from adaptive_moe.engine.batches import BATCH, in_batches
from adaptive_moe.engine.openings import Opening
from adaptive_moe.engine.question_files import GradedQuestion
from adaptive_moe.engine.second_look import AGREEMENT, drawn_answers
from adaptive_moe.errors import DataError
from adaptive_moe.experts.bank import LoraBank
from adaptive_moe.measures.graders import GRADERS
from adaptive_moe.models.decoding import Completion, decode, prefill
from adaptive_moe.models.language_model import EncodedPrompt, LanguageModel, Prompt
from adaptive_moe.models.prefilling import Prefill, take_rows
from adaptive_moe.router.evidence import Evidence, RouterRow, gather_evidence
from adaptive_moe.router.scores import consistency

Grader = Callable[[str, str], float]

RIGHT = 0.5
"""A grade from here on counts as right."""

ANSWER_TOKENS = 32
"""The longest answer that is graded."""

_DRAWN_TOGETHER = 2 * BATCH  # rows


@dataclass(frozen=True, slots=True)
class _Answered:
    """The greedy answer to one prompt, what was known before it, and the answers drawn beside."""

    evidence: Evidence
    completion: Completion
    drawn: tuple[str, ...]


@final
class BaseGrader:
    """Answers by the base alone, greedy, in batches, with the evidence a router learns from."""

    def __init__(self, language_model: LanguageModel, bank: LoraBank) -> None:
        self._language_model = language_model
        self._bank = bank

    def rows(
        self,
        questions: Sequence[GradedQuestion],
        *,
        grader: str | Grader = "normalised",
        max_new_tokens: int = ANSWER_TOKENS,
    ) -> list[RouterRow]:
        """One graded row per question, in order. Raises DataError for an unknown grader."""
        grade = as_grader(grader)
        asked = self._ask([each.question for each in questions], max_new_tokens)
        return [
            _row(each, answered, correct=grade(answered.completion.text, each.answer) >= RIGHT)
            for each, answered in zip(questions, asked, strict=True)
        ]

    def agreements(
        self, questions: Sequence[GradedQuestion], *, samples: int
    ) -> tuple[list[RouterRow], list[GradedQuestion]]:
        """Rows that nobody graded, with the agreement of `samples` drawn answers as labels.

        That is their mean token F1 with the greedy answer (see `consistency`), 0 for an empty one.
        The questions come back with the base's own answers.
        """
        prompts = [each.question for each in questions]
        asked = self._ask(prompts, ANSWER_TOKENS, samples=samples)
        pairs = list(zip(questions, asked, strict=True))
        rows = [_agreeing_row(each, answered) for each, answered in pairs]
        return rows, [replace(each, answer=answered.completion.text) for each, answered in pairs]

    def answers(
        self, prompts: Sequence[Prompt], *, max_new_tokens: int = ANSWER_TOKENS
    ) -> list[str]:
        """The base's greedy answers, in order."""
        return [each.completion.text for each in self._ask(prompts, max_new_tokens)]

    def ask(
        self, prompts: Sequence[Prompt], *, max_new_tokens: int = ANSWER_TOKENS
    ) -> list[tuple[Evidence, Completion]]:
        """The base's greedy answers with their evidence, in order."""
        return [(each.evidence, each.completion) for each in self._ask(prompts, max_new_tokens)]

    def _ask(
        self, prompts: Sequence[Prompt], max_new_tokens: int, *, samples: int = 0
    ) -> list[_Answered]:
        encoded = [
            self._language_model.encode(prompt, max_new_tokens=max_new_tokens) for prompt in prompts
        ]
        generation = GenerationConfig(max_new_tokens=max_new_tokens)
        return in_batches(
            encoded,
            lambda batch: self._answer(batch, generation, samples),
            length=lambda each: each.length,
        )

    def _answer(
        self, encoded: list[EncodedPrompt], generation: GenerationConfig, samples: int
    ) -> list[_Answered]:
        with self._bank.activate([()] * len(encoded)):
            filled = prefill(self._language_model, encoded)
            evidence = gather_evidence(filled)
            drawn = self._draw(filled, samples)  # before the greedy answers extend the cache
            *_, last = decode(
                self._language_model,
                filled.header_cache,
                filled.first_logits,
                attention_mask=filled.attention_mask,
                prompts=encoded,
                generation=generation,
            )
        assert last.completions is not None
        answered = zip(evidence, last.completions, drawn, strict=True)
        return [_Answered(*each) for each in answered]

    def _draw(self, filled: Prefill, samples: int) -> list[tuple[str, ...]]:
        """`samples` answers to every prompt, all on the key-values that it has already."""
        count = len(filled.prompts)
        if samples == 0:
            return [()] * count
        texts: list[str] = []
        together = max(1, _DRAWN_TOGETHER // samples)
        for start in range(0, count, together):
            rows = range(start, min(start + together, count))
            part = take_rows(filled, [row for row in rows for _ in range(samples)])
            opening = Opening(part.header_cache, part.attention_mask, part.first_logits)
            texts += drawn_answers(self._language_model, opening, part.prompts)
        return [tuple(texts[start : start + samples]) for start in range(0, len(texts), samples)]


def as_grader(grader: str | Grader) -> Grader:
    """The grader of this name, or the function itself. Raises DataError for an unknown name."""
    if not isinstance(grader, str):
        return grader
    if grader not in GRADERS:
        raise DataError(f"there is no grader {grader!r}; take one of {', '.join(GRADERS)}")
    return GRADERS[grader]


def _row(question: GradedQuestion, answered: _Answered, *, correct: bool) -> RouterRow:
    return RouterRow(
        evidence=answered.evidence,
        trace=answered.completion.trace,
        correct=correct,
        domain=question.domain,
        source=question.source,
    )


def _agreeing_row(question: GradedQuestion, answered: _Answered) -> RouterRow:
    text = answered.completion.text
    agreement = 1.0 - consistency(answered.drawn, reference=text) if text.strip() else 0.0
    row = _row(question, answered, correct=agreement >= 1 - AGREEMENT)
    return replace(row, agreement=agreement)
