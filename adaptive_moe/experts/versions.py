"""What may become of a version of an expert: its statuses, which may serve, and the reasons."""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from adaptive_moe.errors import CorruptExpertError, ExpertError, UnknownExpertError
from adaptive_moe.experts.index import IndexRow
from adaptive_moe.experts.manifest import Manifest, parse_manifest
from adaptive_moe.experts.objects import read_manifest

Status = Literal["active", "quarantine", "rejected", "removed"]
STATUSES = frozenset({"active", "quarantine", "rejected", "removed"})
ACTIVATABLE = frozenset({"active", "quarantine"})  # a version with such a status may be activated


def activatable(rows: Iterable[IndexRow]) -> IndexRow:
    """The newest that may be activated; ExpertError, with what to do, where none may."""
    found = list(rows)
    allowed = [row for row in found if row.status in ACTIVATABLE]
    if allowed:
        return allowed[-1]
    if not found:
        raise UnknownExpertError("no such version of this expert; `experts list --all` shows them")
    row = found[-1]
    if row.status == "rejected":
        raise ExpertError(
            f"expert {row.name!r} version {row.version} was rejected by the gate"
            + (f": {row.reason}" if row.reason else "")
            + "; train it again, or train with --force, which keeps it in quarantine to activate"
        )
    raise ExpertError(
        f"expert {row.name!r} version {row.version} was {row.status}; train or import it again"
    )


def nothing_before(name: str, version: int | None) -> str:
    """Why there is no version to roll back to, and what to do."""
    now = "" if version is None else f" before version {version}"
    return (
        f"no version of expert {name!r} that may serve has served{now}: what was rolled back from, "
        "quarantined or rejected is not gone back to; `experts list --all` shows the versions, "
        f"`experts activate {name} --version N` lets one serve"
    )


def with_earlier(reason: str, earlier: str) -> str:
    """A reason that keeps the one before, once."""
    return f"{reason}; before: {earlier}" if earlier and earlier != reason else reason


def manifest_of(row: IndexRow, folder: Path) -> Manifest:
    """The index's copy, which outlives the folder; the folder's where the copy is damaged."""
    if row.version < 1:
        raise CorruptExpertError(f"{row.name}: the version is not a number")
    if hashlib.sha256(row.manifest).hexdigest() == row.expert_id:
        return parse_manifest(row.manifest)
    return read_manifest(folder, row.expert_id)
