"""The commands that need the engine, end to end on the pocket model."""

import json

import pytest

from adaptive_moe.experts.store import Store
from tests.cli.running import run


@pytest.fixture
def store(tmp_path):
    return ("--store", str(tmp_path / "store"))


@pytest.fixture
def material(tmp_path):
    """Forty invented facts, each asked in two ways."""
    names = [f"{start}{end}" for start in ("bro", "kel", "mun", "tas") for end in "abcdefghij"]
    rows = [
        {"prompt": ask.format(name), "response": f"{name[::-1]} town"}
        for name in names
        for ask in ("Where does {} live?", "Which town is the home of {}?")
    ]
    file = tmp_path / "homes.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def values(*words):
    done = run(*words, "--json")
    assert done.exit_code == 0, done.stderr
    return json.loads(done.stdout)


def test_ask_prints_the_answer_and_everything_behind_it(store):
    found = values("ask", "What is the capital of France?", *store)
    assert found["text"] == "Paris"
    assert found["route"]["kind"] == "base"
    assert found["low_confidence"] is False
    assert found["confidence"]["scores"]["mean_entropy"] >= 0
    assert found["attribution"] is None
    out = run("ask", "-", "--why", *store, stdin="What is the capital of France?\n").stdout
    assert out.startswith("Paris\nbase · confident")
    assert "Route" in out


def test_ask_takes_the_settings_of_the_command_line(store):
    found = values("ask", "What is the capital of France?", "--max-new-tokens", "1", *store)
    assert found["usage"]["completion_tokens"] == 1
    assert found["finish_reason"] == "length"


def test_a_plan_spends_the_same_parameters_whatever_the_strategy(store):
    plans = [
        values("train", "x", "--plan-only", "--ranks", ranks, "--rank", "4", *store)
        for ranks in ("fixed", "linear_decay", "mlp_heavy")
    ]
    assert len({plan["parameters"] for plan in plans}) == 1
    assert len(set(plans[1]["ranks"].values())) > 1
    assert "parameters in" in run("train", "x", "--plan-only", *store).stdout


def test_a_rehearsal_writes_nothing(store, material, tmp_path):
    found = values("train", "homes", "--data", material, "--dry-run", *store)
    assert found["steps"] > 0
    assert found["examples"] + found["selection"] + found["held_out"] == 80
    assert not (tmp_path / "store").exists()


@pytest.mark.slow
def test_a_training_runs_to_the_gates_verdict(store, material, tmp_path):
    quick = ("--set", "training.max_steps=4", "--set", "training.guard_prompts=8")
    done = run("train", "homes", "--data", material, "--force", *quick, *store, "--json")
    outcome = json.loads(done.stdout)
    assert outcome["status"] == "quarantine"
    assert done.exit_code == 1
    assert "80 rows" in done.stderr
    assert "4/4" in done.stderr
    (record,) = values("experts", "list", "--all", *store)["experts"]
    assert (record["name"], record["status"]) == ("homes", "quarantine")

    values("experts", "activate", "homes", "--version", "1", *store)
    forced = values("ask", "Where does broa live?", "--route", "homes", *store)
    shares = forced["attribution"]["shares"]
    assert forced["route"]["experts"][0]["name"] == "homes"
    assert len(shares) == len(forced["tokens"])
    shown = run("ask", "Where does broa live?", "--route", "homes", "--why", *store).stdout
    assert "homes.jsonl:" in shown
    assert "log p routed" in shown

    target = tmp_path / "exported"
    values("experts", "export", "homes", target, *store)
    imported = values("experts", "import", "again", target, *store)
    assert imported["status"] == "quarantine"


def test_gaps_are_listed_shown_and_dismissed(store):
    elements = ("iron", "gold", "silver", "tin", "lead", "zinc")
    asked = "".join(f"What is the chemical symbol of {each}?\n/new\n" for each in elements)
    run("chat", *store, stdin=asked)
    (gap, *_) = values("gaps", "list", *store)["gaps"]
    shown = values("gaps", "show", gap["id"], *store)
    assert shown["explanation"]
    assert "symbol" in run("gaps", "show", gap["id"], *store).stdout
    assert values("gaps", "dismiss", gap["id"], *store)["state"] == "DISMISSED"
    assert "dismissed" in run("gaps", "list", *store).stdout.lower()


def test_a_filling_is_rehearsed_and_the_gap_stays_where_it_was(store, tmp_path):
    run("chat", *store, stdin="What is the chemical symbol of iron?\n/bad\n")
    table = "\n".join(f"| element{number} | E{number} |" for number in range(6))
    (tmp_path / "elements.md").write_text(
        f"# Elements\n\n| Element | Chemical symbol |\n|---|---|\n{table}\n| Iron | Fe |\n"
    )
    rehearsal = ("--data", tmp_path / "elements.md", "--dry-run", "--set", "training.batch_size=4")
    assert values("gaps", "fill", "1", *rehearsal, *store)["steps"] == 400
    assert values("gaps", "show", "1", *store)["history"] == []


def test_doctor_finds_a_healthy_house_and_a_broken_one(store, tmp_path):
    found = values("doctor", *store)
    assert found["well"]
    assert {check["name"] for check in found["checks"]} >= {"torch", "store", "base pocket"}
    assert not (tmp_path / "store").exists()
    with Store(tmp_path / "store") as opened:
        opened.create()
    assert values("doctor", *store)["well"]
    (tmp_path / "store" / "index.sqlite").write_bytes(b"no database " * 100)
    done = run("doctor", *store)
    assert done.exit_code == 1
    assert "missing" in done.stdout
