"""Whether material says anything about a gap's prompts, and which of its files do."""

from collections.abc import Sequence
from pathlib import Path

from adaptive_moe.errors import AdaptiveMoEError, GapError
from adaptive_moe.gaps.terms import content_words
from adaptive_moe.training.material import Material, read_material

_COVERED = 0.5  # share of a prompt's topic words that one place must hold
_ENOUGH = 0.5  # share of the prompts that the material must cover


def relevant_files(prompts: Sequence[str], sources: Sequence[Path]) -> tuple[Path, ...]:
    """The files and packs in `sources` that speak about the prompts, in the order given.

    A source counts when some passage or row of it holds half of the topic words of at least half
    as many prompts as the best source does. Raises GapError when even together they leave more
    than half of the prompts without evidence.
    """
    covered = {source: _covered(prompts, source) for source in _units(sources)}
    together = set().union(*covered.values()) if covered else set()
    if len(together) < _ENOUGH * len(prompts):
        missing = [prompt for prompt in prompts if prompt not in together]
        raise GapError(
            f"the material says nothing about {len(missing)} of {len(prompts)} prompts, such as "
            f"{missing[0]!r}; add documents that do, then fill the gap again"
        )
    most = max(len(prompts_of) for prompts_of in covered.values())
    return tuple(source for source, found in covered.items() if 2 * len(found) >= most)


def _units(sources: Sequence[Path]) -> list[Path]:
    """A folder of folders or files stands for each of them; a knowledge pack is one unit."""
    units: list[Path] = []
    for source in sources:
        if source.is_dir() and not (source / "documents").is_dir():
            units += sorted(each for each in source.iterdir() if not each.name.startswith("."))
        else:
            units.append(source)
    return units


def _covered(prompts: Sequence[str], source: Path) -> set[str]:
    try:
        places = [content_words(text) for text in _texts(read_material([source]))]
    except AdaptiveMoEError:
        return set()
    return {
        prompt
        for prompt in prompts
        if (topic := content_words(prompt))
        and any(len(topic & place) >= _COVERED * len(topic) for place in places)
    }


def _texts(material: Material) -> list[str]:
    """One text a place: a row, or a line of a passage with its headings."""
    rows = [" ".join((*(text for _, text in row.prompt), row.answer)) for row in material.rows]
    lines = [
        " ".join((*passage.heading, line))
        for passage in material.passages
        for line in passage.text.splitlines()
    ]
    return rows + lines
