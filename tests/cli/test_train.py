"""`train` from the command line, on a tiny model."""

import json

import pytest

from adaptive_moe.cli.training_view import split_line
from adaptive_moe.training import material
from tests.cli.running import run
from tests.support.tiny_models import save_tiny


@pytest.fixture
def words(tmp_path):
    """A training that takes one step and is not held up by the gate."""
    model = save_tiny("llama", tmp_path / "model")
    rows = [{"prompt": f"What is the colour of {n}?", "response": f"blue {n}"} for n in range(40)]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    quick = [f"--set=training.{each}" for each in ("max_steps=1", "guard_prompts=0")]
    return "train", "colours", file, "--base", model, "--store", tmp_path / "store", *quick


def test_the_material_is_read_once_and_told_before_the_first_step(words, monkeypatch):
    read = []

    def noting(path):
        read.append(path)
        yield from read_records(path)

    read_records = material.read_records
    monkeypatch.setattr(material, "read_records", noting)
    done = run(*words, "--force", "--json")
    outcome = json.loads(done.stdout)
    assert read.count(words[2]) == 1
    told = done.stderr.index("40 rows"), done.stderr.index("1/1")
    assert told[0] < told[1]
    assert [outcome[f"{key}examples"] for key in ("", "selection_", "held_out_")] == [34, 0, 6]
    shown = " ".join(done.stderr.split())
    assert "34 to learn from, 6 to choose weights by and for the gate" in shown


def test_every_example_is_counted_once():
    assert split_line(1200, 0, 6) == "1,200 to learn from, 6 to choose weights by and for the gate"
    told = "68 to learn from, 6 to choose weights by, 7 for the gate"
    assert split_line(68, 6, 7) == told
