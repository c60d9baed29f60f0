"""Questions from files, with the answers that are known to them or without any."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypedDict

from adaptive_moe.engine.question_records import (
    JSON_LINES,
    Line,
    PlacedRecord,
    lines_of,
    placed_records,
    record_of,
)
from adaptive_moe.errors import DataError, NoUsableRowsError
from adaptive_moe.training.rows import RowError, detect_shape, rows_of

_QUESTION_KEYS = ("prompt", "question", "query", "input")
_ANSWER_KEYS = ("answer", "response", "completion", "output")
_SOURCE_KEYS = ("source", "fact", "document", "group")


@dataclass(frozen=True, slots=True)
class GradedQuestion:
    """A question whose answer is known. Questions of one `source` share what they ask about.

    `where` names the file and the line that it was read from. `choices` are the answers to choose
    from where the question has some, and `right_choice` is the place of the right one.
    """

    question: str
    answer: str
    domain: str | None
    source: str
    where: str = field(default="", compare=False)
    choices: tuple[str, ...] = ()
    right_choice: int | None = None


class _Choices(TypedDict, total=False):
    choices: tuple[str, ...]
    right_choice: int


def read_questions(paths: Sequence[Path]) -> tuple[GradedQuestion, ...]:
    """Questions and answers, with domain and source where they are named, from example files.

    These are all that trainings read but documents: JSON, JSON lines, CSV, TSV, Parquet, Arrow and
    hf:OWNER/NAME, in any shape that asks one question a row. Raises DataError naming file and line
    for a row that cannot be used.
    """
    return _some([_answered(each) for path in paths for each in placed_records(path)], paths)


def read_prompts(paths: Sequence[Path]) -> tuple[GradedQuestion, ...]:
    """Questions without answers; those that a file holds are not looked at, `answer` is empty.

    A file is JSON lines as above, or plain text with one prompt a line: that is one named neither
    .jsonl, .ndjson nor .json whose first line is no JSON object. Raises DataError.
    """
    questions = []
    for path in paths:
        lines = lines_of(path)
        is_json = _is_json(path, lines)
        questions += [_unanswered(record_of(line)) if is_json else _plain(line) for line in lines]
    return _some(questions, paths)


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


def _some(questions: list[GradedQuestion], paths: Sequence[Path]) -> tuple[GradedQuestion, ...]:
    if not questions:
        raise NoUsableRowsError(f"no questions in {', '.join(str(path) for path in paths)}")
    return tuple(questions)


def _is_json(path: Path, lines: list[Line]) -> bool:
    if path.suffix.lower() in JSON_LINES:
        return True
    try:
        return bool(lines) and isinstance(json.loads(lines[0].text), dict)
    except (json.JSONDecodeError, RecursionError):
        return False


def _answered(record: PlacedRecord) -> GradedQuestion:
    fields = record.fields
    question, answer = _first(fields, _QUESTION_KEYS), _first(fields, _ANSWER_KEYS)
    if question is None or answer is None or "instruction" in fields:
        question, answer = _only_pair(record)
    return replace(_question(record, question, answer), **_choices(record, answer))


def _only_pair(record: PlacedRecord) -> tuple[str, str]:
    """The question and the answer of a row in another shape that trainings read."""
    try:
        shape = detect_shape(record.fields)
        rows = [] if shape == "text" else rows_of(record.fields, shape, file="", line=0)
    except RowError as error:
        raise DataError(
            f"{record.where}: needs a prompt and an answer, both text: {error}"
        ) from error
    if len(rows) != 1 or [role for role, _ in rows[0].prompt] != ["user"]:
        raise DataError(
            f"{record.where}: needs a prompt and an answer, both text; a conversation of several "
            "turns, or with a system message, cannot be asked as one question"
        )
    return rows[0].prompt[0][1], rows[0].answer


def _unanswered(record: PlacedRecord) -> GradedQuestion:
    question = _first(record.fields, _QUESTION_KEYS)
    if question is None:
        raise DataError(f"{record.where}: needs a prompt, as text")
    return _question(record, question, "")


def _plain(line: Line) -> GradedQuestion:
    return _question(PlacedRecord({}, line.where), line.text.strip(), "")


def _question(record: PlacedRecord, question: str, answer: str) -> GradedQuestion:
    domain = record.fields.get("domain")
    return GradedQuestion(
        question=question,
        answer=answer,
        domain=domain if isinstance(domain, str) else None,
        source=_first(record.fields, _SOURCE_KEYS) or question,
        where=record.where,
    )


def _choices(record: PlacedRecord, answer: str) -> _Choices:
    """The choices of a row that has any, with `answer_idx` or the answer among them."""
    choices = record.fields.get("choices")
    if not isinstance(choices, list):
        return {}
    if not all(isinstance(each, str) and each.strip() for each in choices):
        raise DataError(f"{record.where}: some of the choices are no text")
    if len(set(choices)) < len(choices):
        raise DataError(f"{record.where}: two of the choices are the same")
    right, named = (
        record.fields.get("answer_idx"),
        choices.index(answer) if answer in choices else None,
    )
    if right is None:
        right = named
    if not isinstance(right, int) or isinstance(right, bool) or not 0 <= right < len(choices):
        raise DataError(
            f"{record.where}: nothing says which choice is right: answer_idx is {right}, and the "
            "answer is none of them"
        )
    if named not in (None, right):
        raise DataError(f"{record.where}: the answer is choice {named}, answer_idx says {right}")
    return {"choices": tuple(choices), "right_choice": right}


def _first(record: dict[str, object], keys: Sequence[str]) -> str | None:
    values = (record.get(key) for key in keys)
    return next((value for value in values if isinstance(value, str) and value.strip()), None)
