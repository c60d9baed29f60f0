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
