"""Verified gaps and trainings in the background, as `ask` and `chat` tell of them."""

import io
import json
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from adaptive_moe.cli.background import tell_queue
from adaptive_moe.cli.chat_commands import obey
from adaptive_moe.cli.conversation import Conversation
from adaptive_moe.cli.terminal import Terminal
from adaptive_moe.config.settings import GapSettings, Settings
from adaptive_moe.engine.events import (
    ExpertReady,
    Finished,
    GapFound,
    TeacherStep,
    TrainingFailed,
    TrainingStep,
)
from adaptive_moe.engine.gap_worker import InTraining
from adaptive_moe.engine.orders import TrainingEstimate
from adaptive_moe.engine.runtime import LEDGER_FILE
from adaptive_moe.errors import GapError, TrainingError
from adaptive_moe.experts.store import Store
from adaptive_moe.gaps.detector import GapDetector
from adaptive_moe.gaps.evidence import Observation
from adaptive_moe.gaps.ledger import GapLedger
from adaptive_moe.gaps.states import GapState
from adaptive_moe.models.loading import load_language_model
from adaptive_moe.training.events import TrainingProgress
from tests.cli.answers import answer
from tests.cli.running import run
from tests.flows.lighthouses import ISLES, write_material

FRANCE = "What is the capital of France?"
ESTIMATE = TrainingEstimate(800, 9, 75.0, 2**28, 120, 15, 15, "documents", "recall", 4)


def lighthouse_gap(detector, *, correct=None, topic="keeper"):
    for light in list(ISLES)[:8]:
        seen = Observation(
            f"Which {topic} does {light} have?", "?", 0.1, True, topic, np.ones(4), "s"
        )
        noticed = detector.observe(seen)
        if correct is not None:
            detector.outcome(noticed.observation_id, correct=correct, origin="grade")
    return detector.show(noticed.gap.id)


class Speaker:
    """An engine that says the given events, and a gap desk that only writes down what is asked."""

    def __init__(self, *events, verdict=None):
        self.said, self.gaps, self.filled = events, self, []
        self.verdict, self.started = verdict, []

    def stream(self, messages, *, experts, stop):
        yield from self.said
        yield Finished(answer("Paris", experts=(), low=False))

    def events(self):
        return ()

    def estimate(self, gap_id, data):
        if self.verdict is not None:
            raise self.verdict
        return ESTIMATE

    def estimate_expert(self, data):
        return ESTIMATE

    in_training = None

    def check_free(self, name):
        if name in [started for started, _ in self.started]:
            raise TrainingError(f"{name} is in training already")

    def start_expert(self, name, data):
        self.started.append((name, data))
        self.in_training = InTraining(name, None)

    def start(self, gap_id, data):
        self.filled.append((gap_id, data))
        raise GapError("far enough for this test")


@pytest.fixture
def verified():
    with GapLedger(":memory:") as ledger:
        yield lighthouse_gap(GapDetector(ledger, GapSettings()), correct=False)


def reply(tmp_path, speaker, wish="ask", answers="n"):
    """What a person sees at a terminal."""
    screen = io.StringIO()
    console = Console(file=screen, markup=False, emoji=False, highlight=False, width=300)
    gaps = GapSettings(on_verified=wish, sources=(Path("lights.md"),))
    terminal = Terminal(Settings(gaps=gaps), as_json=False, debug=False, out=console, err=console)
    talk = Conversation(terminal, speaker, tmp_path, route="auto", interactive=True)
    talk.reader = lambda question: screen.write(question) and answers
    talk.reply(FRANCE)
    return screen.getvalue()


def test_ask_offers_a_training_with_its_estimate_and_obeys(tmp_path, verified):
    assert verified.state is GapState.VERIFIED
    speaker = Speaker(GapFound(verified))
    seen = reply(tmp_path, speaker, "ask", "n")
    assert "120 examples, at most 800 steps, about 1:15, 256 MiB" in seen
    assert "Start? [y/N]" in seen
    assert speaker.filled == []
    seen = reply(tmp_path, speaker, "ask", "y")
    assert speaker.filled == [(verified.id, [Path("lights.md")])]
    assert "Nothing was trained: far enough" in seen


def test_ask_says_so_when_the_material_is_silent(tmp_path, verified):
    speaker = Speaker(GapFound(verified), verdict=GapError("the material says nothing"))
    seen = reply(tmp_path, speaker, "ask", "y")
    assert "Nothing was trained: the material says nothing" in seen
    assert speaker.filled == []


@pytest.mark.parametrize(("wish", "told"), [("record", "/train NAME PATH"), ("train", "is queued")])
def test_record_only_mentions_and_train_tells_that_it_queued(tmp_path, verified, wish, told):
    speaker = Speaker(GapFound(verified))
    seen = reply(tmp_path, speaker, wish, "y")
    assert "is now verified" in seen
    assert told in seen
    assert "Start?" not in seen
    assert speaker.filled == []


def test_a_training_behind_the_talk_costs_a_line_a_reply(tmp_path):
    steps = [TrainingProgress(step, 80, 1.5, 900.0, 7.0, 1e-3) for step in (38, 39, 40)]
    seen = reply(tmp_path, Speaker(*(TrainingStep("lights", each) for each in steps)))
    assert seen.count("training lights") == 1
    assert "training lights 40/80" in seen
    done = [ExpertReady("lights", 2, "active", ""), ExpertReady("tides", 1, "rejected", "no gain")]
    seen = reply(tmp_path, Speaker(*(TrainingStep("lights", each) for each in steps), *done))
    assert "Expert lights v2 is ready and answers from now on." in seen
    assert "Expert tides v1 did not pass the gate: no gain" in seen
    assert "40/80" not in seen


def test_a_teacher_behind_the_talk_is_told_too(tmp_path):
    steps = [TeacherStep("base", done, 40) for done in (0, 8)]
    assert "teacher base: 8 of 40 passages" in reply(tmp_path, Speaker(*steps))


@pytest.fixture
def store(tmp_path):
    """A store with one queued gap, and an older one that was dismissed after it."""
    base_id = load_language_model("pocket").base_id
    with Store(tmp_path / "store") as store:
        store.create()
    times = iter(datetime(2026, 1, 1, hour, tzinfo=UTC) for hour in range(24))
    now = [next(times)]
    with GapLedger(tmp_path / "store" / LEDGER_FILE, clock=lambda: now[0]) as ledger:
        detector = GapDetector(ledger, GapSettings(), base_id=base_id)
        older = lighthouse_gap(detector, topic="colour")
        now[0] = next(times)
        newer = lighthouse_gap(detector)
        detector.transition(newer.id, GapState.QUEUED, "earlier", by_person=True)
        now[0] = next(times)
        detector.dismiss(older.id)
    return tmp_path / "store"


def states(store):
    done = run("gaps", "list", "--store", store, "--json", "--set", "gaps.on_verified=train")
    return [(gap["id"], gap["state"]) for gap in json.loads(done.stdout)["gaps"]]


def test_gaps_are_listed_by_their_newest_change_first(store):
    assert states(store) == [(1, "DISMISSED"), (2, "QUEUED")]
    out = run("gaps", "list", "--store", store).stdout
    assert out.index("DISMISSED") < out.index("QUEUED")
    assert "changed" in out.splitlines()[0]


@pytest.mark.parametrize("command", ["ask", "chat"])
def test_leaving_keeps_a_queued_gap_and_says_so(store, tmp_path, command):
    material = write_material(tmp_path / "material")
    wishes = ["gaps.on_verified=train", f"gaps.sources=[{material}]", "training.max_steps=99999"]
    options = [word for wish in wishes for word in ("--set", wish)]
    words = ["ask", FRANCE] if command == "ask" else ["chat"]
    done = run(*words, "--store", store, *options, stdin=f"{FRANCE}\n")
    assert done.exit_code == 0, done.stderr
    assert done.stdout.startswith("Paris")
    (line,) = (line for line in done.stderr.splitlines() if "Queued:" in line)
    assert "gap 2 (keeper)" in line
    assert (2, "QUEUED") in states(store)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ([], "/train alone fills it from the material at hand"),
        (["--set", "gaps.on_verified=record"], "/train NAME PATH teaches it"),
    ],
    ids=["nothing set", "record"],
)
def test_chat_asks_unless_told_otherwise(tmp_path, options, told):
    material = write_material(tmp_path / "material")
    options = ["--set", f"gaps.sources=[{material}]", *options]
    lines = [
        word for light in list(ISLES)[:12] for word in (f"Which keeper does {light} have?", "/new")
    ]
    done = run("chat", "--store", tmp_path / "s", *options, stdin="\n".join(lines))
    assert "is now verified" in done.stderr
    assert told in done.stderr
    assert not any((tmp_path / "s").glob("objects/*"))


def talking(tmp_path, desk):
    screen = io.StringIO()
    console = Console(file=screen, markup=False, emoji=False, highlight=False, width=300)
    terminal = Terminal(Settings(), as_json=False, debug=False, out=console, err=console)
    return Conversation(terminal, desk, tmp_path, route="auto", interactive=True), screen


class Desk:
    """A gap desk with a training of which it tells what it is given."""

    def __init__(self, *told, running=None):
        self.told, self.gaps, self.running = list(told), self, running

    def events(self):
        told, self.told = tuple(self.told), []
        return told

    def cancel(self):
        return self.running


class Leaving:
    """A gap desk with two named experts, of which the first is in training."""

    in_training = InTraining("lights", None, (Path("a.md"), Path("b.md")))
    waiting = (InTraining("tides", None, (Path("c.md"),)),)
    closed = False

    def __init__(self):
        self.gaps = self

    def wait(self, timeout_seconds):
        return False

    def close(self):
        self.closed = True

    def queued(self):
        return ()


def test_on_leaving_what_was_named_is_told_with_the_command_that_goes_on(tmp_path):
    desk = Leaving()
    talk, screen = talking(tmp_path, desk)
    tell_queue(talk.terminal, desk)
    assert desk.closed
    assert "lights. /train lights a.md b.md goes on with it" in screen.getvalue()
    assert "tides. /train tides c.md goes on with it" in screen.getvalue()


def test_beside_the_prompt_stands_how_far_a_training_is(tmp_path):
    step = TrainingStep("lights", TrainingProgress(120, 800, 1.5, 900.0, 75.0, 1e-3))
    desk = Desk(step)
    talk, screen = talking(tmp_path, desk)
    assert talk.status() == "lights 120/800 1:15 left"
    assert talk.status() == "lights 120/800 1:15 left"  # also while nothing new is told
    talk.tell_news()
    assert screen.getvalue().count("training lights 120/800") == 1
    desk.told = [TrainingFailed("lights", "its process was killed by signal 9 after step 120")]
    assert talk.status() == "training of lights ended"
    talk.tell_news()
    assert "The training of lights ended: its process was killed by signal 9" in screen.getvalue()
    assert talk.status() == ""


def test_cancel_stops_what_runs_and_says_how_it_goes_on(tmp_path, verified):
    step = TrainingStep("lights", TrainingProgress(120, 800, 1.5, 900.0, 75.0, 1e-3))
    talk, screen = talking(tmp_path, Desk(step, running=InTraining("lights", verified)))
    assert talk.status()
    obey(talk, "/cancel")
    assert f"`gaps fill {verified.id}` goes on from its checkpoint" in screen.getvalue()
    assert talk.status() == ""
    talk, screen = talking(tmp_path, Desk(step, running=InTraining("tides", None, (Path("a.md"),))))
    obey(talk, "/cancel")
    assert "The training of tides stops at its next step; /train tides a.md" in screen.getvalue()
    assert talk.status() == ""
    talk, _ = talking(tmp_path, Desk())
    with pytest.raises(GapError, match="no training runs"):
        obey(talk, "/cancel")


def test_a_named_training_is_agreed_to_and_goes_on_behind_the_talk(tmp_path, verified):
    speaker = Speaker()
    talk, screen = talking(tmp_path, speaker)
    for wish, started in (("n", []), ("y", [("lights", [Path("lights.md")])])):
        talk.reader = lambda question, wish=wish: screen.write(question) and wish
        obey(talk, "/train lights lights.md")
        assert speaker.started == started
    assert "Train lights on lights.md" in screen.getvalue()
    assert "It trains while you talk" in screen.getvalue()
    before = screen.getvalue()
    with pytest.raises(TrainingError, match="lights is in training already"):
        obey(talk, "/train lights lights.md")
    assert screen.getvalue() == before  # nothing was estimated or asked
    obey(talk, "/train tides tides.md")
    assert "It waits for lights. It trains while you talk" in screen.getvalue()
