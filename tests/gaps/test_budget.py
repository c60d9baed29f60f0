"""Which queued gap may be trained."""

import pytest

from adaptive_moe.config.settings import GapSettings
from adaptive_moe.gaps.budget import judged_trainings
from adaptive_moe.gaps.detector import GapDetector
from adaptive_moe.gaps.ledger import GapLedger
from adaptive_moe.gaps.states import GapState


@pytest.fixture
def queue(ledger, world):
    detector = GapDetector(ledger, GapSettings(minutes_per_day=60, max_experts=3))

    def add(domain, prompts=5):
        for number in range(prompts):
            gap = detector.observe(world.ask(f"fact {number} of {domain}", domain=domain)).gap
        detector.transition(gap.id, GapState.QUEUED, "asked for", by_person=True)
        return gap.id

    return detector, add


def test_nothing_is_queued_at_first(detector):
    assert detector.next_to_train(experts=0).reason == "no gap is queued"


def test_the_gap_with_most_failing_prompts_goes_first(queue):
    detector, add = queue
    add("few")
    many = add("many", prompts=9)

    assert detector.next_to_train(experts=0).gap.id == many
    assert len(detector.queued()) == 2


def test_one_training_at_a_time(queue):
    detector, add = queue
    first, _ = add("first"), add("second")
    detector.transition(first, GapState.TRAINING, "started")
    assert "is being trained" in detector.next_to_train(experts=0).reason
    detector.transition(first, GapState.EVALUATING, "trained")
    assert detector.next_to_train(experts=0).gap is None


def test_minutes_of_the_last_day_are_counted(queue, clock):
    detector, add = queue
    first, second = add("first"), add("second")
    detector.transition(first, GapState.TRAINING, "started")
    clock.pass_minutes(50)
    detector.transition(first, GapState.EVALUATING, "trained")
    clock.pass_minutes(11)
    detector.transition(first, GapState.REJECTED, "no better")

    refused = detector.next_to_train(experts=0)
    assert refused.gap is None
    assert "61 of 60 training minutes" in refused.reason
    clock.pass_minutes(24 * 60 - 30)
    assert detector.next_to_train(experts=0).gap.id == second
    assert detector.next_to_train(experts=0, other_minutes=40.0).gap is None


def test_a_full_store_takes_only_new_versions(queue):
    detector, add = queue
    new = add("new")

    assert "3 experts are stored" in detector.next_to_train(experts=3).reason
    detector.transition(new, GapState.TRAINING, "started")
    detector.transition(new, GapState.EVALUATING, "trained")
    detector.transition(new, GapState.FILLED, "passed", expert="new")
    detector.transition(new, GapState.QUEUED, "again", by_person=True)
    assert detector.next_to_train(experts=3).gap.id == new


def test_a_store_that_has_grown_to_its_bytes_takes_nothing(ledger, world):
    detector = GapDetector(ledger, GapSettings(store_bytes=1000))
    gap = detector.observe(world.ask("symbol of iron")).gap
    detector.transition(gap.id, GapState.QUEUED, "asked for", by_person=True)

    assert detector.next_to_train(experts=1, stored_bytes=999).gap.id == gap.id
    refused = detector.next_to_train(experts=1, stored_bytes=1000)
    assert refused.gap is None
    assert "1,000 of 1,000 bytes" in refused.reason


def test_an_interrupted_training_is_queued_again(tmp_path, world):
    file = tmp_path / "gaps.sqlite"
    with GapLedger(file) as ledger:
        detector = GapDetector(ledger, GapSettings())
        gap = detector.observe(world.ask("symbol of iron")).gap
        detector.transition(gap.id, GapState.QUEUED, "asked for", by_person=True)
        detector.transition(gap.id, GapState.TRAINING, "started")
    with GapLedger(file) as ledger:
        detector = GapDetector(ledger, GapSettings())
        assert detector.next_to_train(experts=0).gap is None

        assert [found.id for found in detector.requeue_interrupted()] == [gap.id]
        assert detector.next_to_train(experts=0).gap.id == gap.id


def test_what_a_training_took_is_told_when_the_gate_has_spoken(queue, clock):
    detector, add = queue
    gap_id = add("first")
    for step, minutes in (
        (GapState.TRAINING, 9),
        (GapState.REJECTED, 1),  # broken off by an error
        (GapState.QUEUED, 1),
        (GapState.TRAINING, 7),
        (GapState.QUEUED, 1),  # interrupted
        (GapState.TRAINING, 4),
        (GapState.EVALUATING, 2),
        (GapState.QUEUED, 1),  # interrupted at the gate
        (GapState.TRAINING, 5),
        (GapState.EVALUATING, 3),
        (GapState.REJECTED, 1),
    ):
        detector.transition(gap_id, step, "a step", by_person=True)
        clock.pass_minutes(minutes)
    assert judged_trainings(detector.show(gap_id).history) == (8.0,)
