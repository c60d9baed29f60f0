"""The page beside the default store and the architecture list the same parts of a store."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def parts(text):
    """What the indented lines begin with."""
    return set(re.findall(r"^ {4}(\S+)  ", text, re.MULTILINE))


def test_both_pages_list_the_same_parts_of_a_store():
    _, chapter = (ROOT / "docs" / "architecture.md").read_text().split("\n## The store\n")
    listed = parts(chapter.split("\n## ")[0])
    assert "gaps.sqlite" in listed
    assert parts((ROOT / "experts" / "README.md").read_text()) == listed
