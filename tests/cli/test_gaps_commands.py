"""`gaps list`, `show` and `dismiss` read the ledger; the base need not be able to run for them."""

import json

import pytest

from tests.cli.running import run
from tests.support.tiny_models import save_tiny

NOWHERE = ("--set", "base.device=cuda:99")  # no machine has it, so loading the base would fail


@pytest.fixture
def base(tmp_path):
    return save_tiny("llama", tmp_path / "model")


@pytest.fixture
def place(tmp_path, base):
    """Where one gap of the tiny base is in the ledger, from an answer judged wrong."""
    place = ("--store", tmp_path / "store", "--base", base)
    asked = run(
        "chat", *place, "--max-new-tokens", "2", stdin="Which keeper does Bell Rock have?\n/bad\n"
    )
    assert asked.exit_code == 0, asked.stderr
    return place


def values(*words):
    done = run("gaps", *words, "--json")
    assert done.exit_code == 0, done.stderr
    return json.loads(done.stdout)


def test_gaps_are_read_and_dismissed_where_the_base_cannot_run(place):
    (gap,) = values("list", *place, *NOWHERE)["gaps"]
    assert gap["prompts"] == ["Which keeper does Bell Rock have?"]
    assert values("show", gap["id"], *place, *NOWHERE)["explanation"]
    assert values("dismiss", gap["id"], *place, *NOWHERE)["state"] == "DISMISSED"
    assert values("list", *place, *NOWHERE)["gaps"][0]["state"] == "DISMISSED"


def test_the_gaps_of_another_base_are_not_listed(place, tmp_path):
    other = save_tiny("gpt2", tmp_path / "other")
    assert values("list", *place[:2], "--base", other)["gaps"] == []


def test_a_base_that_was_never_fetched_has_no_gaps_to_list(place):
    done = run("gaps", "list", *place[:2], "--base", "no-one/nothing")
    assert done.exit_code == 2
    assert "no-one/nothing is neither a folder nor fetched to this machine" in done.stderr


def test_a_base_that_nothing_can_be_called_is_refused_as_such(place):
    done = run("gaps", "list", *place[:2], "--base", "no model!")
    assert done.exit_code == 2
    assert len(done.stderr.splitlines()) == 1


def test_a_gap_tells_its_prompts_with_scores_and_outcomes(place):
    shown = values("show", "1", *place, *NOWHERE)
    (prompt,) = shown["evidence"]
    assert prompt["prompt"] == "Which keeper does Bell Rock have?"
    assert (prompt["correct"], prompt["origin"], prompt["served_by"]) == (False, "feedback", [])
    assert prompt["p_correct"] is None  # the router of this base is not fitted
    told = run("gaps", "show", "1", *place, *NOWHERE).stdout
    assert "wrong, by feedback" in told


def test_without_sources_a_gap_tells_what_to_name_and_how_to_estimate(place):
    ahead = values("show", "1", *place, *NOWHERE)["outlook"]
    assert ahead["subjects"] == ["keeper", "Bell Rock"]
    assert (ahead["is_enough"], ahead["sources"], ahead["missing"]) == (None, [], [])
    assert (ahead["cost"]["minutes"], ahead["cost"]["trainings"]) == ([], [])
    told = run("gaps", "show", "1", *place, *NOWHERE).stdout
    assert "none is configured: name files with --data, or set gaps.sources" in told
    assert "adaptive-moe gaps fill 1 --dry-run measures a few steps" in told


def test_a_gap_tells_which_sources_speak_about_it_and_which_prompts_they_leave(place, tmp_path):
    (tmp_path / "lights.md").write_text("# Bell Rock\n\nThe keeper of Bell Rock is called Ann.\n")
    (tmp_path / "other.md").write_text("# Bread\n\nThe baker of bread is called Anna.\n")
    (tmp_path / "rows.jsonl").write_text('{"frage": "a"}\n')

    def show(*names):
        sources = ", ".join(str(tmp_path / name) for name in names)
        return ("show", "1", *place, *NOWHERE, "--set", f"gaps.sources=[{sources}]")

    ahead = values(*show("lights.md", "other.md", "rows.jsonl"))["outlook"]
    assert ahead["is_enough"]
    assert ahead["sources"] == [{"path": str(tmp_path / "lights.md"), "prompts": 1}]
    assert ahead["missing"] == []
    place_found = {"file": "lights.md", "line": 3, "prompt": "Which keeper does Bell Rock have?"}
    assert ahead["found"] == [place_found]
    assert "rows.jsonl, row 1: no known keys" in ahead["problems"][0]
    ahead = values(*show("other.md", "absent.md"))["outlook"]
    assert not ahead["is_enough"]
    assert ahead["missing"] == ["Which keeper does Bell Rock have?"]
    assert "there is no such file" in ahead["problems"][0]
    told = run("gaps", *show("lights.md")).stdout
    assert "Which keeper does Bell Rock have? → lights.md:3" in told
    told = run("gaps", *show("other.md")).stdout
    assert "no evidence: Which keeper does Bell Rock have?" in told
