"""The demo, told in full."""

import json
from pathlib import Path

import pytest

from adaptive_moe.cli.demo_story import _questions
from tests.cli.running import run

DOCUMENT = Path(__file__).parents[2] / "docs" / "demo.md"


def test_the_questions_are_held_out_and_ask_for_different_facts():
    questions = _questions()
    assert questions[0].question == "What is the chemical symbol of iron?"
    assert len({each.fact for each in questions}) == len(questions) == 40


@pytest.mark.slow
def test_the_story_comes_out_as_promised(tmp_path):
    file = tmp_path / "demo.md"
    done = run("demo", "--json", "--transcript", file)
    told = json.loads(done.stdout)
    assert done.exit_code == 0, done.stderr
    assert told["known"]["text"] == "Paris"
    assert told["gap"]["state"] == "VERIFIED"
    assert told["training"]["status"] == "active"
    assert told["learned_right"] >= 3
    assert told["known_unchanged"]
    assert all(answer["attribution"]["sources"] for answer in told["learned"])
    assert _skeleton(file.read_text()) == _skeleton(DOCUMENT.read_text())


def _skeleton(story: str) -> list[str]:
    """Its steps and questions: what no machine's arithmetic can change."""
    return [line for line in story.splitlines() if line[:1].isdigit() or line.startswith("   >")]
