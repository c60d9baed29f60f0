"""`train` from the command line, on a tiny model."""

import json
import socket

import pytest

from adaptive_moe.cli.training_view import lessons_line, split_line
from adaptive_moe.training import material
from adaptive_moe.training.lessons import Lessons
from tests.cli.running import run
from tests.support.tiny_models import save_tiny

LENGTHY = " ".join(f"word{n}" for n in range(300))
UNFIT = [
    *({"prompt": f"What is {n}?", "response": ""} for n in range(6)),
    {"prompt": "What are they?", "response": LENGTHY},
    {"prompt": LENGTHY, "response": "words"},
]


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


def add_rows(words, rows):
    with words[2].open("a") as file:
        file.write("".join(json.dumps(row) + "\n" for row in rows))


def test_rows_that_are_dropped_or_cut_are_named_before_a_step_is_taken(words):
    add_rows(words, UNFIT)
    done = run(*words, "--dry-run")
    assert done.exit_code == 0
    lines = [line.strip() for line in done.stdout.splitlines()]
    first = lines.index("dropped:")
    named = [f"rows.jsonl:{line}: response is empty" for line in range(41, 46)]
    assert lines[first + 1 : first + 7] == [*named, "and 2 more"]
    assert lines[first + 7] == "cut:"
    assert lines[first + 8].startswith("rows.jsonl:48: only the last ")
    assert len(lines) == first + 9


@pytest.mark.slow
def test_an_estimate_names_every_dropped_and_cut_row_to_programs(words):
    add_rows(words, UNFIT)
    estimate = json.loads(run(*words, "--dry-run", "--json").stdout)
    assert [place[1] for place in estimate["dropped"]] == [41, 42, 43, 44, 45, 46, 47]
    assert [place[1] for place in estimate["cut"]] == [48]


def test_a_refused_training_says_which_rows_were_dropped(words):
    words[2].write_text("")
    add_rows(words, [{"prompt": f"What is {n}?", "response": n} for n in range(3)])
    add_rows(words, [{"prompt": f"Who is {n}?", "response": ""} for n in range(5)])
    done = run(*words)
    assert done.exit_code == 2
    error, dropped = done.stderr.split("\n5 rows were dropped: ")
    assert "examples to learn from, at least 16 are needed (training.min_examples)" in error
    told = " ".join(dropped.split())
    assert told == "; ".join(
        [*(f"rows.jsonl:{line}: response is empty" for line in (4, 5, 6)), "and 2 more"]
    )


def test_every_example_is_counted_once():
    assert split_line(1200, 0, 6) == "1,200 to learn from, 6 to choose weights by and for the gate"
    told = "68 to learn from, 6 to choose weights by, 7 for the gate"
    assert split_line(68, 6, 7) == told


def test_what_a_teacher_wrote_is_told_in_one_line():
    dropped = {"the answer is not in the passage": 20, "no readable text": 1}
    told = lessons_line(Lessons("base", 40, 57, (), dropped))
    assert told.startswith("base: 0 examples of 57 questions and statements about 40 passages")
    assert "left out: 20 the answer is not in the passage, 1 no readable text" in told
    assert told.endswith("the rules' own examples are taught alone")


def test_a_teacher_out_of_reach_is_one_error_and_leaves_nothing(
    words, tmp_path, monkeypatch, socket_enabled
):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    (tmp_path / "notes.md").write_text("The lamp of Tarvik is lit by Olen every night.\n")
    with socket.socket() as nobody_listens:
        nobody_listens.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{nobody_listens.getsockname()[1]}/v1"
        given = [f"teacher={url}", "teacher_model=wise-1", "teacher_retries=0"]
        more = [f"--set=training.{each}" for each in given]
        done = run(*words, tmp_path / "notes.md", *more)
    assert done.exit_code == 2
    assert f"the teacher at {url}/chat/completions does not answer" in " ".join(done.stderr.split())
    assert not (tmp_path / "store").exists()
