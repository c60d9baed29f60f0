"""`train` from the command line, on a tiny model."""

import json

import pytest

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
    assert f"{outcome['examples']} to learn from, {outcome['held_out_examples']} held out" in (
        done.stderr
    )
