"""For which base an adapter's folder was made: written at export, asked for at import.

Shapes cannot tell two bases of one size apart, and neither can the name of a folder. What we export
carries the base's fingerprint in a file of its own, which PEFT and its relatives do not read. It
guards against mistakes; whoever writes a file can also write a wrong fingerprint into it.
"""

from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from adaptive_moe.errors import AdapterFormatError, BaseMismatchError
from adaptive_moe.experts.objects import read_capped
from adaptive_moe.experts.peft_config import CONFIG_NAME, MAX_CONFIG_BYTES, base_name_of

ORIGIN_NAME = "adaptive_moe.json"
_MAX_BYTES = 1 << 16
_HUB_ID_PARTS = 2  # owner/name
_SHOWN = 19  # characters of a fingerprint


@dataclass(frozen=True, slots=True)
class Base:
    """What the loaded base is known by: fingerprint, name, and the hub id or folder it came from.

    `source` is "" for a model that was made in memory.
    """

    base_id: str
    name: str
    source: str


class _Origin(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    schema_version: Literal[1] = 1
    base_id: str = Field(min_length=1, max_length=200)


def write_origin(folder: Path, base_id: str) -> None:
    """Put the base's fingerprint beside an adapter's files; OSError."""
    (folder / ORIGIN_NAME).write_text(_Origin(base_id=base_id).model_dump_json(indent=2) + "\n")


def check_base(folder: Path, base: Base, *, force: bool) -> None:
    """Raise BaseMismatchError unless the adapter in this folder is for `base`.

    A recorded fingerprint decides, also against `force`. Without one the config must name the
    same hub id (owner/name) or folder; all other adapters need `force`, the user's own word.
    """
    recorded = _recorded(folder)
    if recorded is None:
        if not force:
            _check_named(folder, base)
    elif recorded != base.base_id:
        raise BaseMismatchError(
            f"{folder}: this adapter was made on the base {recorded[:_SHOWN]}, this model "
            f"({base.name}) is {base.base_id[:_SHOWN]}; load that base, or train an expert for "
            "this one (--force cannot make it fit)"
        )


def _recorded(folder: Path) -> str | None:
    """The fingerprint that our export left; None in folders of others. AdapterFormatError."""
    path = folder / ORIGIN_NAME
    if not (path.is_file() or path.is_symlink()):
        return None
    content = read_capped(path, cap_bytes=_MAX_BYTES, error=AdapterFormatError)
    try:
        return _Origin.model_validate_json(content).base_id
    except ValidationError as error:
        raise AdapterFormatError(
            f"{path}: does not say for which base the adapter is; export it again"
        ) from error


def _check_named(folder: Path, base: Base) -> None:
    path = folder / CONFIG_NAME
    if not path.is_file():
        return  # no adapter at all, which its reader explains
    named = base_name_of(read_capped(path, cap_bytes=MAX_CONFIG_BYTES, error=AdapterFormatError))
    if _is_same(named, base.source):
        return
    if named and not _may_be_same(named, base):
        raise BaseMismatchError(
            f"{folder}: this adapter is for the base {named!r}, this model is {base.name!r}; load "
            "that base, or give --force (force=True) if both are the same model"
        )
    told = f"names its base only {named!r}, which proves nothing" if named else "names no base"
    raise BaseMismatchError(
        f"{folder}: nothing shows that this adapter is for {base.name!r}: it {told}; give --force "
        "(force=True) if you know that it is"
    )


def _is_same(named: str, source: str) -> bool:
    """Whether the config's words prove the base: equal hub ids, or the very same folder."""
    place = _folder(source)
    ours, theirs = _hub_id(str(place or source)), _hub_id(named)
    if ours and theirs:
        return ours == theirs
    return place is not None and PurePath(named).is_absolute() and _folder(named) == place


def _may_be_same(named: str, base: Base) -> bool:
    """Whether the last parts agree, as far as they are not those of two different owners."""
    ours, theirs = _hub_id(base.source), _hub_id(named)
    return not (ours and theirs) and _last_part(named) in {
        _last_part(base.name),
        _last_part(ours or base.source),
    }


def _folder(source: str) -> Path | None:
    """The folder meant, with links followed; None where there is none."""
    try:
        return Path(source).resolve() if source and Path(source).is_dir() else None
    except (OSError, ValueError, RuntimeError):  # a name that no file can have, a circle of links
        return None


def _hub_id(name: str) -> str | None:
    """owner/name of a hub id, or of a folder in the hub's cache; None for every other name."""
    plain, parts = _plain(name), _parts(name)
    cached = next((part for part in parts if part.startswith("models--")), "")
    if cached:
        parts = cached.split("--", 2)[1:]
    elif plain.startswith(("/", ".", "~")) or plain[1:2] == ":":
        return None
    return "/".join(parts) if len(parts) == _HUB_ID_PARTS else None


def _last_part(name: str) -> str:
    cached = next((part for part in _parts(name) if part.startswith("models--")), "")
    return cached.rsplit("--", 1)[-1] or (_parts(name) or [""])[-1]


def _parts(name: str) -> list[str]:
    return [part for part in _plain(name).split("/") if part]


def _plain(name: str) -> str:
    return name.strip().casefold().replace("\\", "/")
