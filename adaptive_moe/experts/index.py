"""The store's index: which versions a name has had, what became of them, and which one serves.

SQLite with the rollback journal and synchronous=FULL, as the write-ahead log of SQLite 3.40 has a
bug that can lose committed rows. The index decides what exists; folders follow it. Until a store
is made an empty index in memory stands in for the file, so that looking leaves no trace; for the
same reason an index of an earlier form is brought up to date by the first who writes.
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


def _remember_what_served(connection: sqlite3.Connection) -> None:
    """What served before, in order; of earlier times only the versions' numbers can tell it."""
    connection.execute(
        "CREATE TABLE served (place INTEGER PRIMARY KEY, name TEXT NOT NULL,"
        " version INTEGER NOT NULL)"
    )
    connection.execute(
        "INSERT INTO served (name, version) SELECT expert.name, expert.version FROM expert"
        " LEFT JOIN serving ON serving.name = expert.name WHERE expert.status = 'active'"
        " AND typeof(expert.version) = 'integer'"
        " AND (serving.version IS NULL OR expert.version < serving.version)"
        " ORDER BY expert.name, expert.version"
    )


MIGRATIONS: tuple[Callable[[sqlite3.Connection], None], ...] = (
    _create_tables,
    _remember_what_served,
)
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
                self._migrate()
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
        """Let a version answer, or nobody; the one that answered until now is remembered."""
        if version is None:
            self._write("DELETE FROM serving WHERE name = ?", (name,))
            return
        self._write(
            "INSERT INTO served (name, version) SELECT name, version FROM serving"
            " WHERE name = ? AND version <> ? AND typeof(version) = 'integer'",
            (name, version),
        )
        self._write("INSERT OR REPLACE INTO serving VALUES (?, ?)", (name, version))

    def served_before(self, name: str) -> tuple[int, ...]:
        """What answered before the version that does, the latest last; inside `writing`.

        A version that was gone back from is not among them, unless it answered again since.
        """
        found = self._read("SELECT version FROM served WHERE name = ? ORDER BY place", (name,))
        return tuple(version for (version,) in found)

    def go_back(self, name: str, *, version: int) -> None:
        """Let one of `served_before` answer; what answered since is forgotten; inside `writing`."""
        self._write(
            "DELETE FROM served WHERE name = ?1 AND (place >= (SELECT MAX(place) FROM served"
            " WHERE name = ?1 AND version = ?2) OR version IN"
            " (SELECT version FROM serving WHERE name = ?1))",
            (name, version),
        )
        self._write("INSERT OR REPLACE INTO serving VALUES (?, ?)", (name, version))

    def forget_what_served(self, name: str) -> None:
        """There is nothing left to go back to."""
        self._write("DELETE FROM served WHERE name = ?", (name,))

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
            self._check_version()
            if self._version() == 0:
                with self.writing():
                    pass  # makes the tables
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

    def _check_version(self) -> None:
        if self._version() > len(MIGRATIONS):
            raise StoreError(f"{self._path}: written by a newer version of adaptive_moe; update it")

    def _migrate(self) -> None:
        """Bring the index to its present form; inside `writing`."""
        version = self._version()
        if version == len(MIGRATIONS):
            return
        self._check_version()
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
