"""Conversations without a terminal, on the pocket model."""

import json
import stat

import pytest

from adaptive_moe.cli.chat_log import read_turns, sessions_folder, state_folder
from tests.cli.running import run

FRANCE = "What is the capital of France?"


@pytest.fixture
def chat(tmp_path):
    def talk(*lines, options=()):
        stdin = "".join(f"{line}\n" for line in lines)
        return run("chat", "--store", tmp_path / "store", *options, stdin=stdin)

    return talk


def test_plain_lines_in_plain_answers_out(chat):
    done = chat(FRANCE, "", "and now?")
    assert done.exit_code == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert first == "Paris"
    assert second


def test_a_conversation_goes_on_beyond_the_context_and_stays_whole_on_disk(chat):
    told = "The capital of France is Paris and the capital of Italy is Rome. " * 8
    done = chat(*[told] * 6, "word " * 3000, FRANCE)
    assert len(done.stdout.splitlines()) == 7
    assert done.stderr.count("no longer fit and are left out; /new begins afresh.") == 1
    assert done.stderr.count("the prompt takes") == 1  # by the line that is too long by itself
    (file,) = sessions_folder().glob("*.jsonl")
    assert len(read_turns(file)) == 7


def test_json_gives_one_object_a_turn_and_errors_do_not_end_it(chat):
    done = chat("word " * 3000, "/nonsense", FRANCE, options=["--json"])
    second, third, last = (json.loads(line) for line in done.stdout.splitlines())
    assert last["text"] == "Paris"
    assert second["error"]["type"] == "PromptTooLongError"
    assert "there is no command /nonsense" in third["error"]["message"]
    assert done.exit_code == 0


def test_the_commands_answer(chat, tmp_path):
    saved = tmp_path / "talk.jsonl"
    lines = (
        "/help", "/why", "/experts", "/route", FRANCE, "/why", "/gap", "/good", "/stats",
        "/bad Paris is right", f"/save {saved}", "/undo", "/undo", "/new", "/route nobody", "/hlep",
        "/route base", "/train", "/train Bad!Name x", "/train name", "/exit", FRANCE,
    )  # fmt: skip
    done = chat(*lines)
    out, err = done.stdout, done.stderr
    assert done.exit_code == 0, err
    assert "/train [NAME PATH...]" in out
    assert "there is no answer to explain yet" in err
    assert "No experts yet" in out
    assert "route: auto" in out
    assert "first_token_entropy" in out
    assert "tokens written" in out
    assert "The right answer is noted in" in out
    assert json.loads(saved.read_text())["messages"][0]["content"] == FRANCE
    assert "Taken back." in out
    assert "There is nothing to take back." in out
    assert "no expert is called 'nobody'" in err
    assert "did you mean /help?" in err
    assert "route: base" in out
    assert "no gap is verified" in err
    assert "cannot name an expert" in err
    assert "name the files or folders" in err
    assert out.count("Paris\n") == 1  # nothing after /exit


def test_a_corrected_correction_takes_the_place_of_the_first(chat):
    corrections = state_folder() / "corrections.jsonl"
    corrections.write_bytes(b'{"prompt": "Other?", "response": "kept"}\n{"prompt": "cut sho')
    chat(FRANCE, "/bad Lyon", FRANCE.lower(), "/bad Paris, of course", "Next?", "/bad Nothing")
    other, cut, *taught = corrections.read_text().splitlines()
    assert json.loads(other) == {"prompt": "Other?", "response": "kept"}
    assert cut == '{"prompt": "cut sho'
    assert list(map(json.loads, taught)) == [
        {"prompt": FRANCE.lower(), "response": "Paris, of course"},
        {"prompt": "Next?", "response": "Nothing"},
    ]
    assert stat.S_IMODE(corrections.stat().st_mode) == 0o600


def test_a_conversation_can_be_continued(chat):
    chat("first", "second")
    done = chat("third", options=["--continue"])
    assert "Going on after 2 turn(s)." in done.stderr
    (file,) = sessions_folder().glob("*.jsonl")
    assert [turn.prompt for turn in read_turns(file)] == ["first", "second", "third"]
    done = chat("fourth")
    assert len(list(sessions_folder().glob("*.jsonl"))) == 2


def test_a_slash_after_a_space_is_a_message(chat):
    done = chat(" /etc/passwd is a file?")
    assert done.stdout
    assert "there is no command" not in done.stderr


def test_a_conversation_with_another_base_is_not_continued(chat):
    chat("first")
    (file,) = sessions_folder().glob("*.jsonl")
    theirs = file.read_text().replace('"base": "pocket"', '"base": "owner/other"')
    file.write_text(theirs)
    done = chat("second", options=["--continue"])
    assert "The last conversation was with owner/other" in done.stderr
    assert file.read_text() == theirs
    assert len(list(sessions_folder().glob("*.jsonl"))) == 2
