"""Where a store is: the default folder, how one is recognised, and whether one can be made."""

import errno
import os
import re
import tempfile
from pathlib import Path

import platformdirs

from adaptive_moe.errors import StoreError

MARKER_NAME = ".adaptive-moe-store"
INDEX_NAME = "index.sqlite"
_FOLDERS = ("objects", "staging", "training")
_PROBE_BYTES = 4096
# What a store may hold before it has its marker: an interrupted training, what a teacher wrote for
# one, the gap ledger.
_UNMARKED = re.compile(r"objects|staging|training|lessons|gaps\.sqlite.*")


def default_store_path() -> Path:
    """ADAPTIVE_MOE_STORE, else ./experts if it carries our marker, else the user's data folder."""
    named = os.environ.get("ADAPTIVE_MOE_STORE")
    if named:
        return Path(named)
    here = Path("experts")
    if (here / MARKER_NAME).is_file():
        return here
    return platformdirs.user_data_path("adaptive-moe", appauthor=False) / "experts"


def is_store(root: Path) -> bool:
    """Whether a store was made in this folder."""
    return (root / MARKER_NAME).is_file() or (root / INDEX_NAME).is_file()


def check_place(root: Path) -> None:
    """Raise StoreError or OSError where no store is and none can be made; nothing is written."""
    found = _nearest(root)
    if not found.is_dir():
        raise StoreError(f"{found} is no folder; name a folder for the store with --store")
    if is_store(root):
        return
    if found == root and not all(_UNMARKED.fullmatch(entry.name) for entry in root.iterdir()):
        raise StoreError(f"{root} is not a store; name an empty folder or one that is")
    as_effective = os.access in os.supports_effective_ids
    if not os.access(found, os.W_OK | os.X_OK, effective_ids=as_effective):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(root))


def check_writable(root: Path) -> None:
    """Raise OSError, naming the folder, where a store or one that is there cannot be written.

    A file without a name is written and dropped: only the system knows about full disks, quotas
    and read-only places.
    """
    inside = (root / name for name in _FOLDERS)
    for folder in (_nearest(root), *(folder for folder in inside if folder.is_dir())):
        try:
            with tempfile.TemporaryFile(dir=folder) as probe:
                probe.write(bytes(_PROBE_BYTES))
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(folder)) from error


def _nearest(root: Path) -> Path:
    """The place itself, or what there is of the way to it."""
    return next(place for place in (root, *root.parents) if place.is_symlink() or place.exists())
