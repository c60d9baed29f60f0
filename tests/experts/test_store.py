"""Experts are published whole, found by name and version, and never trusted."""

import errno
import json
import os
import re
import sqlite3
import subprocess
import sys
import threading
from datetime import timedelta
from pathlib import Path

import pytest
from pydantic import ValidationError

from adaptive_moe.errors import (
    AdapterFormatError,
    CorruptExpertError,
    ExpertNameError,
    StoreError,
    UnknownExpertError,
)
from adaptive_moe.experts.manifest import (
    Manifest,
    ModuleRecord,
    canonical_json,
    manifest_id,
    parse_manifest,
)
from adaptive_moe.experts.place import MARKER_NAME, default_store_path
from adaptive_moe.experts.store import Store
from tests.experts.published import NOW, fill, manifest_of, publish

WEIGHTS = "adapter_model.safetensors"
_NOBODY = 65534


@pytest.fixture
def store(tmp_path: Path) -> Store:
    with Store(tmp_path / "experts", clock=lambda: NOW) as store:
        yield store


def test_a_published_expert_is_found_again(store: Store, tmp_path: Path) -> None:
    record = publish(store)
    with Store(tmp_path / "experts") as again:
        assert (
            again.get("chemistry") == again.active()[0] == again.by_id(record.expert_id) == record
        )
        again.verify(record.expert_id)
    assert record.created == "2026-01-02T03:04:05+00:00"
    assert record.folder == tmp_path / "experts" / "objects" / record.expert_id
    assert record.manifest.files[WEIGHTS].bytes == 3
    assert record.expert_id == manifest_id(record.manifest)


def test_equal_experts_have_equal_ids_on_every_machine(tmp_path: Path) -> None:
    ids = set()
    for name in ("here", "there"):
        later = NOW + timedelta(days=len(name))
        with Store(tmp_path / name, clock=lambda later=later: later) as store:
            ids.add(publish(store).expert_id)
    assert len(ids) == 1


def test_retraining_makes_a_new_version_that_serves(store: Store) -> None:
    first, second = publish(store, content=b"one"), publish(store, content=b"two")
    assert (first.version, second.version) == (1, 2)
    assert store.get("chemistry") == second
    assert store.get("chemistry", version=1) == first
    assert store.versions("chemistry") == store.list() == (first, second)


def test_rollback_serves_the_previous_active_version(store: Store) -> None:
    first = publish(store, content=b"one")
    publish(store, content=b"bad", status="rejected")
    third = publish(store, content=b"three")
    assert store.rollback("chemistry") == store.get("chemistry") == first
    with pytest.raises(UnknownExpertError, match=r"before version 1: .*`experts list --all`"):
        store.rollback("chemistry")
    assert store.activate(third.expert_id) == store.get("chemistry") == third


def serving_after_rollback(store: Store) -> int:
    record = store.rollback("chemistry")
    assert store.get("chemistry") == record
    return record.version


def test_rollback_never_returns_to_what_was_rolled_back_from(store: Store) -> None:
    for content in (b"1", b"2", b"3"):
        publish(store, content=content)
    assert [serving_after_rollback(store) for _ in range(2)] == [2, 1]
    publish(store, content=b"4")
    publish(store, content=b"5")
    assert [serving_after_rollback(store) for _ in range(2)] == [4, 1]
    with pytest.raises(UnknownExpertError, match="rolled back from, quarantined or rejected"):
        store.rollback("chemistry")
    assert store.get("chemistry").version == 1


def test_rollback_goes_by_what_served_and_passes_what_is_quarantined(store: Store) -> None:
    records = [publish(store, content=content) for content in (b"1", b"2", b"3", b"4")]
    store.activate(records[0].expert_id)  # it served after the fourth
    assert serving_after_rollback(store) == 4
    store.quarantine(records[2].expert_id, "its answers are wrong")
    store.quarantine(records[3].expert_id, "its answers are wrong")
    assert serving_after_rollback(store) == 2
    store.activate(records[2].expert_id)  # chosen by hand, so it counts as having served
    publish(store, content=b"5")
    assert [serving_after_rollback(store) for _ in range(2)] == [3, 2]


def test_a_removed_name_starts_anew(store: Store) -> None:
    publish(store, content=b"1")
    publish(store, content=b"2")
    store.remove("chemistry")
    publish(store, content=b"3")
    with pytest.raises(UnknownExpertError, match="before version 3"):
        store.rollback("chemistry")


def test_a_store_that_did_not_remember_what_served_opens_and_rolls_back(tmp_path: Path) -> None:
    with Store(tmp_path / "old") as store:
        for content in (b"1", b"2", b"3"):
            publish(store, content=content)
    file = tmp_path / "old" / "index.sqlite"
    with sqlite3.connect(file) as index:  # the form before
        index.execute("DROP TABLE served")
        index.execute("PRAGMA user_version = 1")
    index.close()
    before = file.read_bytes()
    with Store(tmp_path / "old") as store:
        assert store.get("chemistry").version == 3
        assert file.read_bytes() == before  # looking writes nothing
        assert serving_after_rollback(store) == 2
        publish(store, content=b"4")
        assert [serving_after_rollback(store) for _ in range(2)] == [2, 1]


def test_what_was_not_accepted_does_not_serve(store: Store) -> None:
    serving = publish(store, content=b"one")
    publish(store, content=b"two", status="quarantine")
    assert store.get("chemistry") == serving
    publish(store, "physics", content=b"three", status="rejected")
    with pytest.raises(UnknownExpertError, match="version 1 is rejected; train it again"):
        store.get("physics")
    with pytest.raises(UnknownExpertError, match="no version 7; name one of 1, 2"):
        store.get("chemistry", version=7)
    with pytest.raises(UnknownExpertError, match="name one of chemistry"):
        store.get("alchemy")
    assert store.active() == (serving,)


def test_quarantine_takes_an_expert_out_of_service(store: Store) -> None:
    record = publish(store)
    store.quarantine(record.expert_id, "its file was changed")
    assert store.active() == ()
    with pytest.raises(UnknownExpertError, match="is quarantine: its file was changed"):
        store.get("chemistry")
    store.activate(record.expert_id)
    assert store.get("chemistry").reason == (
        "activated out of quarantine; before: its file was changed"
    )
    store.quarantine(record.expert_id, "once more")
    assert store.versions("chemistry")[0].reason.endswith("before: its file was changed")


def test_removing_keeps_the_history_and_collect_frees_the_bytes(store: Store) -> None:
    record = publish(store)
    kept = publish(store, "physics", content=b"two")
    store.remove("chemistry")
    assert [row.status for row in store.versions("chemistry")] == ["removed"]
    assert store.active() == (kept,)
    assert store.collect() == 1
    assert not record.folder.exists()
    assert kept.folder.exists()
    assert store.versions("chemistry")[0].manifest == record.manifest
    assert publish(store).version == 2
    assert store.get("chemistry").expert_id == record.expert_id


def test_content_shared_with_a_living_expert_is_not_collected(store: Store) -> None:
    shared = publish(store)
    publish(store, "alias")
    store.remove("chemistry")
    assert store.collect() == 0
    store.verify(shared.expert_id)
    assert store.get("alias").expert_id == shared.expert_id


def test_a_staged_folder_is_gone_after_an_error(store: Store) -> None:
    with pytest.raises(FileNotFoundError), store.stage() as folder:  # noqa: PT012
        fill(folder, b"half")
        (folder / "missing").read_bytes()
    assert list((store.root / "staging").iterdir()) == []


def test_staging_of_a_living_process_is_not_collected(store: Store) -> None:
    with store.stage() as folder:
        fill(folder, b"one")
        with Store(store.root) as other:
            assert other.collect() == 0
        assert (folder / WEIGHTS).read_bytes() == b"one"
        store.publish("chemistry", folder, manifest_of(), status="active")
    assert list((store.root / "staging").iterdir()) == []


def test_what_a_dead_process_left_is_gone_on_the_next_open(store: Store) -> None:
    store.create()
    (store.root / "staging" / "dead").mkdir()
    fill(store.root / "staging" / "dead", b"half")
    (store.root / "staging" / "other.lock").touch()
    (store.root / "objects" / ("0" * 64)).mkdir()
    kept = publish(store)
    with Store(store.root) as again:
        assert list((store.root / "staging").iterdir()) == []
        assert [folder.name for folder in (store.root / "objects").iterdir()] == [kept.expert_id]
        again.verify(kept.expert_id)


@pytest.mark.parametrize("damage", ["flip", "truncate", "extend", "delete", "add", "link", "swap"])
def test_every_change_on_disk_is_found(store: Store, damage: str) -> None:
    record = publish(store, content=bytes(range(200)))
    other = publish(store, "other", content=bytes(200))
    path = record.folder / WEIGHTS
    content = path.read_bytes()
    if damage == "flip":
        path.write_bytes(content[:7] + bytes([content[7] ^ 1]) + content[8:])
    elif damage == "truncate":
        path.write_bytes(content[:-1])
    elif damage == "extend":
        path.write_bytes(content + b"\0")
    elif damage == "delete":
        path.unlink()
    elif damage == "add":
        (record.folder / "more.bin").touch()
    elif damage == "link":
        path.rename(record.folder.parent / "elsewhere")
        path.symlink_to(record.folder.parent / "elsewhere")
    else:
        path.write_bytes((other.folder / WEIGHTS).read_bytes())
    with pytest.raises(CorruptExpertError, match=record.expert_id[:12]):
        store.verify(record.expert_id)
    store.verify(other.expert_id)


def test_a_changed_manifest_is_found(store: Store) -> None:
    record = publish(store)
    text = json.loads((record.folder / "manifest.json").read_text())
    text["base_id"] = "sha256:1"
    (record.folder / "manifest.json").write_text(json.dumps(text))
    with pytest.raises(CorruptExpertError, match=r"manifest\.json was changed"):
        store.verify(record.expert_id)


def test_publishing_again_repairs_a_damaged_object(store: Store) -> None:
    record = publish(store)
    (record.folder / WEIGHTS).write_bytes(b"bad")
    assert publish(store).expert_id == record.expert_id
    store.verify(record.expert_id)


@pytest.mark.parametrize("column", ["manifest", "expert_id", "status", "version", "name"])
def test_a_damaged_row_does_not_disturb_the_others(store: Store, column: str) -> None:
    record = publish(store)
    kept = publish(store, "physics", content=b"two")
    with sqlite3.connect(store.root / "index.sqlite") as index:
        index.execute(f"UPDATE expert SET {column} = '../../x' WHERE name = 'chemistry'")  # noqa: S608
        index.execute("UPDATE serving SET version = '../../x' WHERE name = 'chemistry'")
    assert store.active() == (kept,)
    assert store.get("physics") == kept
    assert publish(store, "physics", content=b"three").version == 2
    with Store(store.root) as again:
        again.collect()
        assert record.folder.exists()


def test_a_missing_folder_means_quarantine(store: Store) -> None:
    record = publish(store)
    record.folder.rename(store.root / "away")
    assert store.active() == ()
    assert store.list()[0].status == "quarantine"
    with pytest.raises(CorruptExpertError):
        store.activate(record.expert_id)


@pytest.mark.parametrize(
    "name", ["auto", "base", "", "A", "-x", "../x", "x/y", "a" * 65, "a\0", "é", ".hidden", "a\n"]
)
def test_names_that_are_not_plain_are_refused(store: Store, name: str) -> None:
    with store.stage() as folder, pytest.raises(ExpertNameError):
        store.publish(name, folder, manifest_of(), status="active")
    with pytest.raises(ExpertNameError):
        store.get(name)


def test_an_expert_holds_plain_files_only(store: Store) -> None:
    for make in (
        lambda folder: (folder / "sub").mkdir(),
        lambda folder: (folder / "link.json").symlink_to("/etc/hostname"),
        lambda folder: (folder / "Ärger.txt").touch(),
        lambda folder: (folder / "manifest.json").touch(),
    ):
        with store.stage() as folder, pytest.raises(AdapterFormatError):  # noqa: PT012
            make(folder)
            store.publish("chemistry", folder, manifest_of(), status="active")
    assert store.list() == ()


def test_looking_into_a_store_that_is_not_there_leaves_no_trace(tmp_path: Path) -> None:
    with Store(tmp_path / "experts") as store:
        assert store.list() == store.active() == ()
        assert store.collect() == 0
        assert store.change_stamp() == (0, 0)
        for ask in (store.versions, store.get, store.remove, store.rollback):
            with pytest.raises(UnknownExpertError):
                ask("chemistry")
        with pytest.raises(UnknownExpertError):
            store.quarantine("0" * 64, "for no reason")
    assert list(tmp_path.iterdir()) == []


def test_a_store_that_another_process_makes_is_seen(tmp_path: Path) -> None:
    with Store(tmp_path / "experts") as early, Store(tmp_path / "experts") as late:
        record = publish(late)
        assert early.active() == (record,)
        assert early.change_stamp() == late.change_stamp()
        assert publish(early, content=b"two").version == 2


def test_what_an_interrupted_training_left_does_not_make_a_folder_foreign(tmp_path: Path) -> None:
    (tmp_path / "training" / "chemistry").mkdir(parents=True)
    with Store(tmp_path) as store:
        publish(store)
        assert store.exists


def test_a_folder_that_is_not_a_store_is_refused(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").touch()
    with pytest.raises(StoreError, match="is not a store"):
        Store(tmp_path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["letter.txt"]


@pytest.mark.parametrize("below", ["", "experts", "some/where/else"])
def test_a_file_in_the_place_of_a_store_is_refused(tmp_path: Path, below: str) -> None:
    (tmp_path / "file").write_text("mine")
    place = re.escape(str(tmp_path / "file"))
    with pytest.raises(StoreError, match=f"^{place} is no folder; name a folder") as caught:
        Store(tmp_path / "file" / below)
    assert "Errno" not in str(caught.value)
    assert [(entry.name, entry.read_text()) for entry in tmp_path.iterdir()] == [("file", "mine")]


def test_a_dangling_link_in_the_place_of_a_store_is_refused(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    with pytest.raises(StoreError, match="link is no folder"):
        Store(tmp_path / "link")
    assert not (tmp_path / "gone").exists()


@pytest.fixture
def locked(tmp_path: Path) -> Path:
    """A folder that this process may not write to, even where the tests run as root."""
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o500)
    is_root = os.geteuid() == 0
    if is_root:
        os.seteuid(_NOBODY)
    yield folder
    if is_root:
        os.seteuid(0)


def test_a_place_that_cannot_be_written_is_a_store_error(locked: Path) -> None:
    with pytest.raises(StoreError, match="not allowed to write here; name another") as caught:
        Store(locked / "experts")
    assert str(locked) in str(caught.value)
    assert "Errno" not in str(caught.value)


def test_a_system_error_nobody_foresaw_still_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_path: Path, **_options: object) -> None:
        raise OSError(errno.EIO, "Input/output error", str(tmp_path / "experts"))

    monkeypatch.setattr(Path, "mkdir", broken)
    with (
        Store(tmp_path / "experts") as store,
        pytest.raises(StoreError, match="experts: Input/output error; name another store"),
    ):
        store.stage()


def test_a_full_disk_leaves_nothing_behind(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = publish(store)

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device", str(store.root))

    with pytest.raises(StoreError, match="disk is full"), store.stage() as folder:  # noqa: PT012
        fill(folder, b"two")
        monkeypatch.setattr(os, "fsync", full)
        store.publish("chemistry", folder, manifest_of(), status="active")
    assert store.list() == (kept,)
    assert list((store.root / "staging").iterdir()) == []


def test_an_index_that_is_no_database_is_a_store_error(tmp_path: Path) -> None:
    with Store(tmp_path):
        pass
    (tmp_path / "index.sqlite").write_bytes(b"x" * 4096)
    with pytest.raises(StoreError, match=r"index\.sqlite"):
        Store(tmp_path)


def test_a_store_of_the_future_is_refused(tmp_path: Path) -> None:
    with Store(tmp_path):
        pass
    with sqlite3.connect(tmp_path / "index.sqlite") as index:
        index.execute("PRAGMA user_version = 99")
    with pytest.raises(StoreError, match="newer version"):
        Store(tmp_path)


def test_threads_and_stores_may_publish_at_once(store: Store) -> None:
    def work(number: int) -> None:
        with Store(store.root) as own:
            for turn in range(4):
                publish(own, content=bytes([number, turn]))
                publish(store, "physics", content=bytes([number, turn]))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for name in ("chemistry", "physics"):
        assert [record.version for record in store.versions(name)] == list(range(1, 17))
    for record in store.list():
        store.verify(record.expert_id)


def test_the_default_store_is_named_marked_or_the_users_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert default_store_path().is_absolute()
    (tmp_path / "experts").mkdir()
    assert default_store_path().is_absolute()
    (tmp_path / "experts" / MARKER_NAME).touch()
    assert default_store_path() == Path("experts")
    monkeypatch.setenv("ADAPTIVE_MOE_STORE", str(tmp_path / "mine"))
    assert default_store_path() == tmp_path / "mine"


def test_the_manifest_refuses_what_it_does_not_know() -> None:
    text = json.loads(canonical_json(manifest_of()))
    assert parse_manifest(json.dumps(text).encode()) == manifest_of()
    for change in ({"more": 1}, {"schema_version": 2}, {"activation": "always"}, {"seed": "1"}):
        with pytest.raises(AdapterFormatError, match="manifest"):
            parse_manifest(json.dumps(text | change).encode())
    with pytest.raises(AdapterFormatError):
        parse_manifest(b"[" * 100_000)
    with pytest.raises(ValidationError):
        ModuleRecord(rank=129, scaling=1.0, in_features=1, out_features=1)
    with pytest.raises(AdapterFormatError, match="JSON"):
        manifest_id(manifest_of().model_copy(update={"gate": {"loss": float("nan")}}))


def test_the_manifest_survives_writing_and_reading() -> None:
    manifest = Manifest.model_validate(
        manifest_of().model_dump() | {"gate": {"a": [1, 2.5, None, "ü"]}, "header_ids": (3, 4)}
    )
    assert parse_manifest(canonical_json(manifest)) == manifest


def test_the_store_needs_neither_torch_nor_peft() -> None:
    program = (
        "import sys, adaptive_moe.experts.store, adaptive_moe.experts.manifest;"
        "print(sorted({'torch', 'peft', 'transformers'} & set(sys.modules)))"
    )
    found = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == "[]"


def test_a_kill_at_any_moment_leaves_the_old_state_or_the_new(tmp_path: Path) -> None:
    program = Path(__file__).with_name("killing.py")
    found = subprocess.run(
        [sys.executable, program, tmp_path / "experts", "25"],
        capture_output=True,
        text=True,
        check=True,
    )
    tally = json.loads(found.stdout)
    assert tally.pop("published") > 8
    assert tally == dict.fromkeys(tally, 0)
