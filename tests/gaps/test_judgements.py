"""What was said of single answers, as it is kept for certificates and for experts' records."""

from dataclasses import replace

import pytest

from adaptive_moe.config.settings import GapSettings
from adaptive_moe.gaps.detector import GapDetector
from adaptive_moe.gaps.evidence import Part
from adaptive_moe.gaps.ledger import GapLedger

PROMISE = "the promise"
ONE = {("one", "a"): 1.0}  # an expert that answered alone, in a cluster of its domain


@pytest.fixture
def judge(detector):
    """Observe an answer, and say what of it."""

    def act(observation, *verdicts, origin="feedback"):
        noticed = detector.observe(observation)
        for correct in verdicts:
            detector.outcome(noticed.observation_id, correct=correct, origin=origin)
        return noticed.observation_id

    return act


def served(world, prompt, parts, **more):
    shares = tuple(Part(expert, share, cluster) for (expert, cluster), share in parts.items())
    return replace(world.ask(prompt, **more), parts=shares)


def trusted(world, prompt, p_correct=0.9, *, low=False, remoteness=0.5):
    asked = world.ask(prompt, low=low, p_correct=p_correct)
    return replace(asked, certificate=PROMISE, remoteness=remoteness)


def of_experts(ledger):
    with ledger.reading():
        return ledger.judgements.of_experts("")


def of_trusted(ledger, certificate=PROMISE):
    with ledger.reading():
        return ledger.judgements.of_trusted(certificate, least=0.8)


def test_answers_count_for_an_expert_by_cluster_and_shared_ones_by_their_shares(
    ledger, world, judge
):
    judge(served(world, "symbol of iron", {("one", "a"): 1.0}), True)
    judge(served(world, "symbol of gold", {("one", "a"): 1.0}), False)
    judge(served(world, "symbol of tin", {("one", "b"): 0.25, ("two", "a"): 0.75}), True)
    judge(served(world, "symbol of lead", {("two", "a"): 1.0}))

    assert of_experts(ledger) == {
        "one": {"a": (2.0, 1.0), "b": (0.25, 0.25)},
        "two": {"a": (0.75, 0.75)},
    }


def test_a_prompt_counts_once_for_an_expert_and_its_newest_verdict_counts(ledger, world, judge):
    for correct in (False, False, True):
        judge(served(world, "What is the symbol of iron?", ONE, low=False), correct)

    assert of_experts(ledger) == {"one": {"a": (1.0, 1.0)}}


@pytest.mark.parametrize("low", [True, False])
def test_a_repeated_prompt_is_held_against_who_answered_it_this_time(ledger, world, judge, low):
    judge(served(world, "symbol of iron", {("old", "a"): 1.0}, low=low), True)
    judge(served(world, "Symbol of iron?", {("new", "a"): 1.0}, low=low), False)

    assert of_experts(ledger) == {
        "old": {"a": (1.0, 1.0)},
        "new": {"a": (1.0, 0.0)},
    }


def test_a_consistency_check_is_no_verdict_and_feedback_does_not_overrule_a_grade(
    ledger, world, detector, judge
):
    seen = judge(served(world, "symbol of iron", ONE), False, origin="consistency")
    assert of_experts(ledger) == {}
    detector.outcome(seen, correct=True, origin="grade")
    detector.outcome(seen, correct=False, origin="feedback")
    assert of_experts(ledger) == {"one": {"a": (1.0, 1.0)}}


def test_of_trusted_answers_those_under_the_certificate_count(ledger, world, judge):
    judge(trusted(world, "symbol of iron"), False)
    judge(trusted(world, "symbol of gold"), True)
    judge(trusted(world, "And what about it?"), False)  # no evidence of a gap, but an error
    judge(trusted(world, "symbol of tin", low=True), False)
    judge(trusted(world, "symbol of lead", 0.7), False)  # trusted for another reason
    judge(trusted(world, "symbol of zinc"))
    judge(world.ask("symbol of argon", low=False, p_correct=0.9), False)

    assert of_trusted(ledger) == (3, 2)
    assert of_trusted(ledger, "another promise") == (0, 0)


def test_prompts_beyond_the_edge_are_far_and_each_counts_once(ledger, world, judge):
    for prompt, remoteness in (("iron", 0.9), ("gold", 1.0), ("tin", 1.1), ("Tin?", 1.1)):
        judge(trusted(world, f"symbol of {prompt}", remoteness=remoteness))

    with ledger.reading():
        assert ledger.judgements.far_prompts(PROMISE) == (3, 1)


def test_what_was_taken_back_stays_so_for_the_first_reason(tmp_path):
    with GapLedger(tmp_path / "gaps.sqlite") as ledger, ledger.transaction():
        assert ledger.judgements.void(PROMISE) is None
        for why in ("the first", "the second"):
            ledger.judgements.take_back(PROMISE, why=why)
    with GapLedger(tmp_path / "gaps.sqlite") as ledger, ledger.reading():
        assert ledger.judgements.void(PROMISE) == "the first"
        assert ledger.judgements.void("another promise") is None


def test_verdicts_of_one_process_are_read_by_another(tmp_path, world):
    file = tmp_path / "gaps.sqlite"
    with GapLedger(file) as first, GapLedger(file) as second:
        detector = GapDetector(first, GapSettings())
        noticed = detector.observe(served(world, "symbol of iron", ONE))
        detector.outcome(noticed.observation_id, correct=False, origin="feedback")

        assert of_experts(second) == {"one": {"a": (1.0, 0.0)}}
