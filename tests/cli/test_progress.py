import io

import pytest
from rich.console import Console

from adaptive_moe.cli.progress import TrainingBar, duration, figures
from adaptive_moe.engine.events import ExpertReady, TeacherStep, TrainingStep
from adaptive_moe.training.events import TrainingProgress


def progress(step, **more):
    return TrainingProgress(step, 50, 1.2345, 1200.4, 65.2, 4e-3, **more)


def test_one_step_in_one_line():
    assert figures(progress(10)) == "10/50  loss 1.234  1,200 tokens/s  1:05 left"
    told = figures(progress(10, held_out_loss=0.5, held_out_exact=0.25))
    assert "held out 0.500  25% right" in told


def test_a_training_that_is_done_early_is_at_the_gate():
    done = TrainingProgress(30, 50, 1.2345, 1200.4, 0.0, 4e-3)
    assert figures(done).endswith("at the gate")
    assert figures(progress(50)).endswith("at the gate")


def test_one_that_goes_on_from_a_checkpoint_says_so_once():
    file = io.StringIO()
    with TrainingBar(Console(file=file, width=120)) as bar:
        for step in (21, 22, 50):
            bar.show(TrainingStep("chemistry", progress(step)))
    assert file.getvalue().count("goes on from its checkpoint") == 1


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(0.0, "0:00"), (59.6, "1:00"), (3723.0, "1:02:03"), (float("nan"), "?"), (float("inf"), "?")],
)
def test_durations(seconds, told):
    assert duration(seconds) == told


@pytest.mark.parametrize("terminal", [True, False])
def test_a_training_that_does_not_begin_shows_nothing(terminal):
    file = io.StringIO()
    with TrainingBar(Console(file=file, force_terminal=terminal)):
        pass
    assert file.getvalue() == ""


@pytest.mark.parametrize("terminal", [True, False])
def test_the_bar_shows_every_training_to_its_end(terminal):
    file = io.StringIO()
    console = Console(file=file, force_terminal=terminal, width=120, markup=False)
    with TrainingBar(console) as bar:
        for step in range(1, 51):
            bar.show(TrainingStep("chem\x1b[2Jistry", progress(step)))
        bar.show(ExpertReady("chemistry", 1, "active", ""))
    assert "50/50" in file.getvalue()
    assert "\x1b[2J" not in file.getvalue()
    assert terminal or file.getvalue().count("\n") < 10


@pytest.mark.parametrize("terminal", [True, False])
def test_a_teacher_is_told_by_passages(terminal):
    file = io.StringIO()
    console = Console(file=file, force_terminal=terminal, width=120, markup=False)
    with TrainingBar(console) as bar:
        for done in (0, 12, 40):
            bar.show(TeacherStep("model ti\x1bny", done, 40))
    assert "model tiny: 40 of 40 passages" in file.getvalue()


def test_a_training_that_never_began_leaves_no_empty_line():
    file = io.StringIO()
    with TrainingBar(Console(file=file, force_terminal=False)):
        pass
    assert file.getvalue() == ""
