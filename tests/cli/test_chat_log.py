import json
import os
import stat

import pytest

from adaptive_moe.cli.chat_log import (
    SessionLog,
    Turn,
    last_base,
    messages_of,
    private_file,
    read_turns,
    save_conversation,
    sessions_folder,
)
from adaptive_moe.errors import ConfigurationError


@pytest.fixture
def folder():
    return sessions_folder()


def test_every_turn_is_on_disk_at_once(folder):
    log = SessionLog(folder, base="pocket")
    for number in range(3):
        log.add(Turn(f"q{number}", f"a{number}"), {"by": "base"})
        assert read_turns(log.path) == [Turn(f"q{n}", f"a{n}") for n in range(number + 1)]


def test_a_line_cut_short_by_a_crash_is_left_out(folder):
    log = SessionLog(folder, base="pocket")
    for number in range(3):
        log.add(Turn(f"q{number}", f"a{number}"), {})
    whole = log.path.read_bytes()
    second_last = whole[:-1].rindex(b"\n") + 1
    for cut in range(second_last, len(whole) - 2):
        log.path.write_bytes(whole[:cut])
        assert read_turns(log.path) == [Turn("q0", "a0"), Turn("q1", "a1")]


def test_a_turn_written_after_a_crash_does_not_join_the_broken_line(folder):
    log = SessionLog(folder, base="pocket")
    log.add(Turn("q0", "a0"), {})
    with log.path.open("a") as file:
        file.write('{"prompt": "half')
    found = SessionLog.resume(folder, base="pocket")
    assert found is not None
    found[0].add(Turn("q1", "a1"), {})
    assert read_turns(log.path) == [Turn("q0", "a0"), Turn("q1", "a1")]


def test_only_a_conversation_of_the_same_base_is_resumed(folder, tmp_path):
    ours, theirs = SessionLog(folder, base="pocket"), SessionLog(folder, base="owner/other")
    ours.add(Turn("ours", "a"), {})
    theirs.add(Turn("theirs", "b"), {})
    os.utime(ours.path, ns=(10**18, 2 * 10**18))
    os.utime(theirs.path, ns=(10**18, 3 * 10**18))
    found = SessionLog.resume(folder, base="pocket")
    assert found is not None
    assert (found[0].path, found[1]) == (ours.path, [Turn("ours", "a")])
    assert SessionLog.resume(folder, base="third") is None
    assert last_base(folder) == "owner/other"


def test_two_spellings_of_a_folder_are_one_base(folder, tmp_path):
    (tmp_path / "model").mkdir()
    SessionLog(folder, base=str(tmp_path / "model")).add(Turn("q", "a"), {})
    assert SessionLog.resume(folder, base=f"{tmp_path}/./model/") is not None


def test_a_session_file_that_does_not_say_its_base_is_left_alone(folder):
    for number, first in enumerate(("", "{half", "[1]", '{"base": 3}')):
        (folder / f"{number}.jsonl").write_text(first)
    assert SessionLog.resume(folder, base="pocket") is None
    assert last_base(folder) == ""


def test_resuming_takes_the_conversation_written_to_last(folder):
    assert SessionLog.resume(folder, base="pocket") is None
    first, second = SessionLog(folder, base="pocket"), SessionLog(folder, base="pocket")
    first.add(Turn("old", "old"), {})
    second.add(Turn("new", "new"), {})
    os.utime(first.path, ns=(10**18, 2 * 10**18))
    os.utime(second.path, ns=(10**18, 3 * 10**18))
    found = SessionLog.resume(folder, base="pocket")
    assert found is not None
    assert found[1] == [Turn("new", "new")]
    found[0].undo()
    assert read_turns(second.path) == []


def test_only_the_owner_can_read_what_was_said(folder):
    log = SessionLog(folder, base="pocket")
    log.add(Turn("secret", "a"), {})
    history = private_file(folder / "history")
    for path, mode in ((folder, 0o700), (log.path, 0o600), (history, 0o600)):
        assert stat.S_IMODE(path.stat().st_mode) == mode


def test_any_text_survives(folder):
    log = SessionLog(folder, base="pocket")
    turn = Turn("two\nlines \x1b[2J \ud83d 漢", '"quotes" \\ {}')
    log.add(turn, {})
    assert read_turns(log.path) == [turn]


def test_a_saved_conversation_is_training_material(tmp_path):
    file = tmp_path / "talk.jsonl"
    for _ in range(2):
        save_conversation(file, [Turn("q", "a"), Turn("r", "b")])
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert rows == [{"messages": messages_of([Turn("q", "a"), Turn("r", "b")])}] * 2
    with pytest.raises(ConfigurationError, match="cannot be written"):
        save_conversation(tmp_path / "absent" / "talk.jsonl", [Turn("q", "a")])
