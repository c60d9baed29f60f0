"""`bench`: lists, refuses, measures, and tells programs and people the same."""

import json

import pytest

from adaptive_moe.experiments import benchmarks
from adaptive_moe.experiments.benchmarks import BENCHMARKS, RUNTIME, Benchmark
from adaptive_moe.experiments.figures import Findings
from tests.cli.running import run
from tests.experiments.canned import EXACT, FAILED, SLOW


@pytest.fixture
def canned_benchmark(monkeypatch):
    """A benchmark that is done at once, and keeps the plan that it was given."""
    plans = []

    def measure(plan, tell):
        plans.append(plan)
        tell("half way")
        return Findings((EXACT, FAILED, SLOW), {"seconds": float("inf")})

    monkeypatch.setattr(benchmarks, "BENCHMARKS", {"canned": Benchmark("Canned.", measure)})
    return plans


def test_without_a_name_it_lists_what_there_is():
    shown = run("bench")
    assert shown.exit_code == 0
    assert all(name in shown.stdout for name in BENCHMARKS)
    listed = json.loads(run("bench", "--json").stdout)["benchmarks"]
    assert [each["name"] for each in listed] == list(BENCHMARKS)
    assert set(RUNTIME) < set(BENCHMARKS)


def test_an_unknown_name_is_refused_with_those_that_are_known():
    shown = run("bench", "speed")
    assert shown.exit_code == 2
    assert "there is no benchmark 'speed'; choose one of generate, parity" in shown.stderr


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--output", "nowhere/out.json"), "nowhere/out.json cannot be written"),
        (("--device", "abacus"), "device 'abacus' is unknown"),
        (("--rounds", "0"), "--rounds"),
    ],
)
def test_mistakes_are_told_before_anything_is_measured(canned_benchmark, words, told):
    shown = run("bench", "canned", *words)
    assert shown.exit_code == 2
    assert told in shown.stderr
    assert canned_benchmark == []


def test_figures_come_as_a_table_and_as_json(canned_benchmark, tmp_path):
    file = tmp_path / "out.json"
    words = ("bench", "canned", "--threads", "1", "--seed", "7", "--quick", "--model", "pocket")
    shown = run(*words, "--json", "--output", file)
    assert shown.exit_code == 0
    found = json.loads(shown.stdout)
    assert found == json.loads(file.read_text())
    assert found["plan"]["seed"] == canned_benchmark[0].seed == 7
    assert (found["plan"]["rounds"], found["plan"]["models"]) == (10, ["pocket"])
    assert [each["verdict"] for each in found["figures"][:2]] == ["met", "failed"]
    assert found["details"] == {"canned": {"seconds": None}}
    people = run(*words).stdout
    assert "choosing among 1,000 / 10,000 experts" in people
    assert "4.200 ms" in people
