"""Reads what a teacher wrote, however it kept to the form: pairs and statements, or why not."""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

_THOUGHTS = re.compile(r"<think(?:ing)?>.*?(?:</think(?:ing)?>|\Z)", re.DOTALL | re.IGNORECASE)
_FENCE = re.compile(r"^\s*(?:```|~~~).*$", re.MULTILINE)
_BULLET = re.compile(r"^\s*(?:[-*+\u2022]\s+|\(?\d{1,3}[.):]\s+)?")
_LABEL = re.compile(r"^\W*(Q(?:uestion)?|A(?:nswer)?)\s*\d{0,3}\s*[:.]\W*?\s*(?=\S)", re.IGNORECASE)
_BOTH = re.compile(r"^(.*?\S)\s+\W*A(?:nswer)?\s*\d{0,3}\s*:\W*?\s*(?=\S)(.*)$", re.IGNORECASE)
_QUESTION_KEYS = ("question", "q", "prompt", "instruction")
_ANSWER_KEYS = ("answer", "a", "response", "output")
_STATEMENT_KEYS = ("statement", "sentence", "text", "fact")
_SENTENCE = re.compile(r"^[\"'A-Z0-9].*[.!]\"?$")
_LONGEST_LINE = 2000  # characters
_DEEPEST = 4  # levels of lists and objects around a pair


Keep = Callable[[int, str], None]
"""Takes a reply and the place of what was asked, as soon as it is there."""


def keep_nothing(_place: int, _reply: str) -> None:
    """For whoever waits for all replies."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A question and its answer, as the teacher wrote them."""

    question: str
    answer: str


@dataclass(frozen=True, slots=True)
class PairsRead:
    """The pairs of one reply in order, and what could not be read, counted by reason."""

    pairs: tuple[Pair, ...]
    unreadable: Mapping[str, int]


def read_pairs(reply: str) -> PairsRead:
    """JSON lines, a JSON list, or lines that begin with Q: and A:, with anything around them."""
    text = _bare(reply)
    whole = _json(text)
    if isinstance(whole, list | dict):
        found = list(_pairs_in(whole))
        return PairsRead(tuple(found), {} if found else {"JSON without question and answer": 1})
    reader = _LineReader()
    for line in text.splitlines():
        reader.take(_BULLET.sub("", line).strip())
    return reader.finish()


def read_statements(reply: str) -> tuple[str, ...]:
    """The sentences of a reply, one a line, plain or as JSON; other lines say nothing."""
    text = _bare(reply)
    whole = _json(text)
    if isinstance(whole, list | dict):
        return tuple(_statements_in(whole))
    found: list[str] = []
    for line in text.splitlines():
        content = _BULLET.sub("", line).strip()
        value = _json(content.rstrip(","))
        if isinstance(value, list | dict):
            found += _statements_in(value)
        elif len(content) <= _LONGEST_LINE and _SENTENCE.match(content):
            found.append(content.strip("\"'"))
    return tuple(found)


class _LineReader:
    """Puts lines together to pairs; a question waits for its answer."""

    def __init__(self) -> None:
        self._pairs: list[Pair] = []
        self._unreadable: Counter[str] = Counter()
        self._question = ""

    def take(self, line: str) -> None:
        if not line or line in "[]{},":
            return
        if len(line) > _LONGEST_LINE:
            self._unreadable["a line too long for a question"] += 1
            return
        if line.startswith(("{", "[")):
            self._take_json(line)
            return
        label = _LABEL.match(line)
        if label is None:
            self._unreadable["neither JSON nor Q: and A:"] += 1
        elif label.group(1)[0] in "Qq":
            self._ask(_unmarked(line[label.end() :]))
        else:
            self._answer(_unmarked(line[label.end() :]))

    def finish(self) -> PairsRead:
        self._close()
        return PairsRead(tuple(self._pairs), dict(self._unreadable))

    def _take_json(self, line: str) -> None:
        value = _json(line.rstrip(","))
        found = list(_pairs_in(value)) if isinstance(value, list | dict) else []
        self._pairs += found
        if not found:
            broken = value is None
            reason = "JSON that is broken" if broken else "JSON without question and answer"
            self._unreadable[reason] += 1

    def _ask(self, text: str) -> None:
        self._close()
        both = _BOTH.match(text)
        if both:
            self._pairs.append(Pair(_unmarked(both.group(1)), _unmarked(both.group(2))))
        else:
            self._question = text

    def _answer(self, text: str) -> None:
        if self._question:
            self._pairs.append(Pair(self._question, text))
        else:
            self._unreadable["an answer without a question"] += 1
        self._question = ""

    def _close(self) -> None:
        if self._question:
            self._unreadable["a question without an answer"] += 1
        self._question = ""


def _bare(reply: str) -> str:
    """Without a model's thoughts and the fences around code."""
    return _FENCE.sub("", _THOUGHTS.sub("", reply)).strip()


def _json(text: str) -> object:
    """The value, or None where it is no JSON."""
    try:
        value: object = json.loads(text, strict=False)
    except (ValueError, RecursionError):
        return None
    return value


def _pairs_in(value: object, depth: int = 0) -> Iterator[Pair]:
    if depth > _DEEPEST:
        return
    if isinstance(value, dict):
        question, answer = _field(value, _QUESTION_KEYS), _field(value, _ANSWER_KEYS)
        if question and answer:
            yield Pair(question, answer)
            return
    for each in value.values() if isinstance(value, dict) else value:  # type: ignore[attr-defined]
        if isinstance(each, list | dict):
            yield from _pairs_in(each, depth + 1)


def _statements_in(value: object, depth: int = 0) -> Iterator[str]:
    if depth > _DEEPEST:
        return
    if isinstance(value, dict):
        statement = _field(value, _STATEMENT_KEYS)
        if statement:
            yield statement
            return
    for each in value.values() if isinstance(value, dict) else value:  # type: ignore[attr-defined]
        if isinstance(each, str) and isinstance(value, list):
            yield each.strip()
        elif isinstance(each, list | dict):
            yield from _statements_in(each, depth + 1)


def _field(record: Mapping[object, object], keys: tuple[str, ...]) -> str:
    """The text under the first of these keys, whatever their case; numbers count as text."""
    lowered = {str(key).casefold(): value for key, value in record.items()}
    for key in keys:
        value = lowered.get(key)
        if isinstance(value, str | int | float) and not isinstance(value, bool):
            return str(value).strip()
    return ""


def _unmarked(text: str) -> str:
    """Without the stars that set it in bold."""
    return text.strip().strip("*").strip()
