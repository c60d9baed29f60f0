"""Questions from files, with the answers that are known to them or without any."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypedDict

from adaptive_moe.errors import DataError, NoUsableRowsError

_QUESTION_KEYS = ("prompt", "question", "query", "input")
_ANSWER_KEYS = ("answer", "response", "completion", "output")
_SOURCE_KEYS = ("source", "fact", "document", "group")
_JSON_SUFFIXES = (".jsonl", ".ndjson", ".json")


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


@dataclass(frozen=True, slots=True)
class _Line:
    text: str
    where: str


def read_questions(paths: Sequence[Path]) -> tuple[GradedQuestion, ...]:
    """Questions and answers from JSON-lines files, with domain and source where they are named.

    Raises DataError naming file and line for a row that cannot be used.
    """
    return _some([_answered(line) for path in paths for line in _lines(path)], paths)


def read_prompts(paths: Sequence[Path]) -> tuple[GradedQuestion, ...]:
    """Questions without answers; those that a file holds are not looked at, `answer` is empty.

    A file is JSON lines as above, or plain text with one prompt a line: that is one named neither
    .jsonl, .ndjson nor .json whose first line is no JSON object. Raises DataError.
    """
    questions = []
    for path in paths:
        lines = _lines(path)
        read = _unanswered if _is_json(path, lines) else _plain
        questions += [read(line) for line in lines]
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


def _lines(path: Path) -> list[_Line]:
    """The lines that hold anything."""
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error
    numbered = enumerate(lines, start=1)
    return [_Line(line, f"{path}:{number}") for number, line in numbered if line.strip()]


def _some(questions: list[GradedQuestion], paths: Sequence[Path]) -> tuple[GradedQuestion, ...]:
    if not questions:
        raise NoUsableRowsError(f"no questions in {', '.join(str(path) for path in paths)}")
    return tuple(questions)


def _is_json(path: Path, lines: list[_Line]) -> bool:
    if path.suffix.lower() in _JSON_SUFFIXES:
        return True
    try:
        return bool(lines) and isinstance(json.loads(lines[0].text), dict)
    except (json.JSONDecodeError, RecursionError):
        return False


def _answered(line: _Line) -> GradedQuestion:
    record = _record(line)
    question, answer = _first(record, _QUESTION_KEYS), _first(record, _ANSWER_KEYS)
    if question is None or answer is None:
        raise DataError(f"{line.where}: needs a prompt and an answer, both text")
    return replace(_question(line, record, question, answer), **_choices(line, record, answer))


def _unanswered(line: _Line) -> GradedQuestion:
    record = _record(line)
    question = _first(record, _QUESTION_KEYS)
    if question is None:
        raise DataError(f"{line.where}: needs a prompt, as text")
    return _question(line, record, question, "")


def _plain(line: _Line) -> GradedQuestion:
    return _question(line, {}, line.text.strip(), "")


def _question(line: _Line, record: dict[str, object], question: str, answer: str) -> GradedQuestion:
    domain = record.get("domain")
    return GradedQuestion(
        question=question,
        answer=answer,
        domain=domain if isinstance(domain, str) else None,
        source=_first(record, _SOURCE_KEYS) or question,
        where=line.where,
    )


def _choices(line: _Line, record: dict[str, object], answer: str) -> _Choices:
    """The choices of a row that has any, with `answer_idx` or the answer among them."""
    choices = record.get("choices")
    if not isinstance(choices, list):
        return {}
    if not all(isinstance(each, str) and each.strip() for each in choices):
        raise DataError(f"{line.where}: some of the choices are no text")
    if len(set(choices)) < len(choices):
        raise DataError(f"{line.where}: two of the choices are the same")
    right, named = record.get("answer_idx"), choices.index(answer) if answer in choices else None
    if right is None:
        right = named
    if not isinstance(right, int) or isinstance(right, bool) or not 0 <= right < len(choices):
        raise DataError(
            f"{line.where}: nothing says which choice is right: answer_idx is {right}, and the "
            "answer is none of them"
        )
    if named not in (None, right):
        raise DataError(f"{line.where}: the answer is choice {named}, answer_idx says {right}")
    return {"choices": tuple(choices), "right_choice": right}


def _record(line: _Line) -> dict[str, object]:
    try:
        record = json.loads(line.text)
    except json.JSONDecodeError as error:
        raise DataError(f"{line.where}: not JSON: {error.msg}") from error
    except RecursionError as error:
        raise DataError(f"{line.where}: not JSON: nested too deeply") from error
    if not isinstance(record, dict):
        raise DataError(f"{line.where}: not a JSON object")
    return record


def _first(record: dict[str, object], keys: Sequence[str]) -> str | None:
    values = (record.get(key) for key in keys)
    return next((value for value in values if isinstance(value, str) and value.strip()), None)
