"""On a store that can only be read, asking answers and warns, and training does not begin."""

import errno
import json
import logging
import sqlite3
import tempfile
from pathlib import Path

import pytest

from adaptive_moe import AdaptiveMoE
from adaptive_moe.errors import StoreError
from adaptive_moe.experts.store import Store
from tests.cli.running import run

QUESTION = "What is the capital of France?"


@pytest.fixture
def store(tmp_path):
    """A store with its index, without a gap ledger so far."""
    with Store(tmp_path / "store") as opened:
        opened.create()
    return tmp_path / "store"


@pytest.fixture
def read_only(store, monkeypatch):
    """Makes the store's place read-only to this process, which may be root."""
    connect = sqlite3.connect

    def refuse(path, error=errno.EROFS):
        raise OSError(error, "Read-only file system", str(path))

    def connect_to_read(place, **options):
        if place == ":memory:":
            return connect(place, **options)
        return connect(f"file:{place}?mode=ro", uri=True, **options)

    def touch(path, **_options):
        refuse(path)

    def probe(**options):
        refuse(options["dir"])

    def start():
        monkeypatch.setattr(sqlite3, "connect", connect_to_read)
        monkeypatch.setattr(Path, "touch", touch)
        monkeypatch.setattr(tempfile, "TemporaryFile", probe)

    return start


@pytest.mark.parametrize("has_ledger", [False, True])
def test_asking_answers_and_warns_once(store, read_only, has_ledger, caplog):
    if has_ledger:
        assert run("ask", QUESTION, "--store", store).exit_code == 0
    assert (store / "gaps.sqlite").exists() is has_ledger
    read_only()
    with (
        caplog.at_level(logging.WARNING, "adaptive_moe"),
        AdaptiveMoE.from_pretrained(store=store) as moe,
    ):
        answers = [moe.generate(QUESTION) for _ in range(2)]
    assert [(answer.text, answer.observation) for answer in answers] == [("Paris", None)] * 2
    (warning,) = caplog.messages
    assert warning.startswith("answers are not noted as evidence for gaps: the gap ledger")
    assert "choose another gaps.ledger" in warning


def test_the_command_prints_the_answer_and_the_warning_beside_it(store, read_only):
    read_only()
    done = run("ask", QUESTION, "--store", store)
    assert done.exit_code == 0
    assert done.stdout.startswith("Paris\n")
    assert "answers are not noted as evidence for gaps" in done.stderr


def test_training_stops_before_its_first_step(store, read_only, tmp_path):
    rows = [{"prompt": f"code of {n}?", "response": str(n * 7)} for n in range(40)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    steps = []
    with AdaptiveMoE.from_pretrained(store=store) as moe:
        read_only()
        with pytest.raises(StoreError, match="store: a read-only place; name another store"):
            moe.train_expert("codes", tmp_path / "rows.jsonl", listener=steps.append)
    assert steps == []
    assert not (store / "training").exists()
