"""Folders being written: each is owned by a living process, and the others are swept away."""

import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from adaptive_moe.experts.objects import disk_errors

_LOCK_SECONDS = 10.0


@contextmanager
def fresh_folder(staging: Path) -> Iterator[Path]:
    """A new folder of ours, gone at the end unless it was moved away; StoreError."""
    folder = staging / uuid.uuid4().hex
    with _owned(folder), disk_errors(folder, others_pass=True):
        folder.mkdir()
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def set_aside(folder: Path, staging: Path) -> None:
    """Move a folder where the next sweep deletes it; one rename, so never half of it."""
    folder.rename(staging / uuid.uuid4().hex)


def sweep(staging: Path) -> int:
    """Delete what no living process owns; how many entries there were."""
    deleted = 0
    for name in {entry.name.removesuffix(".lock") for entry in staging.iterdir()}:
        with suppress(Timeout), _owned(staging / name, patience_seconds=0.0):
            deleted += _delete(staging / name)
    return deleted


@contextmanager
def _owned(folder: Path, *, patience_seconds: float = _LOCK_SECONDS) -> Iterator[None]:
    """Hold the lock that says a living process works in this folder; filelock.Timeout."""
    path = folder.with_name(folder.name + ".lock")
    lock = FileLock(path, thread_local=False)
    with disk_errors(path, others_pass=True):
        lock.acquire(timeout=patience_seconds)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        lock.release()


def _delete(entry: Path) -> bool:
    """Delete a folder or a file; whether there was one."""
    if entry.is_dir() and not entry.is_symlink():
        shutil.rmtree(entry, ignore_errors=True)
        return True
    was_there = entry.is_symlink() or entry.exists()
    entry.unlink(missing_ok=True)
    return was_there
