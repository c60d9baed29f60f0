"""The SQLite file under the gap ledger: private, checked on opening, whole or unchanged."""

import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from adaptive_moe.errors import GapError, StoreError
from adaptive_moe.gaps.schema import APPLICATION_ID, MIGRATIONS

Clock = Callable[[], datetime]
Row = tuple[Any, ...]  # SQLite types its values one by one

_BUSY_SECONDS = 10.0
_IN_MEMORY = ":memory:"


class LedgerFile:
    """One connection that threads share under one lock; processes wait for one another.

    Raises StoreError where the file cannot be opened or written, and GapError where it is
    damaged, not a gap ledger, or newer than this program.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        clock: Clock,
        before_creating: Callable[[], None] | None = None,
    ) -> None:
        self.path = path
        self.clock = clock
        self._before_creating = before_creating
        self._lock = threading.RLock()
        self._depth = self._begun = 0
        self._connection: sqlite3.Connection
        # With `before_creating`: until the first entry, an empty ledger in memory stands in.
        self._stands_in = before_creating is not None and not Path(path).exists()
        with self._explained():
            if self._stands_in:
                _check_place(Path(path))
        self._open(_IN_MEMORY if self._stands_in else path)

    def close(self) -> None:
        """Close the file; every finished transaction is in it."""
        with self._lock:
            self._stands_in = False
            self._connection.close()

    def transaction(self) -> AbstractContextManager[None]:
        """All or nothing, alone on the file; may be nested, the outermost one commits."""
        return self._block("BEGIN IMMEDIATE")

    def reading(self) -> AbstractContextManager[None]:
        """One state of the file, beside others who read; it needs no right to write."""
        return self._block("BEGIN")

    @contextmanager
    def _block(self, begin: str) -> Iterator[None]:
        with self._lock, self._explained():
            if self._depth == 0:
                if self._stands_in and Path(self.path).exists():
                    self._switch()  # another process was first
                self._connection.execute(begin)
                self._begun += 1
            self._depth += 1
            try:
                yield
                if self._depth == 1:
                    self._connection.execute("COMMIT")
            except BaseException:
                if self._depth == 1 and self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise
            finally:
                self._depth -= 1

    @property
    def contents(self) -> tuple[int, int]:
        """Inside one transaction equal as long as nothing was written; else never equal."""
        return self._begun, self._connection.total_changes

    def now(self) -> str:
        """The clock's time in UTC as ISO 8601."""
        return self.clock().astimezone(UTC).isoformat(timespec="seconds")

    def execute(self, statement: str, values: Sequence[object] = ()) -> None:
        """Run one statement inside a transaction."""
        self._ready(statement).execute(statement, values)

    def executemany(self, statement: str, rows: Sequence[Sequence[object]]) -> None:
        """Run one statement for many rows inside a transaction."""
        self._ready(statement).executemany(statement, rows)

    def one(self, statement: str, values: Sequence[object] = ()) -> Row:
        """The first row of a query that has one."""
        row: Row = self._ready(statement).execute(statement, values).fetchone()
        return row

    def all(self, statement: str, values: Sequence[object] = ()) -> list[Row]:
        """All rows of a query."""
        return self._ready(statement).execute(statement, values).fetchall()

    def _ready(self, statement: str) -> sqlite3.Connection:
        """The connection for this statement; one that writes makes the file first."""
        if self._stands_in and not statement.startswith(_READING):
            if self._before_creating is not None:
                self._before_creating()
            self._switch()
            if self._depth:
                self._connection.execute("BEGIN IMMEDIATE")
        return self._connection

    def _switch(self) -> None:
        """From the stand-in, which never holds anything, to the file."""
        stand_in, depth = self._connection, self._depth
        self._stands_in, self._depth = False, 0
        try:
            self._open(self.path)
        except BaseException:
            self._connection, self._stands_in = stand_in, True
            raise
        finally:
            self._depth = depth
        stand_in.close()

    def _open(self, place: Path | str) -> None:
        with self._explained():
            _create_private(place)
            self._connection = sqlite3.connect(
                str(place), timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False
            )
        try:
            with self._explained():
                self._prepare()
        except BaseException:
            self._connection.close()
            raise

    def _prepare(self) -> None:
        found = int(self.one("PRAGMA application_id")[0])
        version = int(self.one("PRAGMA user_version")[0])
        if found != APPLICATION_ID and (found or version or self.one(_COUNT_TABLES)[0]):
            raise GapError(
                f"{self.path} is an SQLite file but no gap ledger; choose another gaps.ledger"
            )
        if version > len(MIGRATIONS):
            raise GapError(
                f"the gap ledger {self.path} was written by a newer version (schema {version}, "
                f"known up to {len(MIGRATIONS)}); update this program or choose another gaps.ledger"
            )
        report = self.one("PRAGMA quick_check(1)")[0]
        if report != "ok":
            raise sqlite3.DatabaseError(report)
        # A rollback journal: a write-ahead log can lose commits in some SQLite versions.
        self.one("PRAGMA journal_mode = TRUNCATE")
        self._connection.execute("PRAGMA foreign_keys = ON")
        if version < len(MIGRATIONS):
            self._migrate()

    def _migrate(self) -> None:
        with self.transaction():  # none of its statements goes through `execute`
            # Read again: another process may have been first.
            version = int(self.one("PRAGMA user_version")[0])
            for step in MIGRATIONS[version:]:
                step(self._connection)
            self._connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            self._connection.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Say which file failed and what to do; errors of ours pass through."""
        try:
            yield
        except (sqlite3.OperationalError, sqlite3.ProgrammingError, OSError) as error:
            if isinstance(error, StoreError):
                raise
            raise StoreError(
                f"the gap ledger {self.path} cannot be used: {error}; check that its folder "
                "exists, is writable and has room, or choose another gaps.ledger"
            ) from error
        except sqlite3.DatabaseError as error:
            raise GapError(
                f"the gap ledger {self.path} is damaged: {error}; nothing was changed. Restore a "
                "copy, or move the file away to begin an empty ledger"
            ) from error


_READING = ("SELECT", "PRAGMA")
_COUNT_TABLES = "SELECT COUNT(*) FROM sqlite_master"


def _check_place(file: Path) -> None:
    """Complain early where the file could never be; a place only to be read fails at an entry."""
    parent = next(place for place in file.absolute().parents if place.exists())
    if not parent.is_dir():
        raise NotADirectoryError(f"{parent} is no folder")


def _create_private(path: Path | str) -> None:
    """Make an empty file that only its owner can read; SQLite gives its journal the same mode."""
    if str(path) == _IN_MEMORY:
        return
    file = Path(path)
    if file.exists():
        return  # also one that can only be read
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    file.touch(mode=0o600, exist_ok=True)
