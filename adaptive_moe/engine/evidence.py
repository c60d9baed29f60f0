"""Whether material says anything about a gap's prompts, where, and which of its files do."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from adaptive_moe.errors import DataError, GapError
from adaptive_moe.gaps.terms import content_words
from adaptive_moe.training.files import hub_name
from adaptive_moe.training.material import Material, is_material, read_material
from adaptive_moe.training.retrieval import PassageIndex

_COVERED = 0.5  # share of a prompt's topic words that one place must hold
_ENOUGH = 0.5  # share of the prompts that the material must cover
_TOLD = 3  # reasons in one message; the log has them all

_log = logging.getLogger(__name__)


class MissingSourcesError(GapError):
    """The material does not suffice, and the files in `paths` do not exist."""

    def __init__(self, message: str, paths: Sequence[Path] = ()) -> None:
        super().__init__(message)
        self.paths = tuple(paths)


@dataclass(frozen=True, slots=True)
class BestPlace:
    """The place in the material that answers best to a prompt.

    `line` counts from 1: rows of examples, pages of PDF, lines of other documents, of whose
    paragraphs it is the first. HTML counts as it is read, as Markdown.
    """

    prompt: str
    file: str
    line: int


@dataclass(frozen=True, slots=True)
class Coverage:
    """What material says about some prompts.

    `covered` holds for every file and pack that could be read the prompts it speaks about, in the
    order given; `missing` are those that none does, `problems` tells what cannot be read. `found`
    are the others with the best place for each by BM25, none where nobody asked for them or bm25s
    is not installed.
    """

    prompts: int
    covered: Mapping[Path, frozenset[str]]
    missing: tuple[str, ...]
    problems: tuple[str, ...]
    found: tuple[BestPlace, ...]

    @property
    def is_enough(self) -> bool:
        """Whether half of the prompts have evidence, so that a training makes sense."""
        return self.prompts - len(self.missing) >= _ENOUGH * self.prompts

    @property
    def files(self) -> tuple[Path, ...]:
        """Those that speak about at least half as many prompts as the best one does."""
        most = max((len(found) for found in self.covered.values()), default=0)
        return tuple(path for path, found in self.covered.items() if 2 * len(found) >= most)


def coverage(prompts: Sequence[str], sources: Sequence[Path], *, locate: bool = True) -> Coverage:
    """Read the sources and find what they say about the prompts; in which line only to `locate`.

    A source speaks about a prompt when some passage or row of it holds half of its topic words.
    One that cannot be read is passed over and told in `problems`.
    """
    units: dict[Path, list[_Place]] = {}
    problems: list[str] = []
    for source in _units(sources):
        try:
            units[source] = _places(read_material([source]))
        except DataError as error:
            problems.append(str(error))
    topics = {prompt: content_words(prompt) for prompt in prompts}
    covered = {
        source: frozenset(
            prompt
            for prompt, topic in topics.items()
            if any(place.speaks_about(topic) for place in places)
        )
        for source, places in units.items()
    }
    together = frozenset[str]().union(*covered.values())
    return Coverage(
        len(prompts),
        covered,
        missing=tuple(prompt for prompt in prompts if prompt not in together),
        problems=tuple(problems),
        found=_found(
            {prompt: topic for prompt, topic in topics.items() if locate and prompt in together},
            [place for places in units.values() for place in places],
        ),
    )


def relevant_files(prompts: Sequence[str], sources: Sequence[Path]) -> tuple[Path, ...]:
    """The files and packs in `sources` that speak about the prompts, in the order given.

    What cannot be read is warned of. Raises GapError, naming it, when even together the others
    leave more than half of the prompts without evidence; MissingSourcesError when some of those do
    not exist, or are data sets of the hub that could not be had.
    """
    found = coverage(prompts, sources, locate=False)
    for problem in found.problems:
        _log.warning("%s", problem)
    if not found.is_enough:
        message = _complaint(found.missing, found.problems, prompts=len(prompts))
        absent = [
            source
            for source in sources
            if (source not in found.covered if hub_name(source) else not source.exists())
        ]
        raise MissingSourcesError(message, absent) if absent else GapError(message)
    return found.files


def _complaint(missing: Sequence[str], problems: Sequence[str], *, prompts: int) -> str:
    said = (
        f"the material says nothing about {len(missing)} of {prompts} prompts, such as "
        f"{missing[0]!r}"
    )
    if not problems:
        return f"{said}; add documents that do, then fill the gap again"
    return (
        f"{len(problems)} of the material's files cannot be used ({'; '.join(problems[:_TOLD])}); "
        f"without them {said}; mend that, then fill the gap again"
    )


def _units(sources: Sequence[Path]) -> list[Path]:
    """A folder of folders or files stands for each of them; a knowledge pack is one unit."""
    units: list[Path] = []
    for source in sources:
        inside: list[Path] = []
        if source.is_dir() and not (source / "documents").is_dir():
            inside = [each for each in sorted(source.iterdir()) if _is_unit(each, source)]
        units += inside or [source]
    return units


def _is_unit(path: Path, folder: Path) -> bool:
    """Whether reading `folder` would look at `path`, or into it."""
    return is_material(path, folder) or (path.is_dir() and not path.name.startswith("."))


@dataclass(frozen=True, slots=True)
class _Place:
    """A row, or a line of a passage, which is read with its headings."""

    file: str
    line: int
    text: str
    words: frozenset[str]

    def speaks_about(self, topic: frozenset[str]) -> bool:
        return bool(topic) and len(topic & self.words) >= _COVERED * len(topic)


def _places(material: Material) -> list[_Place]:
    rows = [
        (row.file, row.line, " ".join((*(text for _, text in row.prompt), row.answer)))
        for row in material.rows
    ]
    lines = [
        (passage.file, passage.line + offset, " ".join((*passage.heading, line)))
        for passage in material.passages
        for offset, line in enumerate(passage.text.splitlines())
    ]
    return [_Place(file, line, text, content_words(text)) for file, line, text in rows + lines]


def _found(topics: Mapping[str, frozenset[str]], places: Sequence[_Place]) -> tuple[BestPlace, ...]:
    """Of the places that speak about a prompt the best one, for each prompt."""
    if not topics:
        return ()
    try:
        index = PassageIndex([place.text for place in places])
    except ImportError:
        return ()
    found = []
    for prompt, topic in topics.items():
        scores = index.scores(" ".join(sorted(topic)))
        speaking = (number for number, place in enumerate(places) if place.speaks_about(topic))
        best = places[max(speaking, key=scores.__getitem__)]
        found.append(BestPlace(prompt, best.file, best.line))
    return tuple(found)
