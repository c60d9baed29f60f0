"""The rows an expert was trained on, kept beside its weights, and the nearest of them to a prompt.

Two files in the expert's folder: `rows.jsonl`, one training row per line, and `rows.safetensors`
with the unit vector [row, dimension] of each row's prompt in half precision. Which space the
vectors lie in is the caller's choice; prompts must be looked up in the space they were written in.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from json import dumps
from pathlib import Path, PurePosixPath, PureWindowsPath

import numpy as np
from jaxtyping import Float, Float16, Int
from pydantic import ConfigDict, TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from adaptive_moe.errors import CorruptExpertError, DataError
from adaptive_moe.measures.graders import normalise

ROWS_FILE = "rows.jsonl"
VECTORS_FILE = "rows.safetensors"

_TENSOR = "vectors"
_MAX_BYTES = 1 << 30  # of either file; far beyond any expert's material
_UNIT_TOLERANCE = 0.01  # rounding to half precision moves a unit vector's length by about 1e-4


@dataclass(frozen=True, slots=True)
class TrainingRow:
    """One row of the material: where it stands and what it teaches. `line` counts from 1."""

    __pydantic_config__ = ConfigDict(extra="forbid", strict=True)

    file: str
    line: int
    question: str
    answer: str


@dataclass(frozen=True, slots=True)
class SourceRow:
    """A training row near a prompt; `similarity` is the cosine of their vectors, -1 to 1."""

    file: str
    line: int
    question: str
    answer: str
    similarity: float


_ROW = TypeAdapter(TrainingRow)


def write_rows(
    folder: Path, rows: Sequence[TrainingRow], vectors: Float[np.ndarray, "row dimension"]
) -> None:
    """Write the rows and the direction of their vectors into an expert's staged folder.

    Files named by an absolute path, or one that climbs out, are kept by their last name only: an
    expert says nothing about the machine it was trained on. Raises DataError for vectors that do
    not fit the rows, are not finite or have no direction.
    """
    if len(rows) != len(vectors):
        raise DataError(f"{len(rows)} training rows came with {len(vectors)} vectors")
    wide = vectors.astype(np.float64)
    lengths = np.linalg.norm(wide, axis=1, keepdims=True)
    if not (np.isfinite(lengths) & (lengths > 0)).all():
        bad = rows[int(np.flatnonzero(~(np.isfinite(lengths) & (lengths > 0)))[0])]
        raise DataError(f"{bad.file}:{bad.line} has a vector without a direction; train again")
    lines = (dumps({**asdict(row), "file": _portable(row.file)}, sort_keys=True) for row in rows)
    (folder / ROWS_FILE).write_text("".join(f"{line}\n" for line in lines), encoding="ascii")
    save_file({_TENSOR: (wide / lengths).astype(np.float16)}, folder / VECTORS_FILE)


def read_rows(folder: Path) -> tuple[TrainingRow, ...]:
    """All training rows of an expert, as they were written. Raises CorruptExpertError."""
    file = folder / ROWS_FILE
    lines = enumerate(_read_lines(file), start=1)
    return tuple(_read_row(line, f"{file}, line {number}") for number, line in lines)


def read_vectors(folder: Path) -> Float16[np.ndarray, "row dimension"]:
    """The unit vector of every training row's prompt. Raises CorruptExpertError."""
    file = folder / VECTORS_FILE
    _check_size(file)
    try:
        with safe_open(file, framework="numpy") as opened:
            vectors: np.ndarray = opened.get_tensor(_TENSOR)
    except (SafetensorError, OSError) as error:
        raise CorruptExpertError(f"{file} cannot be read: {error}") from error
    if vectors.dtype != np.float16 or vectors.ndim != 2:  # noqa: PLR2004 - row, dimension
        raise CorruptExpertError(f"{file} holds {vectors.dtype} of shape {vectors.shape}")
    lengths = np.linalg.norm(vectors.astype(np.float32), axis=1)
    if not (np.abs(lengths - 1) <= _UNIT_TOLERANCE).all():
        raise CorruptExpertError(f"{file} holds something else than finite unit vectors")
    return vectors


def nearest(
    folder: Path,
    vector: Float[np.ndarray, " dimension"],
    k: int = 3,
    *,
    answer: str | None = None,
) -> tuple[SourceRow, ...]:
    """The at most `k` rows nearest to `vector` by cosine, each place (file and line) once.

    Rows that teach exactly `answer` come before all others: it was learned from one of them.
    Raises CorruptExpertError when the files are missing, do not fit each other or the vector, or
    hold anything but rows and finite unit vectors.
    """
    lines = _read_lines(folder / ROWS_FILE)
    vectors = read_vectors(folder)
    if vectors.shape != (len(lines), vector.size):
        raise CorruptExpertError(
            f"{folder}: {len(lines)} rows and a prompt vector of {vector.size} numbers do not fit "
            f"vectors of shape {vectors.shape}; verify the expert, or train it again"
        )
    length = float(np.linalg.norm(vector.astype(np.float64)))
    direction = (vector / length if length > 0 else vector).astype(np.float32)
    similarities = np.clip(vectors.astype(np.float32) @ direction, -1.0, 1.0)
    order = np.argsort(-similarities, kind="stable")
    if answer is not None:
        wanted = normalise(answer)
        is_other = np.array([normalise(row.answer) != wanted for row in read_rows(folder)])
        order = order[np.argsort(is_other[order], kind="stable")]
    return _distinct(lines, similarities, order, k, folder / ROWS_FILE)


def _distinct(
    lines: Sequence[bytes],
    similarities: Float[np.ndarray, " row"],
    order: Int[np.ndarray, " ranked"],
    k: int,
    file: Path,
) -> tuple[SourceRow, ...]:
    """Walk down the ranking, read row by row, and skip places already seen."""
    found: dict[tuple[str, int], SourceRow] = {}
    for index in order:
        if len(found) >= k:
            break
        row = _read_row(lines[index], f"{file}, line {index + 1}")
        found.setdefault(
            (row.file, row.line),
            SourceRow(row.file, row.line, row.question, row.answer, float(similarities[index])),
        )
    return tuple(found.values())


def _read_lines(file: Path) -> list[bytes]:
    _check_size(file)
    return file.read_bytes().removesuffix(b"\n").split(b"\n")


def _read_row(line: bytes, where: str) -> TrainingRow:
    try:
        return _ROW.validate_json(line)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]["msg"]
        raise CorruptExpertError(f"{where} is not a training row: {problem}") from error


def _check_size(file: Path) -> None:
    try:
        size = file.stat().st_size
    except OSError as error:
        raise CorruptExpertError(f"{file} is missing or cannot be read: {error}") from error
    if not 0 < size <= _MAX_BYTES:
        raise CorruptExpertError(f"{file} has {size} bytes, which no list of training rows has")


def _portable(file: str) -> str:
    """The path if it is relative and stays inside its folder, else its last name."""
    windows, posix = PureWindowsPath(file), PurePosixPath(file)
    if windows.is_absolute() or windows.drive or posix.is_absolute() or ".." in windows.parts:
        return windows.name
    return posix.as_posix()
