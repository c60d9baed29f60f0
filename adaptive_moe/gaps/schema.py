"""The tables of the gap ledger, as the list of steps that brings any older file up to date."""

from collections.abc import Callable
from sqlite3 import Connection

# "GAPS" in ASCII: tells a gap ledger from any other SQLite file.
APPLICATION_ID = 0x47415053


def _create_tables(connection: Connection) -> None:
    connection.execute(
        """CREATE TABLE gaps (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            base_id TEXT NOT NULL,
            domain TEXT,
            state TEXT NOT NULL,
            label TEXT NOT NULL,
            terms TEXT NOT NULL,
            expert TEXT,
            reason TEXT NOT NULL,
            suspicion_order INTEGER,
            evidence_after INTEGER NOT NULL,
            rejections INTEGER NOT NULL,
            cooldown_from INTEGER NOT NULL,
            direction BLOB,
            merged_into INTEGER REFERENCES gaps (id),
            opened TEXT NOT NULL,
            changed TEXT NOT NULL)"""
    )
    connection.execute(
        """CREATE TABLE observations (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            base_id TEXT NOT NULL,
            gap_id INTEGER REFERENCES gaps (id),
            prompt TEXT NOT NULL,
            prompt_hash TEXT NOT NULL,
            answer TEXT NOT NULL,
            p_correct REAL,
            low_confidence INTEGER NOT NULL,
            domain TEXT,
            session TEXT NOT NULL,
            served_by TEXT NOT NULL,
            direction BLOB,
            duplicate_of INTEGER REFERENCES observations (id),
            excluded TEXT,
            outcome INTEGER,
            origin TEXT,
            created TEXT NOT NULL)"""
    )
    connection.execute(
        """CREATE TABLE transitions (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            gap_id INTEGER NOT NULL REFERENCES gaps (id),
            before TEXT NOT NULL,
            after TEXT NOT NULL,
            reason TEXT NOT NULL,
            figures TEXT NOT NULL,
            created TEXT NOT NULL)"""
    )
    connection.execute(
        """CREATE TABLE bases (
            base_id TEXT PRIMARY KEY,
            suspected INTEGER NOT NULL,
            unassigned INTEGER NOT NULL,
            radius REAL NOT NULL)"""
    )


def _create_indexes(connection: Connection) -> None:
    for name, columns in (
        ("observations_by_gap", "observations (gap_id, id)"),
        ("observations_by_session", "observations (base_id, session, id)"),
        ("observations_by_domain", "observations (base_id, domain, low_confidence, id)"),
        ("observations_by_original", "observations (duplicate_of)"),
        ("transitions_by_gap", "transitions (gap_id, id)"),
    ):
        connection.execute(f"CREATE INDEX {name} ON {columns}")
    connection.execute(
        "CREATE INDEX remembered_directions ON observations (base_id, domain, id) "
        "WHERE low_confidence = 0 AND direction IS NOT NULL"
    )


def _index_evidence(connection: Connection) -> None:
    """So that a prompt which is asked a thousand times costs no more than one asked once."""
    connection.execute(
        "CREATE INDEX evidence_by_gap ON observations (gap_id, id) WHERE duplicate_of IS NULL"
    )
    connection.execute(
        "CREATE INDEX confident_by_gap ON observations (gap_id, id) WHERE low_confidence = 0"
    )


def _keep_verdicts(connection: Connection) -> None:
    """What people say of an answer, and under which promise or by which experts it was given."""
    for column in (
        "parts TEXT",
        "certificate TEXT",
        "remoteness REAL",
        "verdict INTEGER",
        "judge TEXT",
    ):
        connection.execute(f"ALTER TABLE observations ADD COLUMN {column}")
    connection.execute(
        "CREATE TABLE voided (certificate TEXT PRIMARY KEY, why TEXT NOT NULL, "
        "created TEXT NOT NULL)"
    )
    connection.execute(
        "CREATE INDEX verdicts_on_experts ON observations (base_id) "
        "WHERE parts IS NOT NULL AND verdict IS NOT NULL"
    )
    connection.execute(
        "CREATE INDEX verdicts_on_trusted ON observations (certificate) WHERE verdict IS NOT NULL"
    )
    connection.execute(
        "CREATE INDEX certified_prompts ON observations (certificate, prompt_hash, remoteness) "
        "WHERE remoteness IS NOT NULL AND certificate IS NOT NULL"
    )


def _keep_topics(connection: Connection) -> None:
    """Which of the router's topics a prompt is of, and with it the group it is in."""
    for table in ("gaps", "observations"):
        connection.execute(f"ALTER TABLE {table} ADD COLUMN topic TEXT")
    connection.execute("DROP INDEX remembered_directions")
    connection.execute(
        "CREATE INDEX remembered_directions ON observations (base_id, domain, topic, id) "
        "WHERE low_confidence = 0 AND direction IS NOT NULL"
    )


MIGRATIONS: tuple[Callable[[Connection], None], ...] = (
    _create_tables,
    _create_indexes,
    _index_evidence,
    _keep_verdicts,
    _keep_topics,
)
