"""The knowledge packs: withheld domains as documents, with hand-written held-out questions."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adaptive_moe.errors import DataError
from adaptive_moe.pocket.paths import PACKS


@dataclass(frozen=True, slots=True)
class PackQuestion:
    """A question that no training may see, its exact answer, and the fact that it asks for."""

    pack: str
    question: str
    answer: str
    fact: str
    relation: str


def pack_names() -> tuple[str, ...]:
    """Every pack that ships with the package, sorted."""
    return tuple(sorted(path.name for path in PACKS.iterdir() if (path / "documents").is_dir()))


def pack_path(name: str) -> Path:
    """The folder of a pack; DataError if unknown.

    It holds documents/*.md, facts.jsonl, questions.jsonl and development.jsonl.
    """
    if name not in pack_names():
        raise DataError(f"there is no pack {name!r}; the packs are {', '.join(pack_names())}")
    return PACKS / name


def load_questions(name: str, *, development: bool = False) -> tuple[PackQuestion, ...]:
    """The pack's held-out questions, in file order.

    Those for `development` were looked at while the synthesiser was written; the others are the
    blind test. No training may see either.
    """
    file = "development.jsonl" if development else "questions.jsonl"
    rows = read_jsonl(pack_path(name) / file)
    return tuple(
        PackQuestion(name, row["question"], row["answer"], str(row["fact"]), row["relation"])
        for row in rows
    )


def load_pack_facts(name: str) -> tuple[dict[str, Any], ...]:
    """The pack's facts as written: at least `subject`, `relation` and `object` or `answer`."""
    return tuple(read_jsonl(pack_path(name) / "facts.jsonl"))


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """One object per non-empty line; raises DataError with file and line."""
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise DataError(f"{path.name}:{number}: not JSON: {error}") from error
    return rows
