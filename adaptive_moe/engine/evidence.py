"""Whether material says anything about a gap's prompts, and which of its files do."""

import logging
from collections.abc import Sequence
from pathlib import Path

from adaptive_moe.errors import DataError, GapError
from adaptive_moe.gaps.terms import content_words
from adaptive_moe.training.material import Material, is_material, read_material

_COVERED = 0.5  # share of a prompt's topic words that one place must hold
_ENOUGH = 0.5  # share of the prompts that the material must cover
_TOLD = 3  # reasons in one message; the log has them all

_log = logging.getLogger(__name__)


class MissingSourcesError(GapError):
    """The material does not suffice, and the files in `paths` do not exist."""

    def __init__(self, message: str, paths: Sequence[Path] = ()) -> None:
        super().__init__(message)
        self.paths = tuple(paths)


def relevant_files(prompts: Sequence[str], sources: Sequence[Path]) -> tuple[Path, ...]:
    """The files and packs in `sources` that speak about the prompts, in the order given.

    A source counts when some passage or row of it holds half of the topic words of at least half
    as many prompts as the best source does. One that cannot be read is passed over with a warning.
    Raises GapError, naming those, when even together the others leave more than half of the
    prompts without evidence; MissingSourcesError when some of those do not exist.
    """
    covered: dict[Path, set[str]] = {}
    problems: list[str] = []
    for source in _units(sources):
        try:
            covered[source] = _covered(prompts, source)
        except DataError as error:
            _log.warning("%s", error)
            problems.append(str(error))
    together = set().union(*covered.values()) if covered else set()
    missing = [prompt for prompt in prompts if prompt not in together]
    if len(together) < _ENOUGH * len(prompts):
        message = _complaint(missing, problems, prompts=len(prompts))
        absent = [source for source in sources if not source.exists()]
        raise MissingSourcesError(message, absent) if absent else GapError(message)
    most = max((len(prompts_of) for prompts_of in covered.values()), default=0)
    return tuple(source for source, found in covered.items() if 2 * len(found) >= most)


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


def _covered(prompts: Sequence[str], source: Path) -> set[str]:
    places = [content_words(text) for text in _texts(read_material([source]))]
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
