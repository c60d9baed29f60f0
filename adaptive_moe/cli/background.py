"""What is told of trainings that go on behind a conversation: quietly, between two replies."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, final

from rich.text import Text

from adaptive_moe.cli.progress import figures, teaching
from adaptive_moe.cli.safe_text import clean_line
from adaptive_moe.cli.terminal import Terminal

if TYPE_CHECKING:
    from adaptive_moe.engine.events import Event, ExpertReady, TeacherStep, TrainingStep
    from adaptive_moe.engine.runtime import AdaptiveMoE


@final
class BackgroundNotes:
    """Keeps the news of a training until there is room for a line."""

    def __init__(self) -> None:
        self._step: TeacherStep | TrainingStep | None = None
        self._ready: list[ExpertReady] = []

    def take(self, event: "Event") -> None:
        """Note a teacher's or a training's step, or its verdict; other events are left alone."""
        from adaptive_moe.engine.events import ExpertReady, TeacherStep, TrainingStep

        if isinstance(event, TeacherStep | TrainingStep):
            self._step = event
        elif isinstance(event, ExpertReady):
            self._step = None
            self._ready.append(event)

    def tell(self, terminal: Terminal, news: "Iterable[Event]" = (), *, steps: bool) -> None:
        """One line on stderr for each verdict and, with `steps`, for how far a training is."""
        for event in news:
            self.take(event)
        for ready in self._ready:
            terminal.err.print(_verdict(ready))
        if self._step is not None and steps:
            terminal.note(_how_far(self._step))
        self._step = None
        self._ready = []


def tell_queue(terminal: Terminal, moe: "AdaptiveMoE") -> None:
    """On leaving: stop a training in the background, and say that its gap is not lost."""
    if terminal.settings.gaps.on_verified != "train":
        return
    moe.gaps.close()
    queued = moe.gaps.queued()
    if queued:
        which = ", ".join(f"gap {gap.id} ({clean_line(gap.label)})" for gap in queued)
        terminal.note(
            f"Queued: {which}. The next `chat` trains it; so does `gaps fill {queued[0].id}`."
        )


def _how_far(step: "TeacherStep | TrainingStep") -> str:
    from adaptive_moe.engine.events import TeacherStep

    if isinstance(step, TeacherStep):
        return f"teacher {teaching(step)}"
    return f"training {clean_line(step.expert)} {figures(step.progress)}"


def _verdict(ready: "ExpertReady") -> Text:
    name = f"{clean_line(ready.expert)} v{ready.version}"
    if ready.status == "active":
        return Text(f"Expert {name} is ready and answers from now on.", style="green")
    return Text(f"Expert {name} did not pass the gate: {clean_line(ready.reason)}", style="dim")
