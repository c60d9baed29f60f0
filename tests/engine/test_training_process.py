"""Trainings in a process of their own: the conversation goes on, whatever becomes of them."""

import os
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from adaptive_moe import AdaptiveMoE
from adaptive_moe.engine.events import ExpertReady, TrainingFailed, TrainingStep
from adaptive_moe.engine.runtime import LEDGER_FILE
from adaptive_moe.errors import GapError
from adaptive_moe.gaps.detector import GapDetector
from adaptive_moe.gaps.evidence import Observation
from adaptive_moe.gaps.ledger import GapLedger
from adaptive_moe.gaps.states import GapState
from adaptive_moe.models.loading import load_language_model
from tests.flows.lighthouses import ISLES, settings, write_material
from tests.support.tiny_models import save_tiny

pytestmark = pytest.mark.slow

FRANCE = "What is the capital of France?"
ENDLESS = (
    "training.max_steps=100000",
    "training.evaluate_every=100000",
    "training.checkpoint_every=5",
)
MOST_SECONDS = 120.0


@pytest.fixture
def queued(tmp_path):
    """A gap about lighthouses, proven and queued, as an earlier process would have left it."""
    (tmp_path / "store").mkdir()
    with GapLedger(tmp_path / "store" / LEDGER_FILE, clock=lambda: datetime.now(UTC)) as ledger:
        base_id = load_language_model("pocket").base_id
        detector = GapDetector(ledger, settings(tmp_path).gaps, base_id=base_id)
        for light in list(ISLES)[:8]:
            seen = Observation(
                f"Which keeper does {light} have?", "?", 0.1, True, "keeper", np.ones(8), "s"
            )
            noticed = detector.observe(seen)
            gap = detector.outcome(noticed.observation_id, correct=False, origin="grade")
        assert gap.state is GapState.VERIFIED
        return detector.transition(gap.id, GapState.QUEUED, "earlier").id


@pytest.fixture
def opened(tmp_path):
    """A runtime that trains in a process, with material about lighthouses."""
    material = write_material(tmp_path / "material")

    def start(*overrides):
        chosen = [
            "gaps.on_verified=train",
            f"gaps.sources=[{material}]",
            "training.worker=process",
            *overrides,
        ]
        return AdaptiveMoE.from_settings(settings(tmp_path, *chosen))

    return start


def children():
    """Processes that train for this one."""
    return [int(stat.parent.name) for stat in Path("/proc").glob("[0-9]*/stat") if is_child(stat)]


def is_child(stat):
    try:
        state, parent = stat.read_text().rpartition(")")[2].split()[:2]
        words = (stat.parent / "cmdline").read_text()
    except OSError:  # it has ended meanwhile
        return False
    return int(parent) == os.getpid() and state != "Z" and "training_main" in words


def events_until(moe, wanted):
    """What the worker tells up to the first event that is wanted."""
    told, until = [], time.monotonic() + MOST_SECONDS
    while not any(map(wanted, told)):
        assert time.monotonic() < until, told
        told += moe.gaps.events()
        time.sleep(0.02)
    return told


def is_step(event):
    return isinstance(event, TrainingStep)


def path_of(moe, gap_id):
    return [str(step.after) for step in moe.gaps.show(gap_id).history]


def test_an_expert_goes_live_while_the_answers_go_on(queued, opened):
    with opened() as moe:
        answered, told = 0, []
        while not moe.gaps.wait(timeout_seconds=0.3):
            assert moe.generate(FRANCE).text == "Paris"
            answered += 1
            told += moe.gaps.events()
        told += moe.gaps.events()
        (ready,) = (event for event in told if isinstance(event, ExpertReady))
        steps = [event.progress.step for event in told if is_step(event)]
        assert answered > 10
        assert steps == sorted(set(steps))
        assert ready.status == "active"
        assert path_of(moe, queued)[-4:] == ["QUEUED", "TRAINING", "EVALUATING", "FILLED"]
        answer = moe.generate("Which keeper does Tarvik have?")
        assert [each.name for each in answer.route.experts] == [ready.expert]
        assert answer.text == "Olen"
    assert children() == []


def test_a_killed_training_is_tried_once_more_and_the_talk_goes_on(queued, opened):
    with opened(*ENDLESS) as moe:
        first = events_until(moe, lambda event: is_step(event) and event.progress.step > 10)
        os.kill(*children(), signal.SIGKILL)
        (failed,) = [each for each in events_until(moe, is_failure) if is_failure(each)]
        assert failed.expert == first[-1].expert
        assert "was killed by signal 9 after step" in failed.reason
        assert "of 100000; it is tried once more from its checkpoint" in failed.reason
        assert moe.generate(FRANCE).text == "Paris"

        again = next(filter(is_step, events_until(moe, is_step)))
        assert again.progress.step > 5  # from the checkpoint, not from the start
        os.kill(*children(), signal.SIGKILL)
        assert moe.gaps.wait(timeout_seconds=MOST_SECONDS)  # and no third time
        assert path_of(moe, queued)[-4:] == ["TRAINING", "QUEUED", "TRAINING", "REJECTED"]
        assert f"`gaps fill {queued}` goes on from there" in moe.gaps.show(queued).reason
        assert moe.generate(FRANCE).text == "Paris"


def is_failure(event):
    return isinstance(event, TrainingFailed)


def test_a_cancelled_training_keeps_its_checkpoint_and_its_gap_the_proof(queued, opened, tmp_path):
    with opened(*ENDLESS) as moe:
        (step, *_) = filter(is_step, events_until(moe, is_step))
        assert moe.gaps.cancel().gap.id == queued
        assert moe.gaps.wait(timeout_seconds=MOST_SECONDS)
        gap = moe.gaps.show(queued)
        assert gap.state is GapState.VERIFIED
        assert "cancelled" in gap.reason
        moe.gaps.react(gap)  # as the next doubtful prompt would
        assert moe.gaps.show(queued).state is GapState.VERIFIED
        assert moe.gaps.cancel() is None
    assert (tmp_path / "store" / "training" / step.expert / "training.safetensors").is_file()


def test_a_person_orders_a_training_and_goes_on_talking(queued, opened, tmp_path):
    quick = ("training.max_steps=4", "training.guard_prompts=0", "gaps.minutes_per_day=0")
    with opened("gaps.on_verified=ask", *quick) as moe:
        assert moe.gaps.wait(timeout_seconds=0.0)  # nothing starts by itself
        assert moe.gaps.start(queued, [tmp_path / "material"]).state is GapState.QUEUED
        told = events_until(moe, lambda event: isinstance(event, ExpertReady))
        assert is_step(told[0])
        assert moe.generate(FRANCE).text == "Paris"
        assert moe.gaps.wait(timeout_seconds=MOST_SECONDS)
        (tmp_path / "other.md").write_text("# Bread\n\nThe baker of bread is called Anna.\n")
        with pytest.raises(GapError, match="says nothing"):
            moe.gaps.start(queued, [tmp_path / "other.md"])


def test_closing_stops_it_at_a_checkpoint_and_the_gap_stays_queued(queued, opened, tmp_path):
    with opened(*ENDLESS) as moe:
        (step, *_) = filter(is_step, events_until(moe, is_step))
        moe.gaps.close()
        assert children() == []
        assert path_of(moe, queued)[-2:] == ["TRAINING", "QUEUED"]
    assert (tmp_path / "store" / "training" / step.expert / "training.safetensors").is_file()


def test_it_ends_with_the_process_that_started_it(queued, opened, tmp_path):
    material = tmp_path / "material"
    options = ["gaps.on_verified=train", "training.worker=process", *ENDLESS]
    # No guard around what it does, as in a notebook: a process must not run this file again.
    script = tmp_path / "script.py"
    script.write_text(
        "from adaptive_moe import AdaptiveMoE\n"
        "from tests.flows.lighthouses import settings\n"
        "from pathlib import Path\n"
        "import time\n"
        f"chosen = {[*options, f'gaps.sources=[{material}]']!r}\n"
        f"moe = AdaptiveMoE.from_settings(settings(Path({str(tmp_path)!r}), *chosen))\n"
        "print('opened', flush=True)\n"
        "while not any(hasattr(each, 'progress') for each in moe.gaps.events()):\n"
        "    time.sleep(0.05)\n"
        "print('stepped', flush=True)\n"
        "time.sleep(600)\n"
    )
    place = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, env=place) as runtime:
        assert runtime.stdout.readline() == b"opened\n"
        assert runtime.stdout.readline() == b"stepped\n"
        runtime.kill()
        assert runtime.stdout.readline() == b""
    with opened(*ENDLESS) as moe:  # waits for the orphan's lock, then goes on from its checkpoint
        (seen, *_) = filter(is_step, events_until(moe, is_step))
        assert path_of(moe, queued)[-3:] == ["TRAINING", "QUEUED", "TRAINING"]
    assert seen.progress.step > 1


def test_what_the_training_fails_with_arrives_and_rejects_the_gap(queued, opened):
    with opened("training.min_examples=100000") as moe:
        assert moe.gaps.wait(timeout_seconds=MOST_SECONDS)
        (failed,) = filter(is_failure, moe.gaps.events())
        gap = moe.gaps.show(queued)
        assert gap.state is GapState.REJECTED
        assert "at least 100000" in gap.reason
        assert failed.reason == gap.reason
        assert moe.generate(FRANCE).text == "Paris"


def test_another_base_under_the_same_name_is_not_trained_on(queued, opened, tmp_path, caplog):
    """The base was changed on disk since it was loaded: what is in memory is trained on."""
    chosen = settings(
        tmp_path,
        "gaps.on_verified=train",
        f"gaps.sources=[{tmp_path / 'material'}]",
        "training.worker=process",
        "training.max_steps=4",
        "training.guard_prompts=0",
    )
    save_tiny("llama", tmp_path / "other")
    other = chosen.base.model_copy(update={"id": str(tmp_path / "other")})
    with opened("gaps.on_verified=record") as first:
        pocket, store = first.language_model, first.store
        moe = AdaptiveMoE(pocket, store, chosen.model_copy(update={"base": other}))
        assert moe.gaps.wait(timeout_seconds=MOST_SECONDS)
        assert any(isinstance(event, ExpertReady) for event in moe.gaps.events())
        assert path_of(moe, queued).count("TRAINING") == 1
        moe.gaps.close()
    assert "trainings run in a thread from now on" in caplog.text
    assert children() == []
