"""`demo`: the whole story on the pocket model, offline, in about two minutes."""

import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from adaptive_moe.cli.command import command
from adaptive_moe.cli.terminal import Terminal
from adaptive_moe.errors import TrainingInterruptedError

if TYPE_CHECKING:
    from adaptive_moe.cli.demo_voice import Voice
    from adaptive_moe.engine.runtime import AdaptiveMoE


def register(app: typer.Typer) -> None:
    """Add `demo` to the program."""
    command(app, "demo", "seed")(demo)


def demo(
    terminal: Terminal,
    transcript: Annotated[
        Path | None,
        typer.Option("--transcript", metavar="FILE", help="Also write the text, figures masked."),
    ] = None,
) -> int:
    """Watch it notice that it does not know, learn, and answer.

    Everything happens in a temporary folder, with the model that comes with the package.
    """
    started = time.perf_counter()
    from adaptive_moe.cli.demo_voice import Voice
    from adaptive_moe.cli.engine import open_engine

    voice = Voice(terminal)
    with tempfile.TemporaryDirectory(prefix="adaptive-moe-demo-") as folder:
        base = type(terminal.settings.base)()
        gaps = terminal.settings.gaps.model_copy(update={"on_verified": "record", "ledger": None})
        own = terminal.with_settings(base=base, gaps=gaps, store=Path(folder) / "experts")
        with open_engine(own) as moe:
            figures = _told(voice, moe, started)
    if transcript is not None:
        voice.write(transcript)
    if terminal.as_json:
        from adaptive_moe.engine.events import to_json

        terminal.emit(to_json(figures))
    return 0 if figures["well"] else 1


def _told(voice: "Voice", moe: "AdaptiveMoE", started: float) -> dict[str, object]:
    from adaptive_moe.cli.demo_story import tell

    try:
        return tell(voice, moe, started)
    except TrainingInterruptedError:
        raise TrainingInterruptedError(
            "the demo was stopped; it keeps nothing, so the next one begins anew"
        ) from None
