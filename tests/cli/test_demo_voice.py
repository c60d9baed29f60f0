import io

from rich.console import Console
from rich.text import Text

from adaptive_moe.cli.demo_voice import Voice, mask_figures
from adaptive_moe.cli.terminal import Terminal
from adaptive_moe.config.settings import Settings
from tests.cli.hostile import leaks, strings


def voice() -> Voice:
    console = Console(file=io.StringIO(), markup=False, emoji=False, highlight=False, width=60)
    return Voice(Terminal(Settings(), as_json=False, debug=False, out=console, err=console))


def test_what_differs_between_machines_is_masked():
    masked = {
        "p = 0.97, 12 tokens, 0.04 s": "p = #, 12 tokens, # s",
        "+0.017 (-0.004 to +0.042), 34.8%": "# (# to #), #",
        "loss 2.356  1,234 tokens/s  0:07 left": "loss #  # tokens/s  # left",
        "base 16.0 MiB, at its peak 557 MiB": "base # MiB, at its peak # MiB",
        "chemistry v1: 163,840 parameters": "chemistry v1: 163,840 parameters",
        "from metals.md:12  question": "from metals.md:12  question",
        "items        7   100.0%": "items  7  #",
    }
    for line, expected in masked.items():
        assert mask_figures(line) == expected


def test_the_transcript_is_the_story_in_plain_text(tmp_path):
    told = voice()
    told.step("It begins")
    told.asked("Why?")
    told.say(Text("Because", style="red"), "it took 0.123 s")
    told.write(tmp_path / "story.txt")
    told.write(tmp_path / "story.md")
    story = "1  It begins\n   > Why?\n   Because\n   it took # s\n"
    assert (tmp_path / "story.txt").read_text() == story
    assert (tmp_path / "story.md").read_text().endswith(f"```text\n{story}```\n")


def test_nothing_hostile_is_told():
    told = voice()
    for text in strings(300):
        told.asked(text)
        told.say(text)
    assert leaks(told.text()) == []
