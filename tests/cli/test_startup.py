"""Help, version and mistakes answer at once: nothing heavy is imported for them."""

import subprocess
import sys

import pytest

from adaptive_moe.experts.store import Store

HEAVY = ("torch", "transformers", "peft", "sklearn", "scipy", "datasets", "prompt_toolkit")
COMMANDS = (
    "ask", "chat", "train", "demo", "bench", "doctor", "experts", "experts list", "experts show",
    "experts verify", "experts evaluate", "experts import", "experts activate", "experts export",
    "experts remove", "experts rollback", "gaps", "gaps list", "gaps show", "gaps fill",
    "gaps dismiss", "router", "router train", "router evaluate", "router threshold",
)  # fmt: skip
PROBE = """
import sys
from adaptive_moe.cli.main import run
for words in WORDS:
    sys.argv = ["adaptive-moe", *words.split()]
    try:
        run()
    except SystemExit as left:
        print("LEFT", words, left.code, file=sys.stderr)
print("HEAVY", [name for name in NAMES if name in sys.modules], file=sys.stderr)
"""


def run_all(*lines: str) -> subprocess.CompletedProcess[str]:
    program = f"WORDS = {lines!r}\nNAMES = {HEAVY!r}\n{PROBE}"
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False
    )


def test_help_version_and_mistakes_import_nothing_heavy():
    helps = [f"{command} --help" for command in COMMANDS]
    mistakes = ["--nope", "nope", "ask", "ask x --nope", "train x --rank many", "experts nope"]
    mistakes += ["bench nope", "bench generate --rounds none"]
    done = run_all("", "--help", "--version", "--show-config", *helps, *mistakes)
    assert "HEAVY []" in done.stderr
    left = [line for line in done.stderr.splitlines() if line.startswith("LEFT")]
    assert len(left) == 4 + len(helps) + len(mistakes)
    assert all(line.endswith(" 0") for line in left[: 4 + len(helps)])
    assert all(line.endswith(" 2") for line in left[4 + len(helps) :])


def test_the_store_is_listed_without_torch(tmp_path):
    with Store(tmp_path / "s") as store:
        store.create()
    done = run_all(f"experts list --store {tmp_path / 's'}", f"experts verify --store {tmp_path}/s")
    assert "HEAVY []" in done.stderr
    assert done.stderr.count("LEFT") == 2
    assert "No experts in" in done.stdout
    assert "There is nothing to verify." in done.stdout


@pytest.mark.parametrize("words", [["-m", "adaptive_moe", "--version"]])
def test_python_m_is_the_same_program(words):
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("adaptive-moe ")
