"""The expert store on disk: content-addressed folders, published whole or not at all.

    objects/<sha256>/   one immutable expert; its name is the hash of its manifest
    staging/<uuid>/     being written; whatever a dead process left is collected on open
    index.sqlite        names, versions, statuses, and which version serves

Publishing hashes and syncs the staged files, then moves the folder into place inside the index's
transaction: a crash at any moment leaves the old state or the new one. A status says whether a
version may serve; of a name's active versions the one published, activated or rolled back to last
serves, until it is quarantined; rolling back returns to the one that served before it. The folder
is made when something is to be kept in it; opening, listing and asking write nothing.
"""

import logging
import re
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, cast, final

from adaptive_moe.errors import (
    AdapterFormatError,
    CorruptExpertError,
    ExpertNameError,
    StoreError,
    UnknownExpertError,
)
from adaptive_moe.experts.index import Index, IndexRow
from adaptive_moe.experts.manifest import Manifest, canonical_json
from adaptive_moe.experts.objects import check_object, disk_errors, seal, size_of, sync
from adaptive_moe.experts.place import (
    INDEX_NAME,
    MARKER_NAME,
    check_place,
    check_writable,
    is_store,
)
from adaptive_moe.experts.staging import fresh_folder, set_aside, sweep
from adaptive_moe.experts.versions import (
    ACTIVATABLE,
    STATUSES,
    Status,
    activatable,
    manifest_of,
    nothing_before,
    with_earlier,
)

RESERVED_NAMES = frozenset({"auto", "base"})
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_EXPERT_ID = re.compile(r"[0-9a-f]{64}")
logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ExpertRecord:
    """One version of an expert as the index knows it; `created` is ISO 8601 in UTC."""

    name: str
    version: int
    expert_id: str
    status: Status
    reason: str
    created: str
    manifest: Manifest
    folder: Path


def check_name(name: str) -> str:
    """The name itself; ExpertNameError unless it is plain, lower case and not reserved."""
    if not _NAME.fullmatch(name):
        raise ExpertNameError(
            f"{name!r} cannot name an expert; use 1 to 64 of a-z 0-9 . _ - and start with a-z 0-9"
        )
    if name in RESERVED_NAMES:
        raise ExpertNameError(
            f"no expert may be called {name!r}, it is a route; choose another name"
        )
    return name


@final
class Store:
    """An open store; thread safe, many processes at once, closed by `with`."""

    def __init__(
        self, root: Path, *, clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self._clock = clock
        self._root = root.absolute()
        with disk_errors(self._root):
            check_place(self._root)
        self._index = Index(self._root / INDEX_NAME)
        self._collect_at_leisure()

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def root(self) -> Path:
        """The store's folder."""
        return self._root

    def change_stamp(self) -> tuple[int, int]:
        """A value that is another one after any process changed the index."""
        try:
            status = (self._root / INDEX_NAME).stat()
        except FileNotFoundError:
            return 0, 0
        return status.st_mtime_ns, status.st_size

    @property
    def exists(self) -> bool:
        """Whether the store was made already."""
        return is_store(self._root)

    def check_writable(self) -> None:
        """Raise StoreError where nothing could be kept here; it leaves no trace."""
        with disk_errors(self._root):
            check_writable(self._root)

    def create(self) -> None:
        """Make the folder and its index if they are not there; StoreError."""
        with disk_errors(self._root):
            self._root.mkdir(parents=True, exist_ok=True)
            for folder in ("objects", "staging"):
                (self._root / folder).mkdir(exist_ok=True)
            if not (self._root / MARKER_NAME).is_file():
                (self._root / MARKER_NAME).write_text("adaptive-moe expert store\n")
        self._index.create()

    def close(self) -> None:
        """Let go of the index; staged folders end with their own blocks."""
        self._index.close()

    def stage(self) -> AbstractContextManager[Path]:
        """A fresh folder to write an expert into; gone at the end, unless it was published."""
        self.create()
        return fresh_folder(self._root / "staging")

    def publish(
        self,
        name: str,
        staged: Path,
        manifest: Manifest,
        *,
        status: Literal["active", "quarantine", "rejected"],
        reason: str = "",
    ) -> ExpertRecord:
        """Make a staged folder the next version of the name; an active one serves at once.

        `manifest.files` is filled in here. A kill at any moment leaves all of it or nothing.
        Raises ExpertNameError, AdapterFormatError for files an expert cannot hold, StoreError.
        """
        check_name(name)
        if staged.parent != self._root / "staging":
            raise StoreError(f"{staged} was not staged in {self._root}; write into stage()")
        with disk_errors(staged):
            expert_id, complete = seal(staged, manifest)
        try:
            with disk_errors(staged), self._index.writing():
                version = self._index.next_version(name)
                self._move_in(staged, expert_id)
                told = (name, version, expert_id, status, reason, self._now())
                self._index.add(IndexRow(None, *told, canonical_json(complete)))
                if status == "active":
                    self._index.serve(name, version=version)
        except StoreError:
            self._collect_at_leisure()  # the first failure is the one to tell
            raise
        logger.info("published %s version %d as %s (%s)", name, version, expert_id[:12], status)
        return ExpertRecord(*told, complete, self._folder(expert_id))

    def get(self, name: str, *, version: int | None = None) -> ExpertRecord:
        """The version that serves, or the one asked for, whatever its status."""
        records = self.versions(name)
        wanted = self._index.serving().get(name) if version is None else version
        for record in records:
            if record.version == wanted and (version is not None or record.status == "active"):
                return record
        if version is not None:
            numbers = ", ".join(str(record.version) for record in records)
            raise UnknownExpertError(
                f"expert {name!r} has no version {version}; name one of {numbers}"
            )
        last = records[-1]
        raise UnknownExpertError(
            f"no version of expert {name!r} is active; version {last.version} is {last.status}"
            + (f": {last.reason}" if last.reason else "")
            + f"; train it again, or see `experts show {name} --version {last.version}`"
        )

    def active(self) -> tuple[ExpertRecord, ...]:
        """The serving version of every name that has one."""
        serving = self._index.serving()
        return tuple(
            record
            for record in self.list()
            if record.status == "active" and serving.get(record.name) == record.version
        )

    def list(self) -> tuple[ExpertRecord, ...]:
        """Every version of every name, removed ones too, by name and version."""
        return self._records(self._index.rows())

    def versions(self, name: str) -> tuple[ExpertRecord, ...]:
        """Every version of one name, oldest first; UnknownExpertError if there never was one."""
        records = self._records(self._index.rows(name=check_name(name)))
        if not records:
            known = ", ".join(sorted({record.name for record in self.active()}))
            advice = f"name one of {known}" if known else "none is active yet, so train one first"
            raise UnknownExpertError(f"no expert is called {name!r}; {advice}")
        return records

    def by_id(self, expert_id: str) -> ExpertRecord:
        """The newest version with this content."""
        records = self._records(self._index.rows(expert_id=expert_id))
        if not records:
            raise UnknownExpertError(
                f"no expert has the id {expert_id[:12]!r}; `experts list --all` names all there are"
            )
        return records[-1]

    def verify(self, expert_id: str) -> None:
        """Compare every byte on disk with what was published; CorruptExpertError."""
        record = self.by_id(expert_id)
        if check_object(record.folder, expert_id) != record.manifest:
            raise CorruptExpertError(
                f"expert {expert_id[:12]}: index and folder disagree; train or import it again"
            )

    def quarantine(self, expert_id: str, reason: str) -> None:
        """Take an expert out of service; where it served, the base answers.

        What was rejected or removed stays so. An earlier reason is kept behind the new one.
        """
        with self._index.writing():
            self.by_id(expert_id)
            serving = self._index.serving()
            for row in self._index.rows(expert_id=expert_id):
                if row.status in ACTIVATABLE:
                    told = with_earlier(reason, row.reason)
                    self._index.mark(row, status="quarantine", reason=told)
                if serving.get(row.name) == row.version:
                    self._index.serve(row.name, version=None)
        logger.warning("expert %s is in quarantine: %s", expert_id[:12], reason)

    def activate(
        self, expert_id: str, *, name: str | None = None, version: int | None = None
    ) -> ExpertRecord:
        """Verify an expert and let it serve its name; its reason is kept.

        Where several versions have this content, `name` and `version` say which; else it is the
        newest that may serve. Raises ExpertError for a rejected or removed one.
        """
        with self._index.writing():
            self.by_id(expert_id)
            row = activatable(
                row
                for row in self._index.rows(expert_id=expert_id)
                if name in (None, row.name) and version in (None, row.version)
            )
            self.verify(expert_id)
            if row.status == "quarantine":
                told = with_earlier("activated out of quarantine", row.reason)
                self._index.mark(row, status="active", reason=told)
            self._index.serve(row.name, version=row.version)
        return self.get(row.name)

    def remove(self, name: str) -> None:
        """Mark all versions removed; the history stays, `collect` frees the bytes."""
        with self._index.writing():
            self.versions(name)
            for row in self._index.rows(name=name):
                self._index.mark(row, status="removed", reason=row.reason)
            self._index.serve(name, version=None)
            self._index.forget_what_served(name)

    def rollback(self, name: str) -> ExpertRecord:
        """Let the version that served before this one serve; UnknownExpertError if none may.

        Never one that was rolled back from, unless it was activated since, nor one in quarantine.
        """
        with self._index.writing():
            current = self._index.serving().get(name)
            active = {each.version: each for each in self.versions(name) if each.status == "active"}
            before = [
                version
                for version in self._index.served_before(name)
                if version in active and version != current
            ]
            if not before:
                raise UnknownExpertError(nothing_before(name, current))
            self._index.go_back(name, version=before[-1])
        return active[before[-1]]

    def stored_bytes(self) -> int:
        """Bytes of all experts on the disk, those that do not serve among them."""
        with disk_errors(self._root):
            return sum(map(size_of, (self._root / "objects").glob("*/*")))

    def collect(self) -> int:
        """Delete folders of removed or unknown experts and dead staging; how many were deleted."""
        return self._collect(is_kept=lambda row: row.status != "removed")

    def _now(self) -> str:
        return self._clock().astimezone(UTC).isoformat(timespec="seconds")

    def _folder(self, expert_id: str) -> Path:
        if not _EXPERT_ID.fullmatch(expert_id):
            raise CorruptExpertError(f"{expert_id[:70]!r} is not an expert id")
        return self._root / "objects" / expert_id

    def _move_in(self, staged: Path, expert_id: str) -> None:
        """Put the sealed folder in its place; a damaged namesake makes way, a sound one stays."""
        target = self._folder(expert_id)
        if target.exists():
            try:
                check_object(target, expert_id)
            except CorruptExpertError:
                set_aside(target, staged.parent)
            else:
                return
        staged.rename(target)
        sync(target.parent)

    def _records(self, rows: Iterable[IndexRow]) -> tuple[ExpertRecord, ...]:
        found = (self._record(row) for row in rows)
        return tuple(record for record in found if record is not None)

    def _record(self, row: IndexRow) -> ExpertRecord | None:
        """The checked row; a damaged one goes to quarantine and never disturbs the others."""
        try:
            check_name(row.name)
            folder = self._folder(row.expert_id)
            manifest = manifest_of(row, folder)
        except (AdapterFormatError, CorruptExpertError, ExpertNameError, TypeError) as error:
            self._set_aside(row, str(error))
            return None
        status, reason = row.status, row.reason
        if status not in STATUSES or (status == "active" and not folder.is_dir()):
            status, reason = "quarantine", "its folder is missing, or its status is unknown"
            self._set_aside(row, reason)
        return ExpertRecord(
            row.name,
            row.version,
            row.expert_id,
            cast(Status, status),
            reason,
            row.created,
            manifest,
            folder,
        )

    def _set_aside(self, row: IndexRow, reason: str) -> None:
        logger.warning("a row of the index goes to quarantine: %s", reason)
        if row.status != "quarantine":
            with self._index.writing():
                self._index.mark(row, status="quarantine", reason=reason)
                if self._index.serving().get(row.name) == row.version:
                    self._index.serve(row.name, version=None)

    def _collect_at_leisure(self) -> None:
        """Sweep up after the dead; where that cannot be done now, the next who writes does it."""
        try:
            self._collect(is_kept=lambda _row: True)
        except StoreError as error:
            logger.info("leftovers stay in the store for now: %s", error)

    def _collect(self, *, is_kept: Callable[[IndexRow], bool]) -> int:
        with disk_errors(self._root):
            orphans = self._orphans(is_kept)
            if not (self._root / "staging").is_dir():
                return 0
            if orphans:
                with self._index.writing():
                    for folder in self._orphans(is_kept):
                        set_aside(folder, self._root / "staging")
            return sweep(self._root / "staging")

    def _orphans(self, is_kept: Callable[[IndexRow], bool]) -> tuple[Path, ...]:
        rows = self._index.rows()
        if not all(_EXPERT_ID.fullmatch(row.expert_id) for row in rows):
            return ()  # some folder belongs to a damaged row, nobody knows which
        kept = {row.expert_id for row in rows if is_kept(row)}
        objects = self._root / "objects"
        if not objects.is_dir():
            return ()
        return tuple(entry for entry in objects.iterdir() if entry.name not in kept)
