"""Runs the command line: every error leaves as a short message and an exit code."""

import json
import sys
import traceback
from collections.abc import Sequence
from typing import NoReturn

import typer
from typer.core import TyperCommand, TyperGroup

from adaptive_moe.cli.failures import Failure, describe
from adaptive_moe.cli.safe_text import clean


class Command(TyperCommand):
    """A command whose context is of the public class that our functions are annotated with."""

    context_class = typer.Context


class Group(TyperGroup):
    """The same for a group of commands."""

    context_class = typer.Context


class Program(Group):
    """The root command. A command returns its exit code; None means 0."""

    def main(  # type: ignore[override]  # it always leaves through sys.exit
        self, args: Sequence[str] | None = None, prog_name: str | None = None, **extra: object
    ) -> NoReturn:
        """Run `args` (the process's own words when absent) and exit."""
        words = list(sys.argv[1:] if args is None else args)
        extra["standalone_mode"] = False
        try:
            code = super().main(words, prog_name or "adaptive-moe", **extra)  # type: ignore[arg-type]
            sys.stdout.flush()
        except BrokenPipeError:
            _forget_stdout()
            sys.exit(1)
        except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001  # nothing is above us
            code = report(error, as_json=_given("--json", words), debug=_given("--debug", words))
        sys.exit(code if isinstance(code, int) else 0)


def report(error: BaseException, *, as_json: bool, debug: bool) -> int:
    """Tell about `error` on stderr (and as JSON on stdout) and give the exit code."""
    failure = describe(error)
    if debug and not isinstance(error, typer.TyperException):
        sys.stderr.write(clean("".join(traceback.format_exception(error))))
    show_failure(failure)
    try:
        if as_json:
            sys.stdout.write(json.dumps(failure.to_dict(), ensure_ascii=False) + "\n")
        sys.stdout.flush()
    except OSError:
        _forget_stdout()  # it may be what failed
    return failure.exit_code


def show_failure(failure: Failure) -> None:
    """Write the failure's lines to stderr, the first one in red on a terminal."""
    from rich.console import Console
    from rich.text import Text

    console = Console(stderr=True, markup=False, emoji=False, highlight=False)
    first, *others = failure.lines
    console.print(Text(first, style="red"), soft_wrap=True)
    for line in others:
        console.print(Text(line), soft_wrap=True)


def _given(flag: str, words: Sequence[str]) -> bool:
    end = words.index("--") if "--" in words else len(words)
    return flag in words[:end]


def _forget_stdout() -> None:
    """Nobody can read our output any more: nothing may complain when the process ends."""
    import os

    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
