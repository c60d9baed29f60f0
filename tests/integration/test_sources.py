"""An expert's rows can be written, found again by a prompt's vector, and are never trusted."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from adaptive_moe.errors import CorruptExpertError, DataError
from adaptive_moe.integration.sources import (
    ROWS_FILE,
    VECTORS_FILE,
    TrainingRow,
    nearest,
    write_rows,
)

IRON = TrainingRow("elements.md", 3, "What is the symbol of iron?", "Fe")
IRON_AGAIN = TrainingRow("elements.md", 3, "Iron's symbol?", "Fe")
GOLD = TrainingRow("elements.md", 7, "What is the symbol of gold?", "Au")
PORT = TrainingRow("ports.md", 1, "Which port does SSH use?\u2028", "22")
VECTORS = np.array([[2.0, 0.0, 0.0], [3.0, 0.3, 0.0], [0.0, 0.5, 0.0], [0.0, 0.0, 1.0]])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_rows(tmp_path, [IRON, IRON_AGAIN, GOLD, PORT], VECTORS)
    return tmp_path


def test_the_nearest_row_comes_first_with_its_cosine(folder: Path) -> None:
    first, second = nearest(folder, np.array([1.0, 0.0, 2.0]), k=2)
    assert (first.file, first.line, first.question, first.answer) == (
        PORT.file,
        PORT.line,
        PORT.question,
        PORT.answer,
    )
    assert [first.similarity, second.similarity] == pytest.approx(
        [2 / 5**0.5, 1 / 5**0.5], abs=1e-3
    )


def test_one_place_is_named_once_by_its_nearest_question(folder: Path) -> None:
    found = nearest(folder, np.array([3.0, 0.3, 0.0], dtype=np.float32), k=10)
    assert [(row.file, row.line) for row in found] == [
        ("elements.md", 3),
        ("elements.md", 7),
        ("ports.md", 1),
    ]
    assert found[0].question == IRON_AGAIN.question


def test_only_the_direction_of_a_vector_counts(folder: Path) -> None:
    vector = np.array([0.2, 0.9, 0.1])
    assert [row.question for row in nearest(folder, vector)] == [
        row.question for row in nearest(folder, 1e4 * vector)
    ]


def test_the_same_rows_make_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    again.mkdir()
    write_rows(again, [IRON, IRON_AGAIN, GOLD, PORT], VECTORS)
    for name in (ROWS_FILE, VECTORS_FILE):
        assert (again / name).read_bytes() == (folder / name).read_bytes()


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("/home/someone/notes/elements.md", "elements.md"),
        ("C:\\Users\\someone\\elements.md", "elements.md"),
        ("../secret/elements.md", "elements.md"),
        ("documents/elements.md", "documents/elements.md"),
    ],
)
def test_no_path_of_the_machine_is_written(tmp_path: Path, given: str, kept: str) -> None:
    write_rows(tmp_path, [TrainingRow(given, 1, "q", "a")], np.ones((1, 2)))
    (row,) = nearest(tmp_path, np.ones(2))
    assert row.file == kept
    assert "someone" not in (tmp_path / ROWS_FILE).read_text()


@pytest.mark.parametrize("vectors", [np.zeros((4, 3)), np.full((4, 3), np.nan), np.ones((3, 3))])
def test_vectors_without_direction_or_row_are_refused(tmp_path: Path, vectors: np.ndarray) -> None:
    with pytest.raises(DataError):
        write_rows(tmp_path, [IRON, IRON_AGAIN, GOLD, PORT], vectors)
    assert list(tmp_path.iterdir()) == []


def _drop_a_row(folder: Path) -> None:
    file = folder / ROWS_FILE
    file.write_bytes(file.read_bytes().split(b"\n", 1)[1])


def _rename_a_key(folder: Path) -> None:
    file = folder / ROWS_FILE
    file.write_text(file.read_text().replace('"line"', '"lime"'))


def _make_line_a_text(folder: Path) -> None:
    file = folder / ROWS_FILE
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    file.write_text("".join(json.dumps({**row, "line": str(row["line"])}) + "\n" for row in rows))


def _put_a_nan(folder: Path) -> None:
    vectors = load_file(folder / VECTORS_FILE)["vectors"]
    vectors[1, 0] = np.nan
    save_file({"vectors": vectors}, folder / VECTORS_FILE)


def _widen(folder: Path) -> None:
    vectors = load_file(folder / VECTORS_FILE)["vectors"]
    save_file({"vectors": vectors.astype(np.float32)}, folder / VECTORS_FILE)


def _zero(folder: Path) -> None:
    vectors = load_file(folder / VECTORS_FILE)["vectors"]
    save_file({"vectors": np.zeros_like(vectors)}, folder / VECTORS_FILE)


def _truncate(folder: Path) -> None:
    file = folder / VECTORS_FILE
    file.write_bytes(file.read_bytes()[:-3])


def _empty(folder: Path) -> None:
    (folder / ROWS_FILE).write_bytes(b"")


def _remove(folder: Path) -> None:
    (folder / VECTORS_FILE).unlink()


@pytest.mark.parametrize(
    "damage",
    [
        _drop_a_row,
        _rename_a_key,
        _make_line_a_text,
        _put_a_nan,
        _widen,
        _zero,
        _truncate,
        _empty,
        _remove,
    ],
)
def test_damaged_rows_are_noticed(folder: Path, damage) -> None:
    damage(folder)
    with pytest.raises(CorruptExpertError, match="rows"):
        nearest(folder, np.array([1.0, 0.0, 0.0]))


def test_a_prompt_vector_of_another_size_is_refused(folder: Path) -> None:
    with pytest.raises(CorruptExpertError, match="4 numbers"):
        nearest(folder, np.ones(4))
