"""The demo, told in full."""

import json
import re
from pathlib import Path

import pytest

from adaptive_moe.cli.demo_story import _questions
from tests.cli.running import run

_FIGURE = re.compile(r"[+-]?\d+(?:[.,:]\d+)*%?")
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
    again, kept = told_words(file.read_text()), told_words(DOCUMENT.read_text())
    assert again == kept, "docs/demo.md is not what the demo tells; run `make transcript`"


def test_a_transcript_is_compared_but_for_its_figures_and_breaks():
    here = """
1  It learns

   gap 12 (chemical, iron): verified
     7 of 8 wrong: evidence 1,816 (needs #), -0.2%, at
   most 0:07, base # MiB
   chemistry v1 from a.md:43  H2O → Fe?
"""
    there = """
1  It learns

   gap 3 (chemical, iron): verified
     6 of 9 wrong: evidence 20 (needs #),
   +12.5%, at most #, base # MiB
   chemistry v2 from a.md:7  H2O → Fe?
"""
    assert told_words(here) == told_words(there)
    assert told_words(here) == [
        "# It learns",
        (
            "gap # (chemical, iron): verified # of # wrong: evidence # (needs #), #, at most #, "
            "base # MiB chemistry v# from a.md:# H#O → Fe?"
        ),
    ]
    for old, new in (("Fe", "Au"), ("wrong", "right"), ("MiB", "KiB"), ("verified", "#")):
        assert told_words(here.replace(old, new)) != told_words(here)


def told_words(story: str) -> list[str]:
    """The story's paragraphs, figures and ids as #, lines joined: a figure moves a line's break."""
    masked = _FIGURE.sub("#", story)
    return [" ".join(paragraph.split()) for paragraph in masked.split("\n\n") if paragraph.strip()]
