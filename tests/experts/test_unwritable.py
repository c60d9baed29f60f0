"""A store that cannot be written says so before anything is lost, and can still be read."""

import errno
import sqlite3
from pathlib import Path

import pytest

from adaptive_moe.errors import StoreError
from adaptive_moe.experts.store import Store
from tests.experts.published import NOW, publish


@pytest.fixture
def store(tmp_path: Path) -> Store:
    with Store(tmp_path / "experts", clock=lambda: NOW) as store:
        yield store


def test_a_store_that_is_there_is_asked_whether_it_can_be_written(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = publish(store)
    before = sorted(store.root.rglob("*"))
    store.check_writable()
    assert sorted(store.root.rglob("*")) == before

    def full(**_options: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("tempfile.TemporaryFile", full)
    with pytest.raises(StoreError, match="experts: the disk is full; free some space or name"):
        store.check_writable()
    assert store.active() == (record,)


def test_a_store_to_be_made_below_a_file_is_not_writable(tmp_path: Path) -> None:
    with Store(tmp_path / "some" / "experts") as store:
        store.check_writable()
        (tmp_path / "some").write_text("mine")
        with pytest.raises(StoreError, match="some: Not a directory; name another store"):
            store.check_writable()


def test_a_read_only_store_with_leftovers_can_be_looked_at(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = publish(store)
    (store.root / "staging" / "dead").mkdir()

    def refused(_lock: object, **_options: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr("filelock.FileLock.acquire", refused)
    with Store(store.root) as again:
        assert again.active() == (record,)


def test_a_closed_store_says_so(store: Store) -> None:
    publish(store)
    store.close()
    with pytest.raises(StoreError, match="this store is closed; open it again"):
        store.list()


def test_an_index_that_can_only_be_read_says_what_to_do(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = publish(store)
    connect = sqlite3.connect

    def connect_to_read(place: Path, **options: object) -> sqlite3.Connection:
        return connect(f"file:{place}?mode=ro", uri=True, **options)

    monkeypatch.setattr(sqlite3, "connect", connect_to_read)
    with Store(store.root) as again:
        with pytest.raises(StoreError, match=r"readonly database; .*name another store") as caught:
            again.quarantine(record.expert_id, "for no reason")
        assert "backup" not in str(caught.value)
        assert again.active() == (record,)
