"""Records of question files, in every format of example files, each with its place."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from adaptive_moe.errors import DataError
from adaptive_moe.training import files
from adaptive_moe.training.files import hub_name, read_hub, read_records

JSON_LINES = (".jsonl", ".ndjson", ".json")
_TABLES = (".csv", ".tsv")
FORMATS = f"{', '.join(sorted(files.READERS))}, or hf:OWNER/NAME"
_OPENINGS = "{["


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a text file that holds anything."""

    text: str
    where: str


@dataclass(frozen=True, slots=True)
class PlacedRecord:
    """One record, and the file and line, or the number of the row, where it was read."""

    fields: dict[str, object]
    where: str


def placed_records(path: Path) -> Iterator[PlacedRecord]:
    """All records of a file or of a data set of the hub; DataError for one that is none.

    A file of another name, and one that is called .json, may be JSON lines.
    """
    name = hub_name(path)
    if name is None and path.suffix.lower() not in _read_as_rows(path):
        yield from map(record_of, lines_of(path))
        return
    for number, record, reason in read_records(path) if name is None else read_hub(name):
        where = f"{path}:{number}"
        if reason:
            raise DataError(f"{where}: {reason}")
        fields = _object(record, where)
        yield PlacedRecord(_typed(fields, where) if _is_table(path) else fields, where)


def lines_of(path: Path) -> list[Line]:
    """The lines that hold anything."""
    if path.is_dir():
        raise DataError(f"{path}: is a folder; name the files with the questions ({FORMATS})")
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path}: cannot be read: {error}; questions are read from {FORMATS}"
        ) from error
    numbered = enumerate(lines, start=1)
    return [Line(line, f"{path}:{number}") for number, line in numbered if line.strip()]


def record_of(line: Line) -> PlacedRecord:
    """The JSON object of a line."""
    try:
        record = json.loads(line.text)
    except json.JSONDecodeError as error:
        advice = "" if line.text.lstrip()[0] in _OPENINGS else f"; questions come from {FORMATS}"
        raise DataError(f"{line.where}: not JSON: {error.msg}{advice}") from error
    except RecursionError as error:
        raise DataError(f"{line.where}: not JSON: nested too deeply") from error
    return PlacedRecord(_object(record, line.where), line.where)


def is_json_lines(path: Path) -> bool:
    """Whether each of a .json file's first lines is an object, so that it is no single value."""
    try:
        (first, *others) = lines_of(path)
        return bool(others) and isinstance(json.loads(first.text), dict)
    except (ValueError, RecursionError):
        return False


def _read_as_rows(path: Path) -> frozenset[str]:
    """The endings of files that are not JSON lines, this one's content considered."""
    named = frozenset(files.READERS) - {".jsonl", ".ndjson"}
    return named - {".json"} if path.suffix.lower() == ".json" and is_json_lines(path) else named


def _is_table(path: Path) -> bool:
    return path.suffix.lower() in _TABLES


def _object(record: object, where: str) -> dict[str, object]:
    if not isinstance(record, dict):
        raise DataError(f"{where}: not a JSON object")
    return record


def _typed(fields: dict[str, object], where: str) -> dict[str, object]:
    """The cells of a table that are no text: a JSON list of choices, the number of the right one.

    Empty cells are as good as absent.
    """
    filled = {key: value for key, value in fields.items() if str(value).strip()}
    if "choices" in filled:
        try:
            filled["choices"] = json.loads(str(filled["choices"]))
        except (ValueError, RecursionError) as error:
            raise DataError(
                f'{where}: the choices are no list; write them as JSON, ["one", "two"]'
            ) from error
    index = str(filled.get("answer_idx", "")).strip()
    return filled | ({"answer_idx": int(index)} if index.isdecimal() else {})
