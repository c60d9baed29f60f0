"""The store's index: which versions a name has had, what became of them, and which one serves.

SQLite with the rollback journal and synchronous=FULL, as the write-ahead log of SQLite 3.40 has a
bug that can lose committed rows. The index decides what exists; folders follow it. Until a store
is made an empty index in memory stands in for the file, so that looking leaves no trace.
"""

import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from adaptive_moe.errors import AdaptiveMoEError, StoreError

_BUSY_SECONDS = 30.0
_IN_MEMORY = ":memory:"
_PRIMARY_CODE = 0xFF  # of SQLite's error codes; the bits above it say more
_UNKNOWN = "free space, wait for other processes, or restore the file from a backup"
_ADVICE = {
    sqlite3.SQLITE_FULL: "free some space or name another store with --store",
    sqlite3.SQLITE_READONLY: "it cannot be written; name another store with --store",
    sqlite3.SQLITE_BUSY: "wait for other processes, and run it again",
}


@dataclass(frozen=True, slots=True)
class IndexRow:
    """One version of one name, as written; only the types are sure, a damaged version is 0."""

    row_id: int | None
    name: str
    version: int
    expert_id: str
    status: str
    reason: str
    created: str
    manifest: bytes


def _create_tables(connection: sqlite3.Connection) -> None:
    connection.execute(
        "CREATE TABLE expert (name TEXT NOT NULL, version INTEGER NOT NULL, expert_id TEXT NOT"
        " NULL, status TEXT NOT NULL, reason TEXT NOT NULL, created TEXT NOT NULL,"
        " manifest BLOB NOT NULL, PRIMARY KEY (name, version))"
    )
    connection.execute("CREATE INDEX expert_by_id ON expert (expert_id)")
    connection.execute("CREATE TABLE serving (name TEXT PRIMARY KEY, version INTEGER NOT NULL)")


MIGRATIONS: tuple[Callable[[sqlite3.Connection], None], ...] = (_create_tables,)
_SELECT = (
    "SELECT rowid, CAST(name AS TEXT), CASE typeof(version) WHEN 'integer' THEN version ELSE 0 END,"
    " CAST(expert_id AS TEXT), CAST(status AS TEXT), CAST(reason AS TEXT), CAST(created AS TEXT),"
    " CAST(manifest AS BLOB) FROM expert"
)


@final
class Index:
    """The open index; shared by threads, closed by `close`. Every failure is a StoreError."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.RLock()
        self._is_writing = False
        self._stands_in = False
        self._is_closed = False
        self._connection: sqlite3.Connection
        with self._errors():
            is_new = not path.exists()
            self._open(_IN_MEMORY if is_new else path)
            self._stands_in = is_new

    def create(self) -> None:
        """Make the file if it is not there; its folder must be."""
        with self._lock, self._errors():
            if self._stands_in:
                self._switch()

    def close(self) -> None:
        """Let go of the file."""
        with self._lock:
            self._stands_in, self._is_closed = False, True
            self._connection.close()

    @contextmanager
    def writing(self) -> Iterator[None]:
        """One transaction, alone among all processes; rolled back on any exception."""
        with self._lock, self._errors():
            if self._is_writing:
                yield
                return
            self._follow()
            self._connection.execute("BEGIN IMMEDIATE")
            self._is_writing = True
            try:
                yield
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise
            finally:
                self._is_writing = False

    def rows(self, *, name: str | None = None, expert_id: str | None = None) -> list[IndexRow]:
        """Rows in the order of name and version, all or of one name or one id."""
        found = self._read(
            f"{_SELECT} WHERE (?1 IS NULL OR name = ?1) AND (?2 IS NULL OR expert_id = ?2)"
            " ORDER BY name, version",
            (name, expert_id),
        )
        return [IndexRow(*row) for row in found]

    def serving(self) -> dict[str, int]:
        """Name to the version that answers."""
        return dict(
            self._read("SELECT name, version FROM serving WHERE typeof(version) = 'integer'", ())
        )

    def next_version(self, name: str) -> int:
        """One more than the highest version the name ever had."""
        found = self._read(
            "SELECT COALESCE(MAX(version), 0) + 1 FROM expert"
            " WHERE name = ? AND typeof(version) = 'integer'",
            (name,),
        )
        return int(found[0][0])

    def add(self, row: IndexRow) -> None:
        """Insert a version; inside `writing`."""
        self._write(
            "INSERT INTO expert (name, version, expert_id, status, reason, created, manifest)"
            " VALUES (?, ?, ?, ?, ?, ?, ?)",
            (
                row.name,
                row.version,
                row.expert_id,
                row.status,
                row.reason,
                row.created,
                row.manifest,
            ),
        )

    def mark(self, row: IndexRow, *, status: str, reason: str) -> None:
        """Change what became of a version."""
        self._write(
            "UPDATE expert SET status = ?, reason = ? WHERE rowid = ?", (status, reason, row.row_id)
        )

    def serve(self, name: str, *, version: int | None) -> None:
        """Let a version answer, or nobody."""
        if version is None:
            self._write("DELETE FROM serving WHERE name = ?", (name,))
        else:
            self._write("INSERT OR REPLACE INTO serving VALUES (?, ?)", (name, version))

    def _read(self, statement: str, values: tuple[object, ...]) -> list[tuple[Any, ...]]:
        with self._lock, self._errors():
            self._follow()
            return self._connection.execute(statement, values).fetchall()

    def _write(self, statement: str, values: tuple[object, ...]) -> None:
        with self.writing():
            self._connection.execute(statement, values)

    def _open(self, place: Path | str) -> None:
        self._connection = sqlite3.connect(
            place, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False
        )
        try:
            self._connection.execute("PRAGMA synchronous = FULL")
            self._migrate()
        except BaseException:
            self._connection.close()
            raise

    def _switch(self) -> None:
        """From the stand-in to the file."""
        stand_in, self._stands_in = self._connection, False
        try:
            self._open(self._path)
        except BaseException:
            self._connection, self._stands_in = stand_in, True
            raise
        stand_in.close()

    def _follow(self) -> None:
        """Turn to the file once another process has made it."""
        if self._stands_in and not self._is_writing and self._path.exists():
            self._switch()

    def _migrate(self) -> None:
        if self._version() == len(MIGRATIONS):
            return
        with self.writing():
            version = self._version()
            if version > len(MIGRATIONS):
                raise StoreError(
                    f"{self._path}: written by a newer version of adaptive_moe; update it"
                )
            for migrate in MIGRATIONS[version:]:
                migrate(self._connection)
            self._connection.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")

    def _version(self) -> int:
        return int(self._connection.execute("PRAGMA user_version").fetchone()[0])

    @contextmanager
    def _errors(self) -> Iterator[None]:
        if self._is_closed:
            raise StoreError(f"{self._path}: this store is closed; open it again")
        try:
            yield
        except AdaptiveMoEError:
            raise
        except sqlite3.DatabaseError as error:
            advice = _ADVICE.get(getattr(error, "sqlite_errorcode", 0) & _PRIMARY_CODE, _UNKNOWN)
            raise StoreError(f"{self._path}: {error}; {advice}") from error
