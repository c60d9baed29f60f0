"""The file under the gaps."""

import sqlite3
import stat
from datetime import UTC, datetime

import pytest

from adaptive_moe.config.settings import GapSettings
from adaptive_moe.errors import GapError, StoreError
from adaptive_moe.gaps.detector import GapDetector
from adaptive_moe.gaps.ledger import GapLedger
from adaptive_moe.gaps.schema import APPLICATION_ID, MIGRATIONS
from adaptive_moe.gaps.states import GapState


def test_only_its_owner_can_read_the_ledger(tmp_path):
    file = tmp_path / "new" / "gaps.sqlite"
    with GapLedger(file):
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700


def test_a_ledger_that_nothing_is_entered_in_is_not_made(tmp_path, world):
    file, calls = tmp_path / "new" / "gaps.sqlite", []
    with GapLedger(file, before_creating=lambda: calls.append("made")) as ledger:
        detector = GapDetector(ledger, GapSettings())
        assert detector.list() == ()
        assert list(tmp_path.iterdir()) == calls == []

        detector.observe(world.ask("symbol of iron"))
        assert len(detector.list()) == 1
        assert calls == ["made"]
    with GapLedger(file) as ledger:
        assert len(GapDetector(ledger, GapSettings()).list()) == 1


def test_a_first_entry_that_fails_leaves_the_ledger_usable(tmp_path, world):
    def refuse():
        if not (tmp_path / "allowed").exists():
            raise StoreError("the disk is full")

    with GapLedger(tmp_path / "gaps.sqlite", before_creating=refuse) as ledger:
        detector = GapDetector(ledger, GapSettings())
        with pytest.raises(StoreError, match="the disk is full"):
            detector.observe(world.ask("symbol of iron"))
        assert detector.list() == ()
        (tmp_path / "allowed").touch()
        detector.observe(world.ask("symbol of iron"))
        assert len(detector.list()) == 1


def test_two_ledgers_that_were_not_there_become_one(tmp_path, world):
    file = tmp_path / "gaps.sqlite"
    with GapLedger(file, before_creating=tmp_path.touch) as first:
        with GapLedger(file, before_creating=tmp_path.touch) as second:
            for ledger, observation in zip((first, second), world.elements(2), strict=True):
                noticed = GapDetector(ledger, GapSettings()).observe(observation)
        assert noticed.gap.figures.distinct == 2


def test_the_journal_is_a_rollback_journal(tmp_path):
    file = tmp_path / "gaps.sqlite"
    with GapLedger(file):
        connection = sqlite3.connect(file)
        assert connection.execute("PRAGMA journal_mode").fetchone()[0] != "wal"
        connection.close()


@pytest.mark.parametrize("damage", ["garbage", "half"])
def test_a_damaged_file_is_named_and_left_as_it_is(tmp_path, world, damage):
    file = tmp_path / "gaps.sqlite"
    with GapLedger(file) as ledger:
        detector = GapDetector(ledger, GapSettings())
        for observation in world.elements(20):
            detector.observe(observation)
    content = b"no database" * 99 if damage == "garbage" else file.read_bytes()[:20480]
    file.write_bytes(content)

    with pytest.raises(GapError, match=r"gaps\.sqlite is damaged.*move the file away"):
        GapLedger(file)
    assert file.read_bytes() == content


def test_another_programs_database_is_refused(tmp_path):
    file = tmp_path / "other.sqlite"
    connection = sqlite3.connect(file)
    connection.execute("CREATE TABLE theirs (x)")
    connection.close()

    with pytest.raises(GapError, match="no gap ledger"):
        GapLedger(file)


def test_a_newer_ledger_is_refused(tmp_path):
    file = tmp_path / "gaps.sqlite"
    GapLedger(file).close()
    connection = sqlite3.connect(file)
    connection.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    connection.close()

    with pytest.raises(GapError, match="newer version"):
        GapLedger(file)


def test_an_older_ledger_is_brought_up_to_date(tmp_path, world):
    file = tmp_path / "gaps.sqlite"
    connection = sqlite3.connect(file)
    MIGRATIONS[0](connection)
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute("PRAGMA user_version = 1")
    connection.execute(
        "INSERT INTO gaps VALUES (1, '', NULL, 'DISMISSED', 'metals', '[]', NULL, 'no', NULL, "
        "0, 0, 0, NULL, NULL, 'then', 'then')"
    )
    connection.commit()
    connection.close()

    with GapLedger(file) as ledger:
        detector = GapDetector(ledger, GapSettings())
        detector.observe(world.ask("symbol of iron"))
        assert detector.show(1).state is GapState.DISMISSED
    connection = sqlite3.connect(file)
    assert connection.execute("PRAGMA user_version").fetchone()[0] == len(MIGRATIONS)
    connection.close()


def test_a_place_that_cannot_be_written_is_a_store_error(tmp_path):
    (tmp_path / "file").touch()

    with pytest.raises(StoreError, match="cannot be used"):
        GapLedger(tmp_path / "file" / "gaps.sqlite")
    with pytest.raises(StoreError, match=r"cannot be used: .*file is no folder"):
        GapLedger(tmp_path / "file" / "gaps.sqlite", before_creating=tmp_path.touch)


def test_a_closed_ledger_says_so(tmp_path, world):
    ledger = GapLedger(tmp_path / "gaps.sqlite")
    detector = GapDetector(ledger, GapSettings())
    ledger.close()

    with pytest.raises(StoreError, match="closed"):
        detector.list()


def test_what_fails_midway_leaves_nothing(tmp_path, world):
    with GapLedger(tmp_path / "gaps.sqlite") as ledger:
        detector = GapDetector(ledger, GapSettings())

        def interrupted():
            with ledger.transaction():
                detector.observe(world.ask("symbol of iron"))
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            interrupted()
        assert detector.list() == ()
        detector.observe(world.ask("symbol of iron"))
        assert len(detector.list()) == 1


def test_two_open_ledgers_see_each_others_evidence(tmp_path, world):
    file = tmp_path / "gaps.sqlite"
    with GapLedger(file) as first, GapLedger(file) as second:
        one, other = (GapDetector(ledger, GapSettings()) for ledger in (first, second))
        for place, observation in enumerate(world.elements(6)):
            noticed = (one, other)[place % 2].observe(observation)

        assert noticed.gap.figures.distinct == 6
        assert one.list()[0].state == "SUSPECTED"


def test_times_are_those_of_the_clock(world):
    with GapLedger(":memory:", clock=lambda: datetime(2026, 5, 4, 3, 2, 1, tzinfo=UTC)) as ledger:
        gap = GapDetector(ledger, GapSettings()).observe(world.ask("symbol of iron")).gap

    assert gap.opened == "2026-05-04T03:02:01+00:00"


def test_confident_answers_and_old_states_are_not_kept(tmp_path, world):
    file = tmp_path / "gaps.sqlite"
    with GapLedger(file) as ledger:
        detector = GapDetector(ledger, GapSettings())
        for number in range(40):
            detector.observe(world.ask(f"moon {number}", low=False, domain="space"))
    connection = sqlite3.connect(file)
    answers, kept = connection.execute(
        "SELECT MAX(answer), COUNT(direction) FROM observations"
    ).fetchone()
    connection.close()

    assert answers == ""
    assert kept == 32
