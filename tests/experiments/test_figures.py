"""What is met, what is missed, and what cannot be judged."""

from dataclasses import replace

import pytest

from adaptive_moe.experiments.figures import Figure, reason_of

FIGURE = Figure("no_expert", "no expert", "pocket", 1.01, unit="x bare", rounds=10, target=1.02)


@pytest.mark.parametrize(
    ("change", "contended", "verdict"),
    [
        ({}, False, "met"),
        ({"value": 1.02}, False, "met"),
        ({"value": 1.021}, False, "missed"),
        ({}, True, "contended"),
        ({"rounds": 9}, False, "too few rounds"),
        ({"low": 0.99, "high": 1.03}, False, "undecided"),
        ({"low": 1.005, "high": 1.02}, False, "met"),
        ({"low": 0.99, "high": 1.019}, False, "met"),
        ({"value": 1.04, "low": 1.021, "high": 1.06}, False, "missed"),
        ({"low": 0.99, "high": 1.03}, True, "contended"),
        ({"at_least": True}, False, "missed"),
        ({"at_least": True, "value": 1.02}, False, "met"),
        ({"target": None}, False, ""),
        ({"value": None}, False, "failed"),
    ],
)
def test_a_timing_is_judged_on_an_idle_machine_after_ten_rounds(change, contended, verdict):
    assert replace(FIGURE, **change).verdict(contended=contended) == verdict


def test_what_is_no_timing_is_judged_on_a_busy_machine_too():
    exact = replace(FIGURE, is_timed=False, rounds=None)
    assert exact.verdict(contended=True) == "met"
    assert replace(exact, value=2.0).verdict(contended=True) == "missed"
    assert replace(exact, low=0.5, high=1.5).verdict(contended=True) == "met"


def test_a_failure_says_why_in_one_line():
    reason = reason_of(TypeError("unexpected keyword\nand a long story"))
    failed = Figure.failed("four_mixed", "PEFT X-LoRA", "pocket", reason, is_peer=True)
    assert failed.note == "TypeError: unexpected keyword"
    assert failed.to_dict(contended=False)["verdict"] == "failed"
