"""What is told of trainings that go on behind a conversation: quietly, between two replies."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, final

from rich.text import Text

from adaptive_moe.cli.progress import figures, teaching, time_left
from adaptive_moe.cli.safe_text import clean_line
from adaptive_moe.cli.terminal import Terminal

if TYPE_CHECKING:
    from adaptive_moe.engine.events import (
        Event,
        ExpertReady,
        TeacherStep,
        TrainingFailed,
        TrainingStep,
    )
    from adaptive_moe.engine.runtime import AdaptiveMoE


@final
class BackgroundNotes:
    """Keeps the news of a training until there is room for a line."""

    def __init__(self) -> None:
        self._step: TeacherStep | TrainingStep | None = None
        self._latest: TeacherStep | TrainingStep | None = None  # of what runs, told or not
        self._ended: list[ExpertReady | TrainingFailed] = []

    def take(self, event: "Event") -> None:
        """Note a teacher's or a training's step, or its end; other events are left alone."""
        from adaptive_moe.engine.events import (
            ExpertReady,
            TeacherStep,
            TrainingFailed,
            TrainingStep,
        )

        if isinstance(event, TeacherStep | TrainingStep):
            self._step = self._latest = event
        elif isinstance(event, ExpertReady | TrainingFailed):
            self._step = self._latest = None
            self._ended.append(event)

    def status(self) -> str:
        """How far the training is, short enough to stand beside what is being typed."""
        from adaptive_moe.engine.events import TeacherStep

        if self._ended:
            return f"training of {clean_line(self._ended[-1].expert)} ended"
        if self._latest is None:
            return ""
        if isinstance(self._latest, TeacherStep):
            return f"teacher {teaching(self._latest)}"
        progress = self._latest.progress
        done = f"{progress.step}/{progress.steps} {time_left(progress)}"
        return f"{clean_line(self._latest.expert)} {done}"

    def forget(self) -> None:
        """The training that ran was cancelled: nothing more comes of it."""
        self._step = self._latest = None

    def tell(self, terminal: Terminal, news: "Iterable[Event]" = (), *, steps: bool) -> None:
        """One line on stderr for each end and, with `steps`, for how far a training is."""
        for event in news:
            self.take(event)
        for ended in self._ended:
            terminal.err.print(_told(ended))
        if self._step is not None and steps:
            terminal.note(_how_far(self._step))
        self._step = None
        self._ended = []


def tell_queue(terminal: Terminal, moe: "AdaptiveMoE") -> None:
    """On leaving: stop a training in the background, and say that it is not lost."""
    by_itself = terminal.settings.gaps.on_verified == "train"
    if moe.gaps.wait(timeout_seconds=0.0) and not by_itself:
        return
    waiting, running = moe.gaps.waiting, moe.gaps.in_training
    moe.gaps.close()
    named = [each for each in (running, *waiting) if each is not None and each.gap is None]
    for each in {each.expert: each for each in named}.values():
        again = clean_line(" ".join((each.expert, *map(str, each.files))))
        terminal.note(f"Not trained to the end: {each.expert}. /train {again} goes on with it.")
    queued = moe.gaps.queued()
    if queued:
        which = ", ".join(f"gap {gap.id} ({clean_line(gap.label)})" for gap in queued)
        how = "The next `chat` trains it" if by_itself else "/train in the next `chat` goes on"
        terminal.note(f"Queued: {which}. {how}; so does `gaps fill {queued[0].id}`.")


def _how_far(step: "TeacherStep | TrainingStep") -> str:
    from adaptive_moe.engine.events import TeacherStep

    if isinstance(step, TeacherStep):
        return f"teacher {teaching(step)}"
    return f"training {clean_line(step.expert)} {figures(step.progress)}"


def _told(ended: "ExpertReady | TrainingFailed") -> Text:
    from adaptive_moe.engine.events import TrainingFailed

    name, reason = clean_line(ended.expert), clean_line(ended.reason)
    if isinstance(ended, TrainingFailed):
        return Text(f"The training of {name} ended: {reason}", style="yellow")
    name = f"{name} v{ended.version}"
    if ended.status == "active":
        return Text(f"Expert {name} is ready and answers from now on.", style="green")
    return Text(f"Expert {name} did not pass the gate: {reason}", style="dim")
