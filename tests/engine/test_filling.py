"""What the worker does by itself: go on after a restart, one at a time, and tell about it."""

import logging
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from filelock import FileLock

from adaptive_moe import AdaptiveMoE
from adaptive_moe.engine.events import ExpertReady, Finished, TrainingFailed, TrainingStep
from adaptive_moe.engine.runtime import LEDGER_FILE
from adaptive_moe.errors import GapError, TrainingError
from adaptive_moe.gaps.detector import GapDetector
from adaptive_moe.gaps.evidence import Observation
from adaptive_moe.gaps.ledger import GapLedger
from adaptive_moe.gaps.states import GapState
from adaptive_moe.models.loading import load_language_model
from adaptive_moe.training import documents
from tests.flows.lighthouses import ISLES, settings, write_material

QUICK = ("training.max_steps=4", "training.evaluate_every=4", "training.guard_prompts=0")


@pytest.fixture(scope="module")
def base_id():
    return load_language_model("pocket").base_id


@pytest.fixture
def earlier(tmp_path, base_id):
    """Leaves a gap about lighthouses in the store as an earlier process would have."""

    def leave(*states, when=None, domain=None):
        (tmp_path / "store").mkdir(exist_ok=True)
        clock = (lambda: when) if when else (lambda: datetime.now(UTC))
        with GapLedger(tmp_path / "store" / LEDGER_FILE, clock=clock) as ledger:
            detector = GapDetector(ledger, settings(tmp_path).gaps, base_id=base_id)
            gap = None
            for light in list(ISLES)[:4]:
                prompt = f"Which keeper does {light} have?"
                vector = np.ones(8)
                seen = Observation(prompt, "?", 0.1, True, domain, vector, "s")
                gap = detector.observe(seen).gap
            for state in states:
                detector.transition(gap.id, state, "earlier", by_person=True)
            return gap.id

    return leave


@pytest.fixture
def opened(tmp_path):
    """A runtime that fills by itself, with material about lighthouses."""
    material = write_material(tmp_path / "material", count=6)

    def start(*overrides, **more):
        chosen = ["gaps.on_verified=train", f"gaps.sources=[{material}]", *QUICK, *overrides]
        return AdaptiveMoE.from_settings(settings(tmp_path, *chosen), **more)

    return start


def steps(moe, gap_id):
    return [str(step.after) for step in moe.gaps.show(gap_id).history]


def steps_of(gap):
    return [step.after for step in gap.history]


def train_a_step(moe):
    while not any(isinstance(event, TrainingStep) for event in moe.gaps.events()):
        assert not moe.gaps.wait(timeout_seconds=0.2)


@pytest.mark.parametrize("left", [["QUEUED"], ["QUEUED", "TRAINING"]], ids=["queued", "killed"])
def test_opening_goes_on_with_what_was_left(earlier, opened, tmp_path, left):
    (tmp_path / "other.md").write_text("# Bread\n\nThe baker of bread is called Anna.\n")
    # A process that died in training two hours ago has not used up the hour a day.
    gap_id = earlier(*map(GapState, left), when=datetime.now(UTC) - timedelta(hours=2))
    with opened(f"gaps.sources=[{tmp_path / 'other.md'}]") as moe:
        assert moe.gaps.wait(timeout_seconds=60.0)
        gap = moe.gaps.show(gap_id)
    assert [str(step.after) for step in gap.history[-2:]] == ["QUEUED", "REJECTED"]
    assert "the material says nothing about" in gap.reason


def test_closing_in_the_midst_keeps_the_gap_queued_and_the_next_runtime_goes_on(earlier, opened):
    gap_id = earlier(GapState.QUEUED)
    endless = ("training.max_steps=100000", "training.evaluate_every=100000")
    with opened(*endless) as moe:
        train_a_step(moe)
        moe.gaps.close()
        assert [gap.id for gap in moe.gaps.queued()] == [gap_id]
        assert steps(moe, gap_id)[-2:] == ["TRAINING", "QUEUED"]
    with opened(*endless) as moe:
        train_a_step(moe)
        assert steps(moe, gap_id)[-2:] == ["QUEUED", "TRAINING"]


def test_without_background_or_train_nothing_starts(earlier, opened):
    gap_id = earlier(GapState.QUEUED)
    for more in ({"background": False}, {}):
        overrides = [] if more else ["gaps.on_verified=ask"]
        with opened(*overrides, **more) as moe:
            assert moe.gaps.wait(timeout_seconds=0.0)
            assert steps(moe, gap_id) == ["QUEUED"]


def test_two_processes_do_not_train_for_one_ledger(earlier, opened, tmp_path, caplog):
    caplog.set_level(logging.INFO, logger="adaptive_moe.engine.gap_worker")
    gap_id = earlier(GapState.QUEUED, GapState.TRAINING)
    other = FileLock(tmp_path / "store" / f"{LEDGER_FILE}.training.lock")
    with other, opened() as moe:
        assert not moe.gaps.wait(timeout_seconds=1.0)
        assert moe.gaps.show(gap_id).state is GapState.TRAINING  # the other's, left alone
        with pytest.raises(GapError, match="another process is training"):
            moe.gaps.fill(gap_id)
    assert "another process is training" in caplog.text


def test_a_stream_tells_what_the_worker_does_without_waiting_for_it(earlier, opened):
    earlier(GapState.QUEUED)
    with opened() as moe:
        events = []
        while not moe.gaps.wait(timeout_seconds=0.0):
            events += moe.stream("What is the capital of France?")
        events += moe.stream("What is the capital of France?")
        later = list(moe.stream("What is the capital of France?"))
    progress = [event.progress.step for event in events if isinstance(event, TrainingStep)]
    (ready,) = (event for event in events if isinstance(event, ExpertReady))
    assert progress == sorted(set(progress))
    assert progress[-1] == 4
    assert ready.status == "rejected"
    assert isinstance(events[-1], Finished)
    assert not any(isinstance(event, TrainingStep | ExpertReady) for event in later)


@pytest.mark.parametrize("failing", ["while looking for material", "in training"])
def test_an_unforeseen_error_rejects_its_gap_and_the_worker_goes_on(
    earlier, opened, tmp_path, monkeypatch, caplog, failing
):
    readings = []

    def read(path, file):
        readings.append(path)
        if failing == "in training" and len(readings) % 2:
            return documents.split_markdown(path.read_text(), file=file)
        raise ZeroDivisionError("an odd file")

    monkeypatch.setitem(documents.READERS, ".odd", read)
    (tmp_path / "material" / "lighthouses.md").rename(tmp_path / "lighthouses.odd")
    gap_ids = [earlier(GapState.QUEUED, domain=domain) for domain in ("first", "second")]
    with opened(f"gaps.sources=[{tmp_path / 'lighthouses.odd'}]") as moe:
        assert moe.gaps.wait(timeout_seconds=60.0)
        gaps = [moe.gaps.show(gap_id) for gap_id in gap_ids]
    assert [gap.state for gap in gaps] == [GapState.REJECTED] * 2
    assert {gap.reason for gap in gaps} == {"ZeroDivisionError: an odd file"}
    assert all(
        ("TRAINING" in map(str, steps_of(gap))) == (failing == "in training") for gap in gaps
    )
    assert "Traceback" in caplog.text


def test_a_missing_file_is_named_and_does_not_cost_a_gap_its_proof(opened, tmp_path):
    absent = tmp_path / "absent.md"
    questions = [f"Which keeper does {light} have?" for light in ISLES]
    with opened(f"gaps.sources=[{absent}]") as moe:

        def ask(some):
            for answer in moe.generate(some):
                moe.gaps.feedback(answer, correct=False)
            assert moe.gaps.wait(timeout_seconds=60.0)
            return max(moe.gaps.list(), key=lambda gap: len(gap.prompts))

        gap = ask(questions[:14])
        assert gap.state is GapState.VERIFIED
        assert f"{absent}: there is no such file" in gap.reason
        assert any(str(absent) in line for line in moe.gaps.explain(gap.id))
        # Further prompts do not try in vain again; once the file is there, they do try.
        assert steps_of(ask(questions[14:15])) == steps_of(gap)
        absent.write_text((tmp_path / "material" / "lighthouses.md").read_text())
        assert GapState.TRAINING in steps_of(ask(questions[15:]))


def test_a_file_without_a_usable_row_rejects_the_gap_by_name(earlier, opened, tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"frage": "a"}\n')
    gap_id = earlier(GapState.QUEUED)
    with opened(f"gaps.sources=[{rows}]") as moe:
        assert moe.gaps.wait(timeout_seconds=60.0)
        gap = moe.gaps.show(gap_id)
    assert gap.state is GapState.REJECTED
    assert "rows.jsonl, row 1: no known keys" in gap.reason


ENDLESS = ("training.max_steps=100000", "training.evaluate_every=100000")


def test_what_is_in_training_or_ordered_is_not_started_again(earlier, opened):
    first, second = (earlier(GapState.QUEUED, domain=domain) for domain in ("first", "second"))
    with opened(*ENDLESS, "gaps.on_verified=ask") as moe:
        moe.gaps.start(first)
        train_a_step(moe)
        moe.gaps.start(second)
        with pytest.raises(GapError, match=rf"gap {first} is in training already; wait .* cancel"):
            moe.gaps.start(first)
        with pytest.raises(GapError, match=rf"gap {second} is queued already; wait .* dismiss"):
            moe.gaps.start(second)
        train_a_step(moe)  # undisturbed
        assert steps(moe, first) == ["QUEUED", "TRAINING"]
        assert moe.gaps.cancel().gap.id == first
        while moe.gaps.show(first).state is GapState.TRAINING:
            moe.gaps.wait(timeout_seconds=0.1)
        assert moe.gaps.start(first).state is GapState.QUEUED  # a person may, after a cancellation


@pytest.mark.slow
def test_what_a_dead_process_left_in_training_may_be_started(earlier, opened):
    gap_id = earlier(GapState.QUEUED, GapState.TRAINING)
    with opened(*ENDLESS, "gaps.on_verified=ask") as moe:
        assert moe.gaps.start(gap_id).state is GapState.QUEUED
        train_a_step(moe)
        assert steps(moe, gap_id) == ["QUEUED", "TRAINING", "QUEUED", "TRAINING"]


@pytest.mark.parametrize(
    "reading",
    [
        pytest.param(1, id="before the training"),
        pytest.param(2, id="in training", marks=pytest.mark.slow),
    ],
)
def test_a_gap_that_somebody_else_dismissed_is_told_and_stays_dismissed(
    earlier, opened, base_id, tmp_path, monkeypatch, reading
):
    gap_id = earlier(GapState.QUEUED)
    readings = []

    def read(path, file):
        readings.append(path)
        if len(readings) == reading:
            with GapLedger(tmp_path / "store" / LEDGER_FILE) as ledger:
                found = GapDetector(ledger, settings(tmp_path).gaps, base_id=base_id)
                found.dismiss(gap_id)
        return documents.split_markdown(path.read_text(), file=file)

    monkeypatch.setitem(documents.READERS, ".odd", read)
    (tmp_path / "material" / "lighthouses.md").rename(tmp_path / "lighthouses.odd")
    with opened(f"gaps.sources=[{tmp_path / 'lighthouses.odd'}]") as moe:
        assert moe.gaps.wait(timeout_seconds=60.0)
        (failed,) = [each for each in moe.gaps.events() if isinstance(each, TrainingFailed)]
        assert moe.gaps.show(gap_id).state is GapState.DISMISSED
    assert f"gap {gap_id} was changed by somebody else" in failed.reason
    assert "stays DISMISSED (dismissed by the user)" in failed.reason
    assert "cannot become" not in failed.reason


def test_a_named_expert_is_trained_for_no_gap(opened, tmp_path):
    with opened("gaps.on_verified=ask") as moe:
        moe.start_expert("lights", tmp_path / "material")
        assert moe.gaps.wait(timeout_seconds=60.0)
        *_, ready = moe.gaps.events()
        assert isinstance(ready, ExpertReady)
        assert (ready.expert, ready.version) == ("lights", 1)
        moe.start_expert("lights", tmp_path / "nowhere.md")
        assert moe.gaps.wait(timeout_seconds=60.0)
        (failed,) = moe.gaps.events()
        assert isinstance(failed, TrainingFailed)
        assert "nowhere.md" in failed.reason
        assert moe.gaps.in_training is None


def test_a_named_training_is_cancelled_and_comes_before_queued_gaps(earlier, opened, tmp_path):
    gap_id = earlier(GapState.QUEUED)
    with opened(*ENDLESS, "gaps.on_verified=ask") as moe:
        moe.start_expert("lights", [tmp_path / "material"])
        train_a_step(moe)
        with pytest.raises(TrainingError, match=r"lights is in training already; wait .* cancel"):
            moe.start_expert("lights", [tmp_path / "material"])
        moe.gaps.start(gap_id)
        moe.start_expert("more", [tmp_path / "material"])
        assert [each.expert for each in moe.gaps.waiting] == ["more"]
        stopped = moe.gaps.cancel()
        assert (stopped.expert, stopped.gap) == ("lights", None)
        moe.gaps.events()
        train_a_step(moe)  # no step of what was cancelled is told any more
        assert moe.gaps.in_training.expert == "more"
        assert moe.gaps.cancel().expert == "more"
        moe.gaps.events()
        train_a_step(moe)
        assert moe.gaps.in_training.gap.id == gap_id
    assert (tmp_path / "store" / "training" / "lights" / "training.safetensors").is_file()


def test_without_a_worker_a_named_expert_is_not_started(opened, tmp_path):
    with (
        opened(background=False) as moe,
        pytest.raises(TrainingError, match="nothing in the background; train lights"),
    ):
        moe.start_expert("lights", tmp_path / "material")
