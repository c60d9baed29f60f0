"""`chat` at a real terminal: Ctrl-C at random moments, kill -9, Ctrl-D."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pexpect
import pytest

from adaptive_moe.cli.chat_log import read_turns, sessions_folder
from tests.support.tiny_models import save_tiny

INTERRUPTIONS = 100


@pytest.fixture
def talker(tmp_path) -> Path:
    """A random model, which never stops by itself: replies are as long as they may be."""
    save_tiny("llama", tmp_path / "model")
    return tmp_path / "model"


def start(talker: Path, *options: str) -> pexpect.spawn:
    words = [
        "-m",
        "adaptive_moe",
        "chat",
        "--base",
        str(talker),
        "--store",
        str(talker.parent / "s"),
    ]
    environment = os.environ | {"PROMPT_TOOLKIT_NO_CPR": "1", "TERM": "xterm", "NO_COLOR": "1"}
    chat = pexpect.spawn(
        sys.executable,
        [*words, "--max-new-tokens", "100", *options],
        env=environment,
        encoding="utf-8",
        codec_errors="replace",
        timeout=120,
        dimensions=(40, 200),
    )
    chat.expect("Ctrl-D leaves")
    chat.expect(">")
    return chat


@pytest.mark.slow
def test_ctrl_c_at_any_moment_brings_the_prompt_back(talker):
    chance = random.Random(3)  # noqa: S311
    chat = start(talker)
    slowest = 0.0
    for number in range(INTERRUPTIONS):
        chat.sendline("/new" if number % 20 == 19 else f"m{number}")
        time.sleep(chance.uniform(0.0, 0.6))
        chat.sendintr()
        pressed = time.monotonic()
        chat.sendline(f"/route x{number}")  # answered only by a prompt that works again
        chat.expect_exact(f"no expert is called 'x{number}'")
        slowest = max(slowest, time.monotonic() - pressed)
    chat.sendline("/exit")
    chat.expect(pexpect.EOF)
    chat.close()
    assert chat.exitstatus == 0
    assert slowest < 5  # a second on an idle machine; the bound only tells back from stuck
    assert any(read_turns(file) for file in sessions_folder().glob("*"))


@pytest.mark.slow
def test_an_empty_prompt_tells_how_to_leave_and_ctrl_d_leaves(talker):
    chat = start(talker)
    chat.sendintr()
    chat.expect_exact("Ctrl-D or /exit leaves.")
    chat.expect(">")
    time.sleep(0.5)  # until the prompt has the terminal again
    chat.sendeof()
    chat.expect(pexpect.EOF)
    chat.close()
    assert chat.exitstatus == 0


@pytest.mark.slow
def test_kill_9_loses_no_finished_turn(talker):
    words = [sys.executable, "-m", "adaptive_moe", "chat", "--base", str(talker)]
    words += ["--store", str(talker.parent / "s"), "--max-new-tokens", "5", "--json"]
    finished = 0
    for attempt in range(3):
        resumed = ["--continue"] if attempt else []
        with subprocess.Popen(
            [*words, *resumed], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as chat:
            assert chat.stdin is not None
            assert chat.stdout is not None
            for _ in range(3):
                chat.stdin.write("hi\n")
                chat.stdin.flush()
                assert "text" in chat.stdout.readline()
                finished += 1
            chat.stdin.write("never finished\n")
            chat.stdin.flush()
            chat.send_signal(signal.SIGKILL)
        (file,) = sessions_folder().glob("*.jsonl")
        assert len(read_turns(file)) >= finished
        finished = len(read_turns(file))
