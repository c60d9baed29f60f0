"""Keeps a conversation on disk as it happens, so that nothing finished is ever lost."""

import json
import os
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import final

import platformdirs
from filelock import FileLock

from adaptive_moe.errors import ConfigurationError

_SUFFIX = ".jsonl"


@dataclass(frozen=True, slots=True)
class Turn:
    """One exchange: what was asked and what was answered, whole or cut off."""

    prompt: str
    answer: str


def state_folder() -> Path:
    """The user's folder for histories, made readable by its owner only."""
    folder = platformdirs.user_state_path("adaptive-moe", appauthor=False)
    return _private_folder(folder)


def sessions_folder() -> Path:
    """Where conversations are kept."""
    return _private_folder(state_folder() / "sessions")


def private_file(path: Path) -> Path:
    """The file, made empty and readable by its owner only if it was not there."""
    os.close(os.open(path, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600))
    return path


def append_json(path: Path, record: Mapping[str, object]) -> None:
    """Add one JSON line to a private file and force it to the disk.

    A line that a crash cut short is ended first, so that it cannot swallow this one.
    """
    line = (json.dumps(record) + "\n").encode()
    descriptor = os.open(path, os.O_CREAT | os.O_APPEND | os.O_RDWR, 0o600)
    with os.fdopen(descriptor, "r+b", buffering=0) as file:
        size = file.seek(0, os.SEEK_END)
        if size and os.pread(descriptor, 1, size - 1) != b"\n":
            line = b"\n" + line
        file.write(line)
        os.fsync(descriptor)


def replace_json(
    path: Path, record: Mapping[str, object], *, replaces: Callable[[Mapping[str, object]], bool]
) -> None:
    """Add one JSON line in place of the earlier ones that it `replaces`; every other line stays.

    The whole file takes the old one's place at once, and one writer waits for the other.
    """
    path = path.resolve()
    with FileLock(path.with_name(f"{path.name}.lock"), mode=0o600):
        lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
        kept = [line for line in lines if not _is_replaced(line, replaces)]
        if len(kept) == len(lines):
            append_json(path, record)
            return
        if kept and not kept[-1].endswith(b"\n"):
            kept[-1] += b"\n"
        draft = path.with_name(f"{path.name}.{os.getpid()}.new")
        draft.unlink(missing_ok=True)
        descriptor = os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(b"".join(kept) + (json.dumps(record) + "\n").encode())
            file.flush()
            os.fsync(descriptor)
        draft.replace(path)


def _is_replaced(line: bytes, replaces: Callable[[Mapping[str, object]], bool]) -> bool:
    """Lines that cannot be read, one that a crash cut short for instance, are left alone."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return False
    return isinstance(record, dict) and replaces(record)


@final
class SessionLog:
    """One conversation's file; every finished turn is on disk before the next one starts."""

    def __init__(self, folder: Path, *, base: str) -> None:
        stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
        self._base = base
        self.path = folder / f"{stamp}-{secrets.token_hex(3)}{_SUFFIX}"

    @classmethod
    def resume(cls, folder: Path, *, base: str) -> "tuple[SessionLog, list[Turn]] | None":
        """This base's conversation written to last, with its turns; None when there is none."""
        for file in _newest_first(folder):
            if _is_same_base(base_of(file), base):
                log = cls(folder, base=base)
                log.path = file
                return log, read_turns(file)
        return None

    def add(self, turn: Turn, facts: Mapping[str, object]) -> None:
        """Write one finished turn; `facts` is what else is worth keeping about the answer."""
        self._write({"prompt": turn.prompt, "answer": turn.answer, **facts})

    def undo(self) -> None:
        """Note that the last turn was taken back."""
        self._write({"undone": True})

    def _write(self, record: Mapping[str, object]) -> None:
        if not self.path.exists():
            append_json(self.path, {"session": self.path.stem, "base": self._base})
        append_json(self.path, {"time": datetime.now(UTC).isoformat(), **record})


def last_base(folder: Path) -> str | None:
    """The base of the conversation written to last, whichever it was; None when there is none."""
    return next((base_of(file) for file in _newest_first(folder)), None)


def base_of(path: Path) -> str:
    """The base that a session file belongs to; "" when the file does not say."""
    with path.open(encoding="utf-8", errors="replace") as file:
        try:
            header = json.loads(file.readline())
        except ValueError:
            return ""
    base = header.get("base") if isinstance(header, dict) else None
    return base if isinstance(base, str) else ""


def read_turns(path: Path) -> list[Turn]:
    """The turns of a session file; a line cut short by a crash is left out."""
    turns: list[Turn] = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if not isinstance(record, dict):
            continue
        if record.get("undone"):
            del turns[-1:]
        elif isinstance(record.get("prompt"), str) and isinstance(record.get("answer"), str):
            turns.append(Turn(record["prompt"], record["answer"]))
    return turns


def save_conversation(path: Path, turns: Sequence[Turn]) -> None:
    """Append the conversation as one `messages` line, the shape that `train` reads."""
    try:
        append_json(path, {"messages": messages_of(turns)})
    except OSError as error:
        raise ConfigurationError(
            f"{path}: cannot be written ({error.strerror}); name another file"
        ) from error


def messages_of(turns: Sequence[Turn]) -> list[dict[str, str]]:
    """The turns as chat messages."""
    return [
        {"role": role, "content": text}
        for turn in turns
        for role, text in (("user", turn.prompt), ("assistant", turn.answer))
    ]


def _newest_first(folder: Path) -> list[Path]:
    return sorted(
        folder.glob(f"*{_SUFFIX}"), key=lambda file: file.stat().st_mtime_ns, reverse=True
    )


def _is_same_base(one: str, other: str) -> bool:
    """Equal words, or two spellings of one folder."""
    if one == other:
        return True
    return Path(one).is_dir() and Path(other).is_dir() and Path(one).samefile(other)


def _private_folder(folder: Path) -> Path:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(
            f"{folder}: cannot be made ({error.strerror}); set XDG_STATE_HOME to another folder"
        ) from error
    return folder
