"""What a person gets for a mistake: what, where, what to do, in three lines; exit code 2."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from adaptive_moe.cli.failures import describe
from adaptive_moe.cli.program import report
from adaptive_moe.errors import AdaptiveMoEError, ConfigurationError, DataError
from tests.cli.hostile import leaks, strings
from tests.cli.running import run

MISTAKES = {
    "no such command": ("aks", "hello"),
    "no such command in a group": ("experts", "lst"),
    "no such option": ("ask", "hello", "--maxtokens", "3"),
    "a missing argument": ("ask",),
    "too many arguments": ("ask", "two", "prompts"),
    "a number that is none": ("ask", "hello", "--max-new-tokens", "many"),
    "an option without value": ("ask", "hello", "--base"),
    "a setting without value": ("ask", "hello", "--set", "router.threshold"),
    "an unknown setting": ("ask", "hello", "--set", "router.treshold=0.5"),
    "a setting out of range": ("ask", "hello", "--set", "router.threshold=7"),
    "a settings file that is not there": ("ask", "hello", "--config", "absent.yaml"),
    "a settings file that is no YAML": ("ask", "hello", "--config", "{tmp}/broken.yaml"),
    "a settings file with an unknown key": ("ask", "hello", "--config", "{tmp}/typo.yaml"),
    "an empty prompt": ("ask", "   "),
    "no answer wanted": ("ask", "hello", "--max-new-tokens", "0"),
    "a negative seed": ("ask", "hello", "--seed", "-1"),
    "an impossible route": ("ask", "hello", "--route", "base,chemistry"),
    "an unknown expert": ("ask", "hello", "--route", "nobody", "--store", "{tmp}/store"),
    "a model that is not there": ("ask", "hello", "--base", "{tmp}/no-model", "--store", "{tmp}/s"),
    "a folder that is no model": ("ask", "hello", "--base", "{tmp}", "--store", "{tmp}/store"),
    "a model that is a file": ("ask", "hello", "--base", "{tmp}/few.jsonl", "--store", "{tmp}/s"),
    "a prompt beyond the context": ("ask", "word " * 3000, "--store", "{tmp}/store"),
    "a store that is a file": ("experts", "list", "--store", "{tmp}/broken.yaml"),
    "a store below a file": ("ask", "hello", "--store", "{tmp}/broken.yaml/store"),
    "a store that is not there": ("experts", "list", "--store", "{tmp}/typo"),
    "gaps of a store that is not there": ("gaps", "list", "--store", "{tmp}/typo"),
    "a store in a foreign folder": ("experts", "list", "--store", "{tmp}"),
    "an expert nobody has": ("experts", "show", "nobody", "--store", "{tmp}/store"),
    "an expert nobody can have": ("experts", "remove", "../up", "--yes", "--store", "{tmp}/store"),
    "nothing to roll back to": ("experts", "rollback", "nobody", "--store", "{tmp}/store"),
    "an export into a full folder": ("experts", "export", "nobody", "{tmp}"),
    "an export in no known format": ("experts", "export", "nobody", "x", "--format", "zip"),
    "training without material": ("train", "chemistry"),
    "training on a file that is not there": ("train", "chemistry", "--data", "absent.jsonl"),
    "training under a forbidden name": ("train", "Auto!", "--data", "{tmp}"),
    "training under a reserved name": ("train", "base", "--data", "{tmp}"),
    "an unknown rank strategy": ("train", "x", "--data", "{tmp}", "--ranks", "best"),
    "ranks by another method": ("train", "x", "--data", "{tmp}", "--ranks", "adalora"),
    "a rank out of range": ("train", "x", "--plan-only", "--rank", "4096"),
    "two kinds of rehearsal": ("train", "x", "--plan-only", "--dry-run"),
    "a broken row": ("train", "x", "--data", "{tmp}/bad.jsonl", "--store", "{tmp}/store"),
    "too few examples": ("train", "x", "--data", "{tmp}/few.jsonl", "--store", "{tmp}/store"),
    "a gap that is not there": ("gaps", "show", "99", "--store", "{tmp}/store"),
    "a gap by name": ("gaps", "show", "chemistry"),
    "two aims for a threshold": ("router", "threshold", "--target-risk", "0.1", "--coverage", "1"),
    "two aims, one of them a cost": (
        "router", "threshold", "--error-cost", "2", "--coverage", "1"
    ),
    "a cost below nothing": ("router", "threshold", "--error-cost", "-1"),
    "a risk beyond one": ("router", "threshold", "--target-risk", "3"),
    "a router without a place": ("router", "train", "{tmp}/few.jsonl"),
    "questions without answers": ("router", "evaluate", "{tmp}/bad.jsonl", "--store", "{tmp}/s"),
    "plots in a file": (
        "router", "evaluate", "{tmp}/few.jsonl", "--plots", "{tmp}/few.jsonl", "--store", "{tmp}/s"
    ),
}  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "broken.yaml").write_text("router: [unclosed")
    (tmp_path / "typo.yaml").write_text("routr: {threshold: 0.5}")
    (tmp_path / "bad.jsonl").write_text('{"nothing": "useful"}\nnot json\n')
    (tmp_path / "few.jsonl").write_text('{"prompt": "a?", "response": "b"}\n')
    return tmp_path


def everything_below(folder):
    """Every path of the folder and of the user's home, with the bytes of files."""
    places = [*folder.rglob("*"), *Path(os.environ["HOME"]).rglob("*")]
    return {place: place.read_bytes() if place.is_file() else None for place in places}


@pytest.mark.parametrize("words", MISTAKES.values(), ids=MISTAKES.keys())
def test_a_mistake_is_told_in_three_lines(folder, words):
    before = everything_below(folder)
    done = run(*(word.replace("{tmp}", str(folder)) for word in words))
    lines = done.stderr.splitlines()
    assert done.exit_code == 2, done.stderr
    assert 1 <= len(lines) <= 3, done.stderr
    assert lines[0].startswith("Error: ")
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert everything_below(folder) == before


@pytest.mark.parametrize(
    ("mistake", "advice"),
    [
        ("a folder that is no model", "holds no config.json; name the folder of a model"),
        ("a model that is a file", "is a file; name the folder of the model"),
        ("a model that is not there", "check the path"),
        ("a settings file that is not there", "check the path"),
        ("a store that is a file", "broken.yaml is no folder; name a folder for the store"),
        ("a store that is not there", "there is no expert store; check the path, or train one"),
        ("gaps of a store that is not there", "there is no expert store; check the path"),
        ("a store below a file", "broken.yaml is no folder; name a folder for the store"),
        ("an unknown setting", "--show-config lists all"),
        ("an expert nobody has", "train one first"),
        ("training under a reserved name", "choose another name"),
        ("ranks by another method", "--ranks: AdaLoRA changes its ranks while it trains"),
    ],
)
def test_a_mistake_is_told_with_what_to_do(folder, mistake, advice):
    done = run(*(word.replace("{tmp}", str(folder)) for word in MISTAKES[mistake]))
    assert advice in done.stderr


def test_the_nearest_command_is_proposed():
    assert "Did you mean 'ask'" in run("aks", "hello").stderr


def test_a_settings_file_is_named_with_its_key(folder):
    done = run("ask", "hello", "--config", folder / "typo.yaml")
    assert f"{folder / 'typo.yaml'}: routr: there is no such setting" in done.stderr


def test_with_json_the_error_is_one_object():
    for words in (("ask", " "), ("ask", "hi", "--nope"), ("train", "x", "--data", "absent")):
        done = run(*words, "--json")
        error = json.loads(done.stdout)["error"]
        assert set(error) == {"type", "message"}
        assert error["message"]
        assert done.stderr.startswith("Error: ")
        assert done.exit_code == 2


def test_debug_shows_where_it_happened():
    done = run("ask", " ", "--debug")
    assert "Traceback" in done.stderr
    assert "EmptyPromptError" in done.stderr
    assert done.exit_code == 2


def test_the_unexpected_is_short_and_says_how_to_see_more(capsys):
    code = report(ZeroDivisionError("division by zero"), as_json=False, debug=False)
    lines = capsys.readouterr().err.splitlines()
    assert code == 1
    assert lines[0] == "Error: ZeroDivisionError: division by zero"
    assert "--debug" in lines[1]
    assert len(lines) == 2


def test_ctrl_c_leaves_with_130(capsys):
    assert report(KeyboardInterrupt(), as_json=False, debug=False) == 130
    assert capsys.readouterr().err == "Error: stopped by Ctrl-C\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("more", [(), ("--json",)])
def test_a_full_disk_is_told_without_a_traceback(tmp_path, more):
    (tmp_path / "store").mkdir()
    words = ("-m", "adaptive_moe", "experts", "list", "--store", tmp_path / "store", *more)
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, *map(str, words)], stdout=full, stderr=subprocess.PIPE, text=True,
            check=False,
        )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr == "Error: writing: the disk is full; free some space and run it again\n"


def test_an_interrupted_training_leaves_with_2_and_a_checkpoint(tmp_path):
    rows = [{"prompt": f"code of {n}?", "response": str(n * 7)} for n in range(40)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    words = (
        "train", "codes", "--data", tmp_path / "rows.jsonl", "--store", tmp_path / "store",
        "--set", "training.max_steps=400", "--set", "training.checkpoint_every=1",
    )  # fmt: skip
    checkpoint = tmp_path / "store" / "training" / "codes" / "training.safetensors"
    ended = threading.Event()

    def press_ctrl_c():
        while not ended.wait(0.05):
            if checkpoint.exists():
                os.kill(os.getpid(), signal.SIGINT)
                return

    presser = threading.Thread(target=press_ctrl_c)
    presser.start()
    done = run(*words)
    ended.set()
    presser.join()
    assert done.exit_code == 2, done.stderr
    told = done.stderr.splitlines()[-1]
    assert re.fullmatch(
        r"Error: stopped after step \d+ of 400; the same command goes on from here", told
    )
    assert checkpoint.exists()


def test_every_error_of_the_tree_has_its_exit_code():
    failed = {
        "InsufficientMemoryError",
        "TrainingError",
        "DivergedError",
        "TrainingProcessError",
        "UnfitProcessError",
    }
    waiting = [AdaptiveMoEError]
    while waiting:
        kind = waiting.pop()
        waiting += kind.__subclasses__()
        expected = 1 if kind.__name__ in failed else 2
        assert describe(kind("x")).exit_code == expected


def test_hostile_messages_are_harmless_and_short(capsys):
    for text in strings(1000):
        report(DataError(f"{text}:3: {text}\n" * 5), as_json=False, debug=False)
        shown = capsys.readouterr().err
        assert leaks(shown) == []
        assert shown.count("\n") <= 3


@pytest.mark.parametrize("text", ["[/x]\x1b[2J", "\x1b]0;title\x07[red]", "a\u202eb"])
def test_hostile_words_on_the_command_line_are_harmless(text, tmp_path):
    store = ("--store", tmp_path / "s")
    for words in (
        ("ask", "hi", "--base", text), (text,), ("ask", "hi", f"--{text}"),
        ("ask", "hi", "--set", text),
        ("experts", "show", text), ("ask", "hi", "--config", text), ("train", text, "--data", text),
        ("train", "x", "--data", text), ("ask", "hi", "--route", text, *store),
    ):  # fmt: skip
        done = run(*words)
        assert done.exit_code == 2, words
        assert leaks(done.stderr) == []
        assert len(done.stderr.splitlines()) <= 3


def test_a_very_long_message_is_cut():
    assert all(len(line) < 700 for line in describe(ConfigurationError("x" * 10_000)).lines)
