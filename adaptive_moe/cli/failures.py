"""Turns whatever went wrong into at most three lines and an exit code: the one place for it."""

import errno
from dataclasses import dataclass

import typer

from adaptive_moe.cli.safe_text import clean, clean_line
from adaptive_moe.errors import (
    AdaptiveMoEError,
    InsufficientMemoryError,
    TrainingError,
    TrainingInterruptedError,
)

FAILED = 1  # we could not do it, or something is not sound
WRONG_INPUT = 2  # the user can mend it: other input, more room, or the same command once more
INTERRUPTED = 130  # broken off by Ctrl-C, with nothing to go on from
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
_LINES = 3
_CHARACTERS = 600


@dataclass(frozen=True, slots=True)
class Failure:
    """What is told about an error: its class, the message in at most three lines, the exit code."""

    type: str
    message: str
    exit_code: int
    hint: str = ""

    @property
    def lines(self) -> tuple[str, ...]:
        """What a person reads on stderr."""
        room = _LINES - 1 if self.hint else _LINES
        told = [clean_line(line) for line in self.message.splitlines() if clean_line(line)]
        if len(told) > room:
            told = [*told[: room - 1], " ".join(told[room - 1 :])]
        shown = [_shorten(line) for line in told] or [self.type]
        return (f"Error: {shown[0]}", *shown[1:], *([self.hint] if self.hint else ()))

    def to_dict(self) -> dict[str, object]:
        """What a program reads on stdout."""
        return {"error": {"type": self.type, "message": clean(self.message)}}


def describe(error: BaseException) -> Failure:
    """The failure that stands for `error`."""
    if isinstance(error, KeyboardInterrupt | typer.Abort):
        return Failure("Interrupted", "stopped by Ctrl-C", INTERRUPTED)
    if isinstance(error, AdaptiveMoEError):
        return Failure(type(error).__name__, str(error), _exit_code(error))
    if isinstance(error, typer.TyperException):
        return _describe_usage(error)
    if isinstance(error, OSError) and error.errno in _DISK_FULL:
        where = error.filename or "writing"
        told = f"{where}: the disk is full; free some space and run it again"
        return Failure("StoreError", told, WRONG_INPUT)
    message = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    hint = "This was not expected; run it again with --debug to see where it happened."
    return Failure(type(error).__name__, clean_line(message), FAILED, hint)


def _exit_code(error: AdaptiveMoEError) -> int:
    if isinstance(error, TrainingInterruptedError):
        return WRONG_INPUT  # the same command goes on from the checkpoint
    if isinstance(error, TrainingError | InsufficientMemoryError):
        return FAILED
    return WRONG_INPUT


def _describe_usage(error: typer.TyperException) -> Failure:
    """A misspelt command or option; the context knows which command was meant."""
    context = getattr(error, "ctx", None)
    path = getattr(context, "command_path", "")
    hint = f"Try: {path} --help" if path else ""
    return Failure("UsageError", error.format_message(), error.exit_code, hint)


def _shorten(line: str) -> str:
    return line if len(line) <= _CHARACTERS else line[: _CHARACTERS - 1] + "…"
