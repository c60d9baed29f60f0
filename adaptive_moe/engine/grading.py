"""Lets the bare base answer questions with known answers, and grades it."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

from transformers import GenerationConfig

from adaptive_moe.engine.batches import in_batches
from adaptive_moe.errors import DataError, NoUsableRowsError
from adaptive_moe.experts.bank import LoraBank
from adaptive_moe.measures.graders import GRADERS
from adaptive_moe.models.decoding import Completion, decode, prefill
from adaptive_moe.models.language_model import EncodedPrompt, LanguageModel, Prompt
from adaptive_moe.router.evidence import Evidence, RouterRow, gather_evidence

Grader = Callable[[str, str], float]

_RIGHT = 0.5  # a grade from here on counts as right
_QUESTION_KEYS = ("prompt", "question", "query", "input")
_ANSWER_KEYS = ("answer", "response", "completion", "output")
_SOURCE_KEYS = ("source", "fact", "document", "group")


@dataclass(frozen=True, slots=True)
class GradedQuestion:
    """A question whose answer is known. Questions of one `source` share what they ask about."""

    question: str
    answer: str
    domain: str | None
    source: str


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
        max_new_tokens: int = 32,
    ) -> list[RouterRow]:
        """One graded row per question, in order. Raises DataError for an unknown grader."""
        grade = _grader(grader)
        prompts = [each.question for each in questions]
        asked = zip(questions, self.ask(prompts, max_new_tokens=max_new_tokens), strict=True)
        return [
            RouterRow(
                evidence=evidence,
                trace=completion.trace,
                correct=grade(completion.text, each.answer) >= _RIGHT,
                domain=each.domain,
                source=each.source,
            )
            for each, (evidence, completion) in asked
        ]

    def answers(self, prompts: Sequence[Prompt], *, max_new_tokens: int = 32) -> list[str]:
        """The base's greedy answers, in order."""
        return [
            completion.text for _, completion in self.ask(prompts, max_new_tokens=max_new_tokens)
        ]

    def ask(
        self, prompts: Sequence[Prompt], *, max_new_tokens: int = 32
    ) -> list[tuple[Evidence, Completion]]:
        """The base's greedy answers with their evidence, in order."""
        encoded = [
            self._language_model.encode(prompt, max_new_tokens=max_new_tokens) for prompt in prompts
        ]
        generation = GenerationConfig(max_new_tokens=max_new_tokens)
        return in_batches(
            encoded,
            lambda batch: self._answer(batch, generation),
            length=lambda each: each.length,
        )

    def _answer(
        self, encoded: list[EncodedPrompt], generation: GenerationConfig
    ) -> list[tuple[Evidence, Completion]]:
        with self._bank.activate([()] * len(encoded)):
            filled = prefill(self._language_model, encoded)
            *_, last = decode(
                self._language_model,
                filled.header_cache,
                filled.first_logits,
                attention_mask=filled.attention_mask,
                prompts=encoded,
                generation=generation,
            )
        assert last.completions is not None
        return list(zip(gather_evidence(filled), last.completions, strict=True))


def read_questions(paths: Sequence[Path]) -> tuple[GradedQuestion, ...]:
    """Questions and answers from JSON-lines files, with domain and source where they are named.

    Raises DataError naming file and line for a row that cannot be used.
    """
    questions = [question for path in paths for question in _read_file(path)]
    if not questions:
        raise NoUsableRowsError(f"no questions in {', '.join(str(path) for path in paths)}")
    return tuple(questions)


def write_questions(path: Path, questions: Sequence[GradedQuestion]) -> None:
    """Write questions so that `read_questions` gives them back."""
    lines = (
        json.dumps(
            {"prompt": each.question, "answer": each.answer}
            | ({"domain": each.domain} if each.domain else {})
            | {"source": each.source}
        )
        for each in questions
    )
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def _read_file(path: Path) -> Iterator[GradedQuestion]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error
    for number, line in enumerate(lines, start=1):
        if line.strip():
            yield _read_line(line, f"{path}:{number}")


def _read_line(line: str, where: str) -> GradedQuestion:
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(f"{where}: not JSON: {error.msg}") from error
    if not isinstance(record, dict):
        raise DataError(f"{where}: not a JSON object")
    question, answer = _first(record, _QUESTION_KEYS), _first(record, _ANSWER_KEYS)
    if question is None or answer is None:
        raise DataError(f"{where}: needs a prompt and an answer, both text")
    domain = record.get("domain")
    return GradedQuestion(
        question=question,
        answer=answer,
        domain=domain if isinstance(domain, str) else None,
        source=_first(record, _SOURCE_KEYS) or question,
    )


def _first(record: dict[str, object], keys: Sequence[str]) -> str | None:
    values = (record.get(key) for key in keys)
    return next((value for value in values if isinstance(value, str) and value.strip()), None)


def _grader(grader: str | Grader) -> Grader:
    if not isinstance(grader, str):
        return grader
    if grader not in GRADERS:
        raise DataError(f"there is no grader {grader!r}; take one of {', '.join(GRADERS)}")
    return GRADERS[grader]
