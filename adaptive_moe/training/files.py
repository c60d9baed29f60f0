"""Records of example files and of data sets of the hub, each with its line or row number."""

import csv
import io
import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from adaptive_moe.errors import DataError

Record = tuple[int, object | None, str]  # number from 1, the record, or None and the reason

_MAX_CONTROL_SHARE = 0.01  # of a text's characters; a stray form feed is fine, a picture is not
_NO_TEXT = re.compile(r"[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\ufffe\uffff]")
HUB = "hf:"
_LIST_KEYS = ("data", "rows", "examples", "train", "conversations_list")


def read_records(path: Path) -> Iterator[Record]:
    """Every record of the file in order, the unreadable ones with a reason.

    Raises DataError, naming the file, when it cannot be read at all.
    """
    reader = READERS[path.suffix.lower()]
    try:
        yield from reader(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error


def hub_name(path: Path) -> str | None:
    """What follows `hf:` in a path that names a data set of the hub; None for any other."""
    text = path.as_posix()
    return text.removeprefix(HUB) if text.startswith(HUB) else None


def read_hub(name: str) -> Iterator[Record]:
    """Every record of a data set OWNER/NAME, or of its part OWNER/NAME:SPLIT, "train" if none.

    A folder laid out as the hub has them may stand for OWNER/NAME. No more is fetched than is read.
    Raises DataError when it cannot be had.
    """
    from datasets import load_dataset

    title, _, split = name.partition(":")
    if not title:
        raise DataError("hf: names no data set; give hf:OWNER/NAME or hf:OWNER/NAME:SPLIT")
    advice = (
        "check the name, the split (OWNER/NAME:SPLIT) and the connection; one with several "
        "configurations has to be saved as a file first"
    )
    with foreign_parser(Path(title), "data set of the hub", advice=advice):
        rows = load_dataset(title, split=split or "train", streaming=True)
        for number, record in enumerate(rows, start=1):
            yield number, record, ""


def read_text(path: Path) -> str:
    """The whole of a UTF-8 file; DataError, with the place, where it is something else."""
    content = path.read_bytes()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{path}, row {line}: not UTF-8 text at byte {error.start}; save the file as UTF-8, or "
            "leave it out"
        ) from error
    odd = _NO_TEXT.search(text)
    if odd and ("\0" in text or len(_NO_TEXT.findall(text)) > _MAX_CONTROL_SHARE * len(text)):
        line = text.count("\n", 0, odd.start()) + 1
        offset = len(text[: odd.start()].encode())
        raise DataError(
            f"{path}, row {line}: not a text but binary data, as byte {offset} shows; leave it out"
        )
    return text


@contextmanager
def foreign_parser(path: Path, kind: str, *, advice: str) -> Iterator[None]:
    """Whatever a library raises while it reads this file, as a DataError that says what to do."""
    try:
        yield
    except Exception as error:
        # A broken file makes such a parser fail in any of its lines, with any error at all.
        reason = f"{type(error).__name__}: {_first_line(error)}"
        raise DataError(f"{path}: not a readable {kind} ({reason}); {advice}") from error


def _read_jsonl(path: Path) -> Iterator[Record]:
    with path.open("rb") as file:
        for number, raw in enumerate(file, start=1):
            line = raw.removeprefix(b"\xef\xbb\xbf") if number == 1 else raw
            if not line.strip():
                continue
            try:
                yield number, json.loads(line), ""
            except UnicodeDecodeError:
                yield number, None, "not UTF-8"
            except RecursionError:
                yield number, None, "not JSON: nested too deeply"
            except ValueError as error:
                yield number, None, f"not JSON: {error}"


def _read_json(path: Path) -> Iterator[Record]:
    try:
        content = json.loads(read_text(path))
    except DataError:
        raise
    except RecursionError as error:
        raise DataError(f"{path}: not JSON: nested too deeply") from error
    except json.JSONDecodeError as error:
        raise DataError(f"{path}:{error.lineno}: not JSON: {error.msg}") from error
    except ValueError as error:
        raise DataError(f"{path}: not JSON: {error}") from error
    if isinstance(content, dict):
        lists = [content[key] for key in _LIST_KEYS if isinstance(content.get(key), list)]
        content = lists[0] if lists else [content]
    if not isinstance(content, list):
        raise DataError(f"{path}: holds neither a list of rows nor an object")
    for number, record in enumerate(content, start=1):
        yield number, record, ""


def _read_separated(path: Path, *, separator: str) -> Iterator[Record]:
    reader = csv.reader(io.StringIO(read_text(path), newline=""), delimiter=separator)
    try:
        header = [name.strip() for name in next(reader, [])]
        for fields in reader:
            if not fields:
                continue
            if len(fields) != len(header):
                reason = f"{len(fields)} fields where the header has {len(header)}"
                yield reader.line_num, None, reason
                continue
            yield reader.line_num, dict(zip(header, fields, strict=True)), ""
    except csv.Error as error:
        yield reader.line_num, None, f"not CSV: {error}"


def _read_csv(path: Path) -> Iterator[Record]:
    return _read_separated(path, separator=",")


def _read_tsv(path: Path) -> Iterator[Record]:
    return _read_separated(path, separator="\t")


def _read_parquet(path: Path) -> Iterator[Record]:
    from pyarrow import parquet

    advice = "write it anew, or leave it out"
    with path.open("rb") as file, foreign_parser(path, "parquet file", advice=advice):
        number = 0
        for batch in parquet.ParquetFile(file).iter_batches(batch_size=1024):
            for record in batch.to_pylist():
                number += 1
                yield number, record, ""


def _read_arrow(path: Path) -> Iterator[Record]:
    """Either of Arrow's formats; `datasets` writes the one for streams."""
    import pyarrow

    advice = "write it anew, or leave it out"
    with path.open("rb") as file, foreign_parser(path, "Arrow file", advice=advice):
        try:
            table = pyarrow.ipc.open_file(file).read_all()
        except pyarrow.ArrowInvalid:
            file.seek(0)
            table = pyarrow.ipc.open_stream(file).read_all()
        for number, record in enumerate(table.to_pylist(), start=1):
            yield number, record, ""


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or ["unknown"])[0][:200]


READERS: dict[str, Callable[[Path], Iterator[Record]]] = {
    ".jsonl": _read_jsonl,
    ".ndjson": _read_jsonl,
    ".json": _read_json,
    ".csv": _read_csv,
    ".tsv": _read_tsv,
    ".parquet": _read_parquet,
    ".arrow": _read_arrow,
}
