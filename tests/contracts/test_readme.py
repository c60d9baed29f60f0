"""README and docs are run, not believed."""

import re
import shlex
from pathlib import Path

import pytest

from adaptive_moe import AdaptiveMoE

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_the_first_python_block_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    exec(compile(blocks("python")[0], "README.md", "exec"), {})  # noqa: S102
    assert capsys.readouterr().out.startswith("Paris base")


def test_commands_of_the_readme_exist():
    from typer.testing import CliRunner

    from adaptive_moe.cli.main import app

    lines = [line.strip() for line in README.splitlines() if line.startswith("    adaptive-moe ")]
    assert len(lines) >= 6
    for line in lines:
        words = shlex.split(line.partition("   #")[0])[1:]
        command = [word for word in words[:2] if re.fullmatch(r"[a-z]+", word)]
        command = command[:1] if command[0] not in {"experts", "gaps", "router"} else command
        result = CliRunner().invoke(app, [*command, "--help"])
        assert result.exit_code == 0, line


def test_names_of_the_second_block_are_real():
    for name in ("from_pretrained", "train_expert", "generate"):
        assert name in blocks("python")[1]
        assert callable(getattr(AdaptiveMoE, name))


@pytest.mark.parametrize(
    "target", ["demo", "test", "test-all", "check", "format", "golden", "bench"]
)
def test_make_targets_exist(target):
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
