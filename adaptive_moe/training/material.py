"""What a person gives to learn from: files and folders, read, checked and counted."""

import hashlib
import json
import logging
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from adaptive_moe.errors import DataError, NoUsableRowsError
from adaptive_moe.pocket.packs import load_questions, pack_names
from adaptive_moe.training import documents, files
from adaptive_moe.training.documents import Passage, read_passages
from adaptive_moe.training.files import hub_name, read_hub, read_records
from adaptive_moe.training.rows import Row, RowError, Turn, clean_text, detect_shape, rows_of

__all__ = [
    "Material",
    "Passage",
    "Row",
    "is_material",
    "material_digest",
    "question_key",
    "read_material",
    "wording_key",
]

HELD_OUT_FILES = ("questions.jsonl", "development.jsonl")
_DOCUMENTS_FOLDER = "documents"
_CLOSING_MARKS = ".?!…"
# What `Dataset.save_to_disk` writes beside its rows.
_DATA_SET_NOTES = ("dataset_info.json", "dataset_dict.json", "state.json")

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Material:
    """Everything usable in the named files, and what was dropped and why.

    `shape` is one line for people ("prompt/response", "documents", "messages + text"). `dropped`
    holds (file, line, reason). `reserved` holds the `question_key` of the `held_out` questions that
    no training example may equal. `digest` is the SHA-256 of rows and passages, independent of
    where the files lie.
    """

    shape: str
    rows: tuple[Row, ...]
    passages: tuple[Passage, ...]
    dropped: tuple[tuple[str, int, str], ...]
    digest: str
    reserved: frozenset[str] = frozenset()
    held_out: tuple[str, ...] = ()


@dataclass(slots=True)
class _Harvest:
    reserved: frozenset[str]
    rows: list[Row] = field(default_factory=list)
    passages: list[Passage] = field(default_factory=list)
    dropped: list[tuple[str, int, str]] = field(default_factory=list)
    shapes: Counter[str] = field(default_factory=Counter)
    prompts: set[tuple[Turn, ...]] = field(default_factory=set)
    answers: dict[tuple[Turn, ...], Row] = field(default_factory=dict)  # by `_asked`
    examples: int = 0
    held_out: list[int] = field(default_factory=list)  # rows of the file that is being read


def read_material(paths: Iterable[Path | str], *, limit: int | None = None) -> Material:
    """Read files, folders and data sets of the hub (hf:OWNER/NAME), `limit` usable rows at most.

    Of a knowledge pack (a folder with documents/ in it) only the documents are read. A record that
    asks a held-out question of a pack is dropped; a file inside a pack with one such record, or
    any file of which more than half are such, is taken for the pack's questions and refused.

    Raises DataError for that, a missing or unreadable file, an unknown file type or a file named
    as a pack's questions are; NoUsableRowsError, naming the first bad row, when nothing usable is
    left.
    """
    named = [Path(path) for path in paths]
    held_out = _held_out_questions(named)
    reserved = frozenset(map(question_key, held_out))
    harvest = _Harvest(reserved)
    for path, name in _files_of(named):
        if hub_name(path) is None and path.suffix.lower() in documents.READERS:
            _take_document(path, name, harvest)
        else:
            _take_examples(path, name, harvest, limit=limit)
    _check_usable(harvest, named)
    shape = " + ".join(name for name, _ in harvest.shapes.most_common())
    _log.info("%s: %d rows, %d passages", shape, len(harvest.rows), len(harvest.passages))
    return Material(
        shape=shape,
        rows=tuple(harvest.rows),
        passages=tuple(harvest.passages),
        dropped=tuple(harvest.dropped),
        digest=material_digest(harvest.rows, harvest.passages),
        reserved=reserved,
        held_out=held_out,
    )


def question_key(text: str) -> str:
    """A hash that is equal for texts with the same words, whatever their case and punctuation."""
    words = re.findall(r"[^\W_]+", text.casefold())
    return hashlib.sha256(" ".join(words).encode()).hexdigest()


def wording_key(text: str) -> str:
    """Equal for texts that differ in case, spaces or closing marks alone.

    Other marks count, as a question may come down to one: 3 + 4 is not 3 - 4.
    """
    parts = re.findall(r"\w+|[^\w\s]", text.casefold())
    while len(parts) > 1 and parts[-1] in _CLOSING_MARKS:
        parts.pop()
    return " ".join(parts)


def material_digest(rows: Sequence[Row], passages: Sequence[Passage]) -> str:
    """SHA-256 of rows and passages, independent of where the files lie."""
    content = {
        "rows": [[row.prompt, row.answer] for row in rows],
        "passages": [[passage.heading, passage.text] for passage in passages],
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def is_material(file: Path, root: Path) -> bool:
    """Whether this file below the folder `root` is read where the folder is named."""
    hidden = any(part.startswith(".") for part in file.relative_to(root).parts)
    known = file.suffix.lower() in documents.READERS | files.READERS
    left_out = file.name in HELD_OUT_FILES + _DATA_SET_NOTES
    return file.is_file() and known and not hidden and not left_out


def _files_of(named: Sequence[Path]) -> Iterator[tuple[Path, str]]:
    """Every file with the name it is quoted by: relative to the folder that was named."""
    for path in named:
        if path.name in HELD_OUT_FILES:
            raise DataError(
                f"{path}: these are a pack's held-out questions; name the pack's folder instead, "
                "only its documents are learned from"
            )
        if hub_name(path) is not None:
            yield path, path.as_posix()
        elif path.is_dir():
            yield from _files_in(path)
        elif not path.exists():
            raise DataError(f"{path}: there is no such file or folder")
        elif path.suffix.lower() not in documents.READERS | files.READERS:
            raise DataError(f"{path}: unknown file type; known are {_known_types()}")
        else:
            yield path, path.name


def _files_in(folder: Path) -> Iterator[tuple[Path, str]]:
    is_pack = (folder / _DOCUMENTS_FOLDER).is_dir()
    root = folder / _DOCUMENTS_FOLDER if is_pack else folder
    readable = [file for file in sorted(root.rglob("*")) if is_material(file, root)]
    if not readable:
        raise DataError(f"{folder}: the folder holds no {_known_types()} file")
    for file in readable:
        yield file, (folder.name / file.relative_to(folder)).as_posix()


def _known_types() -> str:
    return ", ".join(suffix[1:] for suffix in (*files.READERS, *documents.READERS))


def _take_document(path: Path, name: str, harvest: _Harvest) -> None:
    passages = read_passages(path, file=name)
    if not passages:
        harvest.dropped.append((name, 1, "the document holds no text"))
        return
    harvest.passages += passages
    harvest.shapes["documents"] += len(passages)


def _take_examples(path: Path, name: str, harvest: _Harvest, *, limit: int | None) -> None:
    harvest.held_out = []
    count = 0
    data_set = hub_name(path)
    for number, record, problem in read_records(path) if data_set is None else read_hub(data_set):
        if limit is not None and harvest.examples >= limit:
            break
        count += 1
        try:
            _take_record(record, problem, (name, number), harvest)
        except RowError as error:
            harvest.dropped.append((name, number, str(error)))
    _check_held_out(path, name, harvest.held_out, count=count)


def _take_record(record: object, problem: str, place: tuple[str, int], harvest: _Harvest) -> None:
    if problem:
        raise RowError(problem)
    if not isinstance(record, Mapping):
        raise RowError(f"a {type(record).__name__}, not an object")
    shape = detect_shape(record)
    file, line = place
    if shape == "text":
        harvest.passages.append(Passage(clean_text(record["text"], "text"), (), file, line))
        harvest.examples += 1
    else:
        rows = rows_of(record, shape, file=file, line=line)
        if any(question_key(row.prompt[-1][1]) in harvest.reserved for row in rows):
            harvest.held_out.append(line)
            raise RowError("this question is held out for measuring and cannot be trained on")
        _check_agreement(rows, harvest.answers)
        fresh = [row for row in rows if row.prompt not in harvest.prompts]
        if not fresh:
            raise RowError("the same prompt and answer stand further up")
        harvest.prompts |= {row.prompt for row in fresh}
        for row in fresh:
            harvest.answers.setdefault(_asked(row), row)
        harvest.rows += fresh
        harvest.examples += len(fresh)
    harvest.shapes[shape] += 1


def _check_agreement(rows: Sequence[Row], answers: Mapping[tuple[Turn, ...], Row]) -> None:
    """Nobody can learn two answers to one question; the first stays."""
    for row in rows:
        earlier = answers.get(_asked(row), row)
        if earlier.answer != row.answer:
            raise RowError(
                f"it answers the question of {earlier.file}, row {earlier.line}, otherwise"
            )


def _asked(row: Row) -> tuple[Turn, ...]:
    *before, (role, text) = row.prompt
    return (*before, (role, wording_key(text)))


def _check_usable(harvest: _Harvest, named: Sequence[Path]) -> None:
    if harvest.rows or harvest.passages:
        return
    where = ", ".join(str(path) for path in named) or "the material"
    if not harvest.dropped:
        raise NoUsableRowsError(f"{where}: no rows at all")
    file, line, reason = harvest.dropped[0]
    raise NoUsableRowsError(
        f"{where}: none of {len(harvest.dropped)} rows can be used; "
        f"the first is {file}, row {line}: {reason}"
    )


def _held_out_questions(named: Sequence[Path]) -> tuple[str, ...]:
    """The questions held out by the shipped packs and by any pack a named path lies in."""
    questions = [
        item.question
        for pack in pack_names()
        for development in (False, True)
        for item in load_questions(pack, development=development)
    ]
    for file in sorted({file for path in named for file in _pack_questions(path)}):
        questions += [
            str(record["question"])
            for _, record, _ in read_records(file)
            if isinstance(record, Mapping) and isinstance(record.get("question"), str)
        ]
    return tuple(dict.fromkeys(questions))


def _pack_questions(path: Path) -> list[Path]:
    """The held-out questions of the pack that the path is or lies in; none outside a pack."""
    data_set = hub_name(path)
    if data_set is not None:
        path = Path(data_set.partition(":")[0])
        if not path.exists():  # it is the hub's
            return []
    folders = (path, *path.absolute().parents[:3])
    packs = [folder for folder in folders if (folder / _DOCUMENTS_FOLDER).is_dir()]
    files_of_packs = [folder / name for folder in packs for name in HELD_OUT_FILES]
    return [file for file in files_of_packs if file.is_file()]


def _check_held_out(path: Path, name: str, held_out: Sequence[int], *, count: int) -> None:
    """Refuse a file that passes for a pack's own questions, as `read_material` tells."""
    if held_out and (2 * len(held_out) > count or _pack_questions(path)):
        raise DataError(
            f"{name}, row {held_out[0]}: this question is held out for measuring and cannot be "
            f"trained on, like {len(held_out)} of {count} rows of this file; leave the file out"
        )
