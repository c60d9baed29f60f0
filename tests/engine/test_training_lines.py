"""What a runtime and its training process say to each other, and what follows from it."""

import math
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from filelock import FileLock

from adaptive_moe.config.settings import GapSettings
from adaptive_moe.engine.events import ExpertReady, TeacherStep, TrainingStep
from adaptive_moe.engine.gap_training import BusyError, GapTraining, has_crashed
from adaptive_moe.engine.training_lines import Evaluating, Failed, Unfit, read_line, write_line
from adaptive_moe.errors import TrainingProcessError
from adaptive_moe.gaps.budget import minutes_trained
from adaptive_moe.gaps.detector import GapDetector
from adaptive_moe.gaps.evidence import Observation
from adaptive_moe.gaps.ledger import GapLedger, Transition
from adaptive_moe.gaps.states import GapState
from adaptive_moe.training.events import TrainingProgress

STEP = TrainingStep("lights", TrainingProgress(3, 800, 1.5, 900.0, 75.0, 1e-3, None, 0.5))


@pytest.mark.parametrize(
    "message",
    [
        STEP,
        TeacherStep("me", 1, 9),
        ExpertReady("lights", 2, "active", "ü\n"),
        Evaluating(),
        Unfit("x"),
        Failed("A", "b"),
    ],
    ids=lambda message: type(message).__name__,
)
def test_a_message_arrives_as_it_was_sent_on_one_line(message):
    line = write_line(message)
    assert line.isascii()
    assert line.endswith("\n")
    assert len(line.splitlines()) == 1
    assert read_line(line) == message


def test_a_line_is_read_as_it_is_written_here():
    line = (
        '{"kind": "TrainingStep", "of": {"expert": "lights", "progress": {"step": 3, "steps": 800,'
        ' "loss": 1.5, "tokens_per_second": 900.0, "eta_seconds": 75.0, "learning_rate": 0.001,'
        ' "held_out_loss": null, "held_out_exact": 0.5}}}\n'
    )
    assert read_line(line) == STEP
    assert write_line(STEP) == line


def test_a_loss_that_is_no_number_arrives():
    progress = TrainingProgress(1, 2, math.nan, 1.0, math.inf, 1e-3)
    arrived = read_line(write_line(TrainingStep("lights", progress)))
    assert math.isnan(arrived.progress.loss)
    assert math.isinf(arrived.progress.eta_seconds)


@pytest.mark.parametrize(
    "line",
    [
        "",
        "Downloading: 40%",
        "[]",
        '{"kind": "Order", "of": {}}',
        '{"kind": "Failed", "of": {"error": "A"}}',
        '{"kind": "ExpertReady", "of": {"expert": "a", "version": "x", "status": ""}}',
    ],
)
def test_any_other_line_is_refused_and_shown(line):
    with pytest.raises(TrainingProcessError, match="what is no message") as caught:
        read_line(line)
    assert repr(line[:20])[:-1] in str(caught.value)


def history(*steps):
    """Transitions from state to state with their reasons."""
    states = [GapState.VERIFIED, *(state for state, _ in steps)]
    return tuple(
        Transition(1, before, after, reason, {}, "2026-01-01T00:00:00+00:00")
        for before, (after, reason) in zip(states, steps, strict=False)
    )


KILLED = "killed by signal 9 after step 120 of 800; it is tried once more from its checkpoint"


@pytest.mark.parametrize(
    ("steps", "crashed"),
    [
        ([], False),
        ([(GapState.QUEUED, "earlier"), (GapState.TRAINING, "")], False),
        ([(GapState.TRAINING, ""), (GapState.QUEUED, KILLED)], True),
        ([(GapState.TRAINING, ""), (GapState.QUEUED, KILLED), (GapState.TRAINING, "")], True),
        ([(GapState.TRAINING, ""), (GapState.EVALUATING, ""), (GapState.QUEUED, KILLED)], True),
        # A person, or new evidence, begins anew after a rejection.
        ([(GapState.TRAINING, ""), (GapState.REJECTED, KILLED), (GapState.QUEUED, "")], False),
        ([(GapState.TRAINING, ""), (GapState.QUEUED, "stopped on request")], False),
    ],
)
def test_a_training_that_ended_without_a_word_is_tried_again_once(steps, crashed):
    assert has_crashed(history(*steps)) is crashed


@pytest.fixture
def detector(tmp_path):
    """A ledger whose clock goes on by a minute with every look at it."""
    minutes = iter(range(10_000))
    start = datetime(2026, 1, 1, tzinfo=UTC)
    with GapLedger(":memory:", clock=lambda: start + timedelta(minutes=next(minutes))) as ledger:
        yield GapDetector(ledger, GapSettings())


@pytest.fixture
def orders(detector, tmp_path):
    locks = {"lock": tmp_path / "a.lock", "process_lock": tmp_path / "b.lock"}
    return GapTraining(detector, (), experts=(), **locks)


def queued_gap(detector):
    seen = Observation("Which keeper does Tarvik have?", "?", 0.1, True, "keeper", np.ones(4), "s")
    gap = detector.observe(seen).gap
    return detector.transition(gap.id, GapState.QUEUED, "earlier", by_person=True)


def crash(orders, gap):
    with pytest.raises(TrainingProcessError) as caught, orders.following(gap, "lights"):
        raise TrainingProcessError("its process was killed by signal 9 after step 120 of 800")
    return str(caught.value)


def test_a_gap_whose_process_was_killed_is_queued_once_and_then_rejected(detector, orders):
    gap = queued_gap(detector)
    assert "step 120 of 800; it is tried once more from its checkpoint" in crash(orders, gap)
    gap = detector.show(gap.id)
    assert gap.state is GapState.QUEUED
    assert f"step 120 of 800; `gaps fill {gap.id}` goes on from there" in crash(orders, gap)
    gap = detector.show(gap.id)
    assert gap.state is GapState.REJECTED
    # What both took counts for the day, unlike what nobody saw the end of.
    assert minutes_trained(gap.history, now=datetime(2026, 1, 1, 12, tzinfo=UTC)) > 0


def test_a_process_that_outlives_its_runtime_keeps_others_from_training(orders, tmp_path):
    with FileLock(tmp_path / "b.lock"), pytest.raises(BusyError), orders.alone():
        pytest.fail("two would train at once")
    with orders.alone(), FileLock(tmp_path / "b.lock", timeout=0.0):
        pass  # a process that the runtime starts gets it
