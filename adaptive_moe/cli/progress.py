"""A training's live line: passages taught, then step, loss, tokens per second, time left."""

import time
from types import TracebackType
from typing import TYPE_CHECKING, final

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.text import Text

from adaptive_moe.cli.safe_text import clean_line

if TYPE_CHECKING:
    from adaptive_moe.engine.events import ExpertReady, TeacherStep, TrainingStep
    from adaptive_moe.training.events import TrainingProgress

_QUIET_SECONDS = 5.0  # between lines where there is no terminal to redraw


@final
class TrainingBar:
    """Shows TeacherStep and TrainingStep events: a bar on a terminal, else now and then a line."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[figures]}", markup=False),
            console=console,
            refresh_per_second=4,
        )
        self._task: TaskID | None = None
        self._told = 0.0
        self._has_begun = False

    def __enter__(self) -> "TrainingBar":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._task is not None:  # without a bar rich would still end its line
            self._progress.stop()

    def show(self, event: "TeacherStep | TrainingStep | ExpertReady") -> None:
        """The listener to hand to a training."""
        from adaptive_moe.engine.events import TeacherStep, TrainingStep

        if isinstance(event, TeacherStep):
            self._tell("teacher", (event.done, event.passages), teaching(event))
        elif isinstance(event, TrainingStep):
            if not self._has_begun and event.progress.step > 1:
                self.say("It goes on from its checkpoint.")
            self._has_begun = True
            done = event.progress.step, event.progress.steps
            self._tell(clean_line(event.expert), done, figures(event.progress))

    def say(self, text: str) -> None:
        """A line above the bar."""
        self._console.print(Text(text), soft_wrap=True)

    def _tell(self, name: str, done: tuple[int, int], told: str) -> None:
        if self._console.is_terminal:
            self._redraw(name, done, told)
        elif time.monotonic() - self._told >= _QUIET_SECONDS or done[0] == done[1]:
            self._told = time.monotonic()
            self._console.print(Text(f"{name} {told}"), soft_wrap=True)

    def _redraw(self, name: str, done: tuple[int, int], told: str) -> None:
        if self._task is None:
            self._progress.start()
            self._task = self._progress.add_task(name, total=done[1], figures="")
        self._progress.update(
            self._task, description=name, completed=done[0], total=done[1], figures=told
        )


def teaching(step: "TeacherStep") -> str:
    """How far a teacher is, in one line."""
    return f"{clean_line(step.teacher)}: {step.done:,} of {step.passages:,} passages"


def figures(progress: "TrainingProgress") -> str:
    """One training step in one line."""
    told = [
        f"{progress.step}/{progress.steps}",
        f"loss {progress.loss:.3f}",
        *([] if progress.held_out_loss is None else [f"held out {progress.held_out_loss:.3f}"]),
        *([] if progress.held_out_exact is None else [f"{progress.held_out_exact:.0%} right"]),
        f"{progress.tokens_per_second:,.0f} tokens/s",
        time_left(progress),
    ]
    return "  ".join(told)


def time_left(progress: "TrainingProgress") -> str:
    """How long the steps will take that are left; it may be done before all are taken."""
    if progress.step == progress.steps or not progress.eta_seconds:
        return "at the gate"
    return f"{duration(progress.eta_seconds)} left"


def duration(seconds: float) -> str:
    """Seconds as 0:07 or 1:02:03; ? when they cannot be told."""
    if not 0 <= seconds < 10**7:
        return "?"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
