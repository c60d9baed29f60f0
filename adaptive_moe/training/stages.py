"""The record of what each stage let through on the way from files to training examples."""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from pydantic import ConfigDict, TypeAdapter, ValidationError

from adaptive_moe.errors import CorruptExpertError

STAGES_FILE = "material.json"

_MOST_REASONS = 20  # of one stage; the rest is counted together
_PLACE = re.compile(r"(?<= of ).*, row \d+")
_NUMBER = re.compile(r"\d+")


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage: what came in and went out, by kind ("rows", "passages"), and what was dropped.

    `dropped` counts by reason, without the places that reasons name. `sha256` is of what was let
    through.
    """

    name: str
    entered: Mapping[str, int]
    left: Mapping[str, int]
    sha256: str
    dropped: Mapping[str, int] = field(default_factory=dict)


Place = tuple[str, int, str]
"""File, line or row, and what is to be said about it."""

_STAGES = TypeAdapter(tuple[Stage, ...], config=ConfigDict(strict=False))


def count_reasons(reasons: Iterable[str]) -> dict[str, int]:
    """How often each reason was given, the commonest first; files, rows and numbers left out."""
    counts = Counter(
        _NUMBER.sub("N", _PLACE.sub("an earlier row", reason)) for reason in reasons
    ).most_common()
    rest = sum(count for _, count in counts[_MOST_REASONS:])
    return dict(counts[:_MOST_REASONS]) | ({"other reasons": rest} if rest else {})


def first_places(places: Sequence[Place], most: int) -> list[str]:
    """The first `most` as "file:line: reason", and how many more there are."""
    told = [f"{file}:{line}: {reason}" for file, line, reason in places[:most]]
    rest = len(places) - len(told)
    return [*told, f"and {rest:,} more"] if rest else told


def content_hash(content: object) -> str:
    """SHA-256, in hex, of JSON values."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def write_stages(folder: Path, stages: Iterable[Stage]) -> None:
    """Write the stages into an expert's folder; equal stages give equal bytes."""
    text = json.dumps([asdict(stage) for stage in stages], indent=1)
    (folder / STAGES_FILE).write_text(f"{text}\n", encoding="utf-8")


def read_stages(folder: Path) -> tuple[Stage, ...]:
    """The stages of an expert; none where it was imported or merged. Raises CorruptExpertError."""
    file = folder / STAGES_FILE
    if not file.is_file():
        return ()
    try:
        return _STAGES.validate_json(file.read_bytes())
    except (OSError, ValidationError) as error:
        raise CorruptExpertError(
            f"{file}: cannot be read as the stages of its material; verify the expert"
        ) from error
