"""Expert folders on disk: seal one so that it survives a crash, and check one byte for byte."""

import errno
import hashlib
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

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
_OS_ERROR = re.compile(r"\(os error (\d+)\)")  # how safetensors, which is Rust, quotes the system
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
    """Turn the system's errors, safetensors' too, into StoreError with the path and what to do.

    With `others_pass` only those that concern the disk, as in a block that reads other files too.
    """
    try:
        yield
    except AdaptiveMoEError:
        raise
    except OSError as error:
        if others_pass and error.errno not in _ADVICE:
            raise
        raise StoreError(f"{error.filename or path}: {_advice(error)}") from error
    except SafetensorError as error:
        failure = _OS_ERROR.search(str(error))
        code = int(failure[1]) if failure else 0
        if others_pass and code not in _ADVICE:
            raise
        known = OSError(code, os.strerror(code)) if failure else OSError(str(error))
        raise StoreError(f"{path}: {_advice(known)}") from error


def read_capped(path: Path, *, cap_bytes: int, error: type[AdaptiveMoEError]) -> bytes:
    """The file's bytes, of which there may be `cap_bytes`; `error` says what is wrong."""
    try:
        with path.open("rb") as file:
            content = file.read(cap_bytes + 1)
    except OSError as failure:
        raise error(f"{path.name} cannot be read: {failure.strerror}") from failure
    if len(content) > cap_bytes:
        raise error(f"{path.name} is larger than the {cap_bytes} bytes such an adapter can have")
    return content


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


def size_of(file: Path) -> int:
    """Bytes of a file, 0 where another process has just removed it."""
    try:
        return file.stat().st_size
    except FileNotFoundError:
        return 0


def sync(path: Path) -> None:
    """Force a file or a folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _advice(error: OSError) -> str:
    unknown = f"{error.strerror or error}; name another store with --store"
    return _ADVICE.get(error.errno or 0, unknown)


def _hash(path: Path) -> FileRecord:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
        return FileRecord(sha256=digest.hexdigest(), bytes=file.tell())


def _refuse_links(path: Path, error: type[AdaptiveMoEError]) -> None:
    if not stat.S_ISREG(path.lstat().st_mode):
        raise error(f"{path}: not a plain file")
