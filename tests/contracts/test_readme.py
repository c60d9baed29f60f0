"""README and docs are run, not believed."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from adaptive_moe import AdaptiveMoE
from adaptive_moe.config.loading import load_settings
from adaptive_moe.pocket.paths import PACKS
from tests.support.tiny_models import save_tiny

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def command_lines():
    return [line.strip() for line in README.splitlines() if line.startswith("    adaptive-moe ")]


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_the_first_python_block_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    exec(compile(blocks("python")[0], "README.md", "exec"), {})  # noqa: S102
    assert capsys.readouterr().out.startswith("Paris base")


def test_the_second_python_block_runs(tmp_path):
    """Only the hub name and the file names are other ones, and the training is short."""
    model, (notes, tickets) = save_tiny("llama", tmp_path / "model"), _runbook(tmp_path)
    code = _replaced(
        blocks("python")[1],
        {
            '"Qwen/Qwen3-0.6B"': f"{str(model)!r}, settings=settings",
            '"docs/"': repr(str(notes)),
            '"answered_tickets.jsonl"': repr(str(tickets)),
        },
    )
    quick = ["max_steps=40", "evaluate_every=20", "learning_rate=0.01", "guard_prompts=0"]
    settings = load_settings(
        overrides=[f"store={tmp_path / 'store'}", *(f"training.{each}" for each in quick)]
    )
    names = {"AdaptiveMoE": AdaptiveMoE, "settings": settings}
    exec(compile(code, "README.md", "exec"), names)  # noqa: S102
    with names["moe"] as moe:
        assert moe.language_model.numerics.quantization == "nf4"
    answer = names["answer"]
    assert names["expert"].is_live
    assert [expert.name for expert in answer.route.experts] == ["runbook"]
    np.testing.assert_allclose(
        answer.attribution.shares.sum(axis=1),
        answer.attribution.routed_log_probability - answer.attribution.base_log_probability,
        atol=1e-4,
    )
    assert Path(answer.attribution.sources[0].file).name == tickets.name


def _runbook(folder):
    """A folder and a file about keys, all of which lie in the vault: learned in a few steps."""
    things = ("signing", "session", "backup", "mail", "proxy", "queue", "deploy", "audit")
    keys = [f"{thing}{which}" for thing in things for which in ("", " test", " old")]
    notes, tickets = folder / "docs", folder / "answered_tickets.jsonl"
    notes.mkdir()
    table = "".join(f"| {key} key | vault |\n" for key in keys)
    (notes / "keys.md").write_text(f"# Keys\n\n| Key | Safe |\n|---|---|\n{table}")
    asked = (
        "How do we rotate the {} key?",
        "How is the {} key rotated?",
        "Who rotates the {} key?",
    )
    rows = [{"prompt": ask.format(key), "response": "vault"} for key in keys for ask in asked]
    tickets.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return notes, tickets


@pytest.mark.slow
def test_the_commands_of_the_readme_run(tmp_path):
    """As they stand, in a shell; the training is short, so the gate may say no (exit code 1)."""
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "ADAPTIVE_MOE_STORE": str(tmp_path / "store"),
        "ADAPTIVE_MOE__TRAINING__MAX_STEPS": "4",
        "ADAPTIVE_MOE__TRAINING__GUARD_PROMPTS": "0",
    }
    told = []
    packs = shlex.quote(str(PACKS))
    for line in (each.replace("adaptive_moe/pocket/packs", packs) for each in command_lines()):
        done = subprocess.run(
            ["/bin/sh", "-c", line], cwd=tmp_path, env=environment, text=True, input="/help\n",
            capture_output=True, check=False,
        )  # fmt: skip
        allowed = {0, 1} if line.startswith("adaptive-moe train ") else {0}
        assert done.returncode in allowed, f"{line}\n{done.stderr}"
        told.append(done.stdout)
    assert "low confidence" in told[0]
    assert "chemistry v1" in told[1]
    assert "/help" in told[3]


def _replaced(text, names):
    for old, new in names.items():
        assert old in text, f"README.md no longer says {old}"
        text = text.replace(old, new)
    return text


@pytest.mark.parametrize(
    "target", ["demo", "test", "test-all", "check", "format", "golden", "transcript", "bench"]
)
def test_make_targets_exist(target):
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


@pytest.mark.parametrize("block", blocks("yaml"), ids=lambda block: block.split()[1])
def test_the_settings_of_the_readme_load(block, tmp_path):
    file = tmp_path / "settings.yaml"
    file.write_text(block)
    load_settings(file)
