"""Where a command's results, notes and JSON go: people read stdout, programs get one object."""

import json
import sys
from dataclasses import dataclass, replace

from rich.console import Console, RenderableType
from rich.status import Status
from rich.text import Text

from adaptive_moe.cli.safe_text import clean, clean_line
from adaptive_moe.config.settings import Settings


@dataclass(frozen=True, slots=True)
class Terminal:
    """One command's view of the world outside.

    `out` is stdout, or stderr when `as_json`, so that nothing but the JSON object reaches stdout;
    `err` is always stderr. Neither reads markup: what is shown is text, styled by us.
    """

    settings: Settings
    as_json: bool
    debug: bool
    out: Console
    err: Console

    def with_settings(self, **sections: object) -> "Terminal":
        """The same terminal under other settings."""
        return replace(self, settings=self.settings.model_copy(update=sections))

    def show(self, *parts: RenderableType) -> None:
        """Print for a person; a plain string is cleaned first."""
        for part in parts:
            self.out.print(Text(clean(part)) if isinstance(part, str) else part)

    def note(self, text: str) -> None:
        """A dim remark on stderr."""
        self.err.print(Text(clean(text), style="dim"))

    def working(self, text: str) -> Status:
        """A spinner on stderr while something takes its time; use it with `with`."""
        return self.err.status(Text(clean_line(text)))

    def emit(self, value: object) -> None:
        """Write one JSON object on one line of stdout."""
        write_json(value)

    def finish(self, value: object, *parts: RenderableType) -> None:
        """The command's result: `value` for a program, `parts` for a person."""
        if self.as_json:
            self.emit(value)
        else:
            self.show(*parts)


def open_terminal(settings: Settings, *, as_json: bool, debug: bool) -> Terminal:
    """The terminal of this process."""
    err = _console(stderr=True)
    return Terminal(settings, as_json, debug, err if as_json else _console(stderr=False), err)


def write_json(value: object) -> None:
    """One line of ASCII JSON on stdout; keys in the order given, non-finite numbers refused."""
    sys.stdout.write(json.dumps(value, allow_nan=False) + "\n")
    sys.stdout.flush()


def _console(*, stderr: bool) -> Console:
    return Console(stderr=stderr, markup=False, emoji=False, highlight=False)
