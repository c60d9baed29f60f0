import io
import json
import logging
from pathlib import Path

import pytest
from rich.console import Console

from adaptive_moe.cli.log import configure_logging, mask_secrets
from adaptive_moe.config.settings import LoggingSettings
from adaptive_moe.errors import ConfigurationError
from tests.cli.hostile import leaks, strings

logger = logging.getLogger("adaptive_moe.test")


@pytest.fixture(autouse=True)
def _forget_handlers():
    yield
    root = logging.getLogger()
    for handler in [one for one in root.handlers if one.get_name() == "adaptive_moe"]:
        root.removeHandler(handler)
        handler.close()
    logging.getLogger("adaptive_moe").setLevel(logging.NOTSET)


def set_up(tmp_path, **settings):
    screen = io.StringIO()
    made = LoggingSettings(file=tmp_path / "logs" / "run.log", **settings)
    configure_logging(made, debug=False, console=Console(file=screen, width=200))
    return screen, made.file


@pytest.mark.parametrize(
    "secret",
    [
        "hf_abcdefghijklmnop", "sk-proj-abcdefgh12345678", "ghp_abcdefgh12345678",
        "Authorization: Bearer abc.def-ghi", "api_key=supersecretvalue", "password: hunter2222",
        '"token": "abcd1234efgh"', "https://user:passw0rd@host/x", "HF_TOKEN=abcd1234efgh",
    ],
)  # fmt: skip
def test_secrets_are_masked(secret):
    kept = mask_secrets(f"calling with {secret} now")
    assert "***" in kept
    for word in ("abcdefgh", "abc.def", "supersecret", "hunter2222", "abcd1234", "passw0rd"):
        assert word not in kept
    assert kept.startswith("calling with ")
    assert kept.endswith(" now")


def test_ordinary_words_stay():
    text = "the key idea: 12 tokens per second, basic arithmetic, max_new_tokens=64"
    assert mask_secrets(text) == text


def test_no_secret_and_no_control_character_reaches_screen_or_file(tmp_path):
    screen, file = set_up(tmp_path)
    for text in strings(200):
        logger.warning("prompt %s with %s", text, "hf_abcdefghijklmnop")
    for shown in (screen.getvalue(), file.read_text()):
        assert leaks(shown) == []
        assert "abcdefgh" not in shown


def test_an_entry_is_one_json_line_whatever_it_says(tmp_path):
    _, file = set_up(tmp_path)
    logger.warning("a\n2026-01-01 ERROR forged")
    try:
        int("token=abcdefgh1234")
    except ValueError:
        logger.exception("broken")
    first, second = (json.loads(line) for line in file.read_text().splitlines())
    assert first["message"] == "a\n2026-01-01 ERROR forged"
    assert first["level"] == "WARNING"
    assert first["logger"] == "adaptive_moe.test"
    assert "token=***" in second["traceback"]


def test_levels_are_obeyed_and_other_libraries_are_quiet(tmp_path):
    screen, _ = set_up(tmp_path, level="INFO")
    logger.debug("unheard")
    logger.info("heard")
    logging.getLogger("transformers").warning("chatter")
    assert "heard" in screen.getvalue()
    assert "unheard" not in screen.getvalue()
    assert "chatter" not in screen.getvalue()


def test_the_file_rotates(tmp_path):
    _, file = set_up(tmp_path, file_bytes=1000, file_count=2)
    for number in range(100):
        logger.warning("entry %d", number)
    assert sorted(each.name for each in file.parent.iterdir()) == [
        "run.log", "run.log.1", "run.log.2",
    ]  # fmt: skip
    assert file.stat().st_size <= 1000


def test_a_log_file_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "logs").write_text("in the way")
    with pytest.raises(ConfigurationError, match=r"logging\.file: .*run\.log cannot be written"):
        set_up(tmp_path)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_log_file_on_a_full_disk_is_given_up_with_one_warning(capfd):
    screen = io.StringIO()
    configure_logging(
        LoggingSettings(file=Path("/dev/full"), level="DEBUG"),
        debug=False,
        console=Console(file=screen, width=200),
    )
    for number in range(3):
        logger.debug("entry %d", number)
    logging.shutdown()
    shown = screen.getvalue()
    assert [f"entry {number}" in shown for number in range(3)] == [True] * 3
    assert shown.count("Warning: logging.file: /dev/full cannot be written") == 1
    assert "No space left on device" in shown
    assert "".join(capfd.readouterr()) == ""
