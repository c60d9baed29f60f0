"""Expert folders on disk: seal one so that it survives a crash, and check one byte for byte."""

import errno
import hashlib
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from adaptive_moe.errors import (
    AdapterFormatError,
    AdaptiveMoEError,
    CorruptExpertError,
    StoreError,
)
from adaptive_moe.experts.manifest import (
    MANIFEST_NAME,
    MAX_MANIFEST_BYTES,
    FileRecord,
    Manifest,
    canonical_json,
    manifest_id,
    parse_manifest,
)

MAX_FILES = 32
_FILE_NAME = re.compile(r"[a-z0-9_][a-z0-9._-]{0,63}")
_ADVICE = {
    errno.ENOSPC: "the disk is full; free some space or name another store with --store",
    errno.EDQUOT: "the disk quota is used up; free some space or name another store with --store",
    errno.EACCES: "not allowed to write here; name another store with --store",
    errno.EPERM: "not allowed to write here; name another store with --store",
    errno.EROFS: "a read-only place; name another store with --store",
}


@contextmanager
def disk_errors(path: Path, *, others_pass: bool = False) -> Iterator[None]:
    """Turn the system's errors into StoreError, with the path and what to do.

    With `others_pass` only those that concern the disk, as in a block that reads other files too.
    """
    try:
        yield
    except AdaptiveMoEError:
        raise
    except OSError as error:
        if others_pass and error.errno not in _ADVICE:
            raise
        unknown = f"{error.strerror or error}; name another store with --store"
        advice = _ADVICE.get(error.errno or 0, unknown)
        raise StoreError(f"{error.filename or path}: {advice}") from error


def seal(folder: Path, manifest: Manifest) -> tuple[str, Manifest]:
    """Hash the folder's files into the manifest, write it, and force all of it to the disk.

    Returns the expert id and the manifest as written. Raises AdapterFormatError for anything that
    is not a plain file with a plain name.
    """
    names = sorted(entry.name for entry in folder.iterdir())
    if len(names) > MAX_FILES:
        raise AdapterFormatError(f"{folder}: {len(names)} files; an expert has at most {MAX_FILES}")
    files = {}
    for name in names:
        if name == MANIFEST_NAME or not _FILE_NAME.fullmatch(name):
            raise AdapterFormatError(f"{folder}: an expert cannot hold a file named {name!r}")
        _refuse_links(folder / name, AdapterFormatError)
        files[name] = _hash(folder / name)
    complete = manifest.model_copy(update={"files": files})
    (folder / MANIFEST_NAME).write_bytes(canonical_json(complete))
    for name in (*names, MANIFEST_NAME):
        sync(folder / name)
    sync(folder)
    return manifest_id(complete), complete


def check_object(folder: Path, expert_id: str) -> Manifest:
    """Compare every byte with the manifest, and the manifest with the id; CorruptExpertError."""
    manifest = read_manifest(folder, expert_id)
    try:
        present = {entry.name for entry in folder.iterdir()} - {MANIFEST_NAME}
        if present != set(manifest.files):
            odd = sorted(present ^ set(manifest.files))
            raise CorruptExpertError(f"expert {expert_id[:12]}: unexpected or missing {odd}")
        for name, record in manifest.files.items():
            _refuse_links(folder / name, CorruptExpertError)
            size = (folder / name).stat().st_size
            if size != record.bytes or _hash(folder / name) != record:
                raise CorruptExpertError(f"expert {expert_id[:12]}: {name} was changed on disk")
    except OSError as error:
        raise CorruptExpertError(f"expert {expert_id[:12]}: cannot be read: {error}") from error
    return manifest


def read_manifest(folder: Path, expert_id: str) -> Manifest:
    """The folder's manifest, if it is the one the id was made of; CorruptExpertError otherwise."""
    path = folder / MANIFEST_NAME
    try:
        _refuse_links(path, CorruptExpertError)
        if path.stat().st_size > MAX_MANIFEST_BYTES:
            raise CorruptExpertError(f"expert {expert_id[:12]}: its manifest is too large")
        text = path.read_bytes()
    except OSError as error:
        raise CorruptExpertError(f"expert {expert_id[:12]}: no manifest: {error}") from error
    if hashlib.sha256(text).hexdigest() != expert_id:
        raise CorruptExpertError(f"expert {expert_id[:12]}: {MANIFEST_NAME} was changed on disk")
    try:
        manifest = parse_manifest(text)
    except AdapterFormatError as error:
        raise CorruptExpertError(f"expert {expert_id[:12]}: {error}") from error
    if manifest_id(manifest) != expert_id:
        raise CorruptExpertError(f"expert {expert_id[:12]}: an unusual spelling of its manifest")
    return manifest


def sync(path: Path) -> None:
    """Force a file or a folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _hash(path: Path) -> FileRecord:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
        return FileRecord(sha256=digest.hexdigest(), bytes=file.tell())


def _refuse_links(path: Path, error: type[AdaptiveMoEError]) -> None:
    if not stat.S_ISREG(path.lstat().st_mode):
        raise error(f"{path}: not a plain file")
