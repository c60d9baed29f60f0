"""A teacher beside the rules: what it adds, and that nothing is harmed when it fails."""

import json
import re
from datetime import UTC, datetime

import numpy as np
import pytest

from adaptive_moe import AdaptiveMoE
from adaptive_moe.config.loading import load_settings
from adaptive_moe.engine.events import TeacherStep
from adaptive_moe.engine.runtime import LEDGER_FILE
from adaptive_moe.errors import ModelNotFoundError, TeacherError, TrainingInterruptedError
from adaptive_moe.gaps.detector import GapDetector
from adaptive_moe.gaps.evidence import Observation
from adaptive_moe.gaps.ledger import GapLedger
from adaptive_moe.gaps.states import GapState
from adaptive_moe.training.stages import read_stages
from tests.flows.lighthouses import ISLES, write_material
from tests.support.placed_experts import publish_placed
from tests.support.teacher_server import TeacherServer, completion, status
from tests.support.tiny_models import save_tiny

KEY = "sesame-4711"
LIGHTS = list(ISLES.items())[:10]
SETTINGS = (
    "training.max_steps=4",
    "training.evaluate_every=4",
    "training.guard_prompts=0",
    "training.rank=2",
    "training.batch_size=4",
    "training.teacher_model=wise-1",
    "training.teacher_key=TEACHER_KEY",
    "training.teacher_retries=0",
)


def speak(prompt):
    """Asks for every keeper that the passage names, in the form that is wished for."""
    wordings = {
        "questions (": "Who lights the lamp at {0}?",
        "requests (": "Name the one who lights a lamp at {0}.",
        "sentences with a gap": "At {0} the lamp is lit by ___.",
    }
    for words, wording in wordings.items():
        if words in prompt:
            named = re.findall(r"^At (.+) somebody else than (\w+) never", prompt, re.MULTILINE)
            some = [(wording.format(isle), who) for isle, who in named]
            some += [(wording.format(f"{isle} today"), "Nobody") for isle, _ in named]
            return "\n".join(json.dumps({"question": q, "answer": a}) for q, a in some)
    return ""


@pytest.fixture
def server(socket_enabled, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("TEACHER_KEY", KEY)
    server = TeacherServer(speak)
    yield server
    server.close()


@pytest.fixture
def prose(tmp_path):
    """Sentences in which the rules find no facts."""
    file = tmp_path / "lights.md"
    told = [f"At {isle} somebody else than {who} never lights a lamp." for isle, who in LIGHTS]
    file.write_text("# Lights\n\n" + "\n\n".join(told) + "\n")
    return file


@pytest.fixture
def table(tmp_path):
    """One passage, of which the rules make all that is needed."""
    return write_material(tmp_path / "material", count=8) / "lighthouses.md"


@pytest.fixture
def opened(tmp_path):
    def start(*more):
        overrides = [f"store={tmp_path / 'store'}", *SETTINGS, *more]
        return AdaptiveMoE.from_settings(load_settings(overrides=overrides))

    return start


def asking(server):
    return f"training.teacher={server.url}"


@pytest.mark.slow
def test_what_a_service_teaches_is_trained_on_measured_and_told_in_the_manifest(
    opened, server, prose
):
    told = []
    with opened(asking(server)) as moe:
        outcome = moe.train_expert("lights", prose, force=True, listener=told.append)
        manifest = outcome.record.manifest
        text = json.dumps(manifest.model_dump(mode="json"))
    dropped = {"the answer is not in the passage": 3 * 10}
    record = {"name": "service wise-1", "passages": 10, "written": 60, "kept": 30}
    assert manifest.data["teacher"] == {**record, "dropped": dropped} == outcome.teacher
    assert outcome.examples == 30  # ten facts in two forms of three, ten sentences to complete
    assert outcome.held_out + outcome.selection == 10
    assert outcome.report.held_out.examples == outcome.held_out
    stages = {stage.name: stage for stage in read_stages(outcome.record.folder)}
    assert stages["teacher"].left == {"examples": 30}
    assert stages["teacher"].dropped == dropped
    entered = stages["synthesis"].left["examples"] + stages["teacher"].left["examples"]
    assert stages["split"].entered["examples"] == entered
    assert "127.0.0.1" not in text
    assert KEY not in text
    steps = [(event.done, event.passages) for event in told if isinstance(event, TeacherStep)]
    assert steps == [(0, 10), (8, 10), (10, 10)]


def test_a_repeated_training_asks_nobody_and_is_the_same(opened, server, prose, tmp_path):
    with opened(asking(server)) as moe:
        first = moe.prepare_expert(prose)
        asked = len(server.bodies)
        server.close()
        again = moe.prepare_expert(prose)
    assert asked == 10 * 5
    assert again.split.digest == first.split.digest
    assert again.lessons == first.lessons
    kept = [file for file in (tmp_path / "store" / "lessons").rglob("*") if file.is_file()]
    assert len(kept) == asked
    assert all(KEY not in file.read_text() for file in kept)


@pytest.mark.slow
def test_planning_fixed_ranks_and_estimating_ask_nobody_if_the_rules_suffice(
    opened, server, table, prose
):
    with opened(asking(server)) as moe:
        moe.plan_expert(prose)
        assert moe.estimate_expert(table).teacher_passages == 2
        assert server.bodies == []
        moe.plan_expert(table, ranks="gradient")
        assert len(server.bodies) == 10
        estimate = moe.estimate_expert(prose)
    assert (estimate.examples, estimate.teacher_passages) == (30, 0)


def test_a_teacher_that_dies_halfway_leaves_the_old_version_and_whole_replies(
    opened, server, prose, tmp_path
):
    def files():
        return {file for file in (tmp_path / "store").rglob("*") if file.is_file()}

    server.script = [completion("no")] * 45 + [status(500, "gone")] * 5
    with opened(asking(server)) as moe:
        publish_placed(moe, "lights", ["Who lights it?"] * 4, right=1, trials=4)
        serving, before = moe.experts["lights"].expert_id, files()
        with pytest.raises(TeacherError, match="status 500, gone"):
            moe.train_expert("lights", prose, force=True)
        assert moe.experts["lights"].expert_id == serving
        assert len(moe.store.list()) == 1
        added = files() - before
    assert len(added) >= 45 - 1  # but for what was on its way when the first failed
    assert all(json.loads(file.read_text())["reply"] == "no" for file in added)


def test_asking_can_be_cancelled_and_goes_on_where_it_stopped(opened, server, prose):
    told = []
    with opened(asking(server)) as moe:
        with pytest.raises(TrainingInterruptedError, match="while the teacher was asked"):
            moe.prepare_expert(prose, listener=told.append, cancelled=lambda: len(told) == 2)
        assert len(server.bodies) == 40
        moe.prepare_expert(prose)
    assert len(server.bodies) == 50


def test_a_gap_whose_teacher_is_dead_is_rejected_with_the_reason_and_people_are_answered(
    opened, server, prose, tmp_path
):
    (tmp_path / "store").mkdir()
    sources = ("gaps.on_verified=train", f"gaps.sources=[{prose}]", "training.teacher_retries=1")
    with opened() as moe:
        base_id = moe.language_model.base_id
    with GapLedger(tmp_path / "store" / LEDGER_FILE, clock=lambda: datetime.now(UTC)) as ledger:
        detector = GapDetector(ledger, load_settings().gaps, base_id=base_id)
        for isle, _ in LIGHTS[:4]:
            prompt = f"Who lights a lamp at {isle}?"
            seen = Observation(prompt, "?", 0.1, True, None, np.ones(8), "s")
            gap = detector.observe(seen).gap
        detector.transition(gap.id, GapState.QUEUED, "earlier", by_person=True)
    server.script = [status(503, "closed for good", Retry_After="0")] * 1000
    with opened(asking(server), *sources) as moe:
        assert moe.generate("Who is there?", max_new_tokens=2).usage.completion_tokens
        assert moe.gaps.wait(timeout_seconds=60.0)
        found = moe.gaps.show(gap.id)
        assert moe.generate("Who is there?", max_new_tokens=2).usage.completion_tokens
    assert [step.after for step in found.history][-2:] == [GapState.TRAINING, GapState.REJECTED]
    assert f"the teacher at {server.url}/chat/completions does not answer" in found.reason
    assert "status 503, closed for good" in found.reason
    assert KEY not in found.reason


def test_the_base_may_teach_and_where_it_cannot_the_rules_go_on_alone(opened, table, caplog):
    told = []
    few = "training.teacher_max_tokens=4"
    with opened("training.teacher=base", few) as moe:

        def answer(event):  # people are answered in between
            told.append(moe.generate("What is the capital of France?", experts=None).text)

        prepared = moe.prepare_expert(table, listener=answer)
    with opened() as moe:
        rules = moe.prepare_expert(table)
    assert prepared.lessons.teacher == "base"
    assert prepared.lessons.kept == len(prepared.lessons.examples)
    if not prepared.lessons.kept:
        assert "base wrote nothing about 2 passages that can be used" in caplog.text
    assert len(prepared.split.train) == len(rules.split.train) + prepared.lessons.kept
    assert told == ["Paris", "Paris"]


def test_a_model_of_a_folder_teaches_as_it_speaks_and_one_that_is_not_there_is_named(
    opened, table, tmp_path
):
    model = save_tiny("llama", tmp_path / "model")
    few = "training.teacher_max_tokens=8"
    with opened(f"training.teacher=model:{model}", few) as moe:
        prepared = moe.prepare_expert(table)
    assert prepared.lessons.teacher == "model model"  # no path
    with opened(f"training.teacher=model:{tmp_path / 'nowhere'}") as moe:
        with pytest.raises(ModelNotFoundError, match="nowhere"):
            moe.prepare_expert(table)
        assert not (tmp_path / "store" / "training").exists()
