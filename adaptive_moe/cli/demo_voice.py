"""Tells the demo's story to the terminal, and keeps it as plain text with the figures masked."""

import io
import re
from pathlib import Path
from typing import final

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.text import Text

from adaptive_moe.cli.safe_text import clean
from adaptive_moe.cli.terminal import Terminal
from adaptive_moe.errors import ConfigurationError

_WIDTH = 96
_INDENT = 3
_NUMBER = r"[+-]?\d[\d,]*"
_MACHINE = re.compile(
    rf"{_NUMBER}\.\d+(?:e[+-]?\d+)?%?"  # measured: probabilities, nats, seconds
    rf"|{_NUMBER}%"
    rf"|{_NUMBER}(?= (?:MiB|KiB|tokens/s|s\b))"
    r"|\b\d+:\d\d(?::\d\d)?\b"
)
_BLANKS = re.compile(r"(?<=\S)  +(?=\S)")  # columns are as wide as their widest figure


@final
class Voice:
    """Numbered steps and what happens in them."""

    def __init__(self, terminal: Terminal) -> None:
        self.terminal = terminal
        self._record = Console(
            file=io.StringIO(), width=_WIDTH, markup=False, emoji=False, highlight=False
        )
        self._steps = 0

    def step(self, title: str) -> None:
        """Begin the next step."""
        self._steps += 1
        heading = Text(f"\n{self._steps}  {title}", style="bold")
        for console in (self.terminal.out, self._record):
            console.print(heading)

    def say(self, *parts: RenderableType) -> None:
        """Lines of the present step; plain strings are cleaned."""
        shown = Group(*(Text(clean(part)) if isinstance(part, str) else part for part in parts))
        for console in (self.terminal.out, self._record):
            console.print(Padding(shown, (0, 0, 0, _INDENT)))

    def asked(self, question: str) -> None:
        """A question as a person types it."""
        self.say(Text(f"> {clean(question)}", style="bold cyan"))

    def text(self) -> str:
        """The story so far, with what differs between machines replaced by #."""
        file = self._record.file
        assert isinstance(file, io.StringIO)
        lines = (mask_figures(line.rstrip()) for line in file.getvalue().splitlines())
        return "\n".join(lines).strip("\n") + "\n"

    def write(self, path: Path) -> None:
        """Write the masked story; inside a fence for a Markdown file."""
        story = self.text()
        if path.suffix == ".md":
            story = f"# A transcript of `adaptive-moe demo`\n\n```text\n{story}```\n"
        try:
            path.write_text(story, encoding="utf-8")
        except OSError as error:
            raise ConfigurationError(
                f"{path}: cannot be written ({error.strerror}); name another file"
            ) from error


def mask_figures(line: str) -> str:
    """`line` with measured figures as #, and runs of blanks between columns as two."""
    return _BLANKS.sub("  ", _MACHINE.sub("#", line))
