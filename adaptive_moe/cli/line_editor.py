"""Reads what a person types: with history and completion where that can be had."""

import importlib.util
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from adaptive_moe.cli.chat_log import private_file

if TYPE_CHECKING:
    from prompt_toolkit.completion import CompleteEvent, Completion
    from prompt_toolkit.document import Document

_FENCE = '"""'
_PROMPT = "> "
_MORE = "… "
_REFRESH_SECONDS = 1.0


LineReader = Callable[[str], str]
"""The next line, after showing the prompt; EOFError at the end, KeyboardInterrupt at Ctrl-C."""


def read_message(read_line: LineReader) -> str:
    """One message: a line, lines joined by trailing backslashes, or lines between triple quotes."""
    line = read_line(_PROMPT)
    if line.lstrip().startswith(_FENCE):
        return _read_fenced(line.lstrip().removeprefix(_FENCE), read_line)
    lines = [line]
    while lines[-1].endswith("\\"):
        lines[-1] = lines[-1][:-1]
        try:
            lines.append(read_line(_MORE))
        except EOFError:
            break
    return "\n".join(lines)


def _read_fenced(first: str, read_line: LineReader) -> str:
    lines = [first]
    while not lines[-1].rstrip().endswith(_FENCE):
        try:
            lines.append(read_line(_MORE))
        except EOFError:
            break
    text = "\n".join(lines).rstrip()
    return text.removesuffix(_FENCE).strip("\n")


def open_reader(
    history: Path,
    *,
    words: Callable[[Sequence[str]], Iterable[str]],
    status: Callable[[], str],
    interactive: bool,
) -> LineReader:
    """The best reader there is; `words` completes the words typed so far, the last one unfinished.

    What `status` says stands at the right of what is typed, where the reader can do that, and is
    asked for anew every second. Not interactive: plain lines of stdin, no prompt.
    """
    if not interactive:
        return _read_stdin
    if importlib.util.find_spec("prompt_toolkit") is None:
        return input
    return _prompt_toolkit(private_file(history), words, status)


def _read_stdin(_prompt: str) -> str:
    line = sys.stdin.readline()
    if not line:
        raise EOFError
    return line.rstrip("\r\n")


def _prompt_toolkit(
    history: Path, words: Callable[[Sequence[str]], Iterable[str]], status: Callable[[], str]
) -> LineReader:
    from prompt_toolkit import PromptSession
    from prompt_toolkit.completion import Completer, Completion
    from prompt_toolkit.history import FileHistory

    class Words(Completer):
        def get_completions(
            self, document: "Document", complete_event: "CompleteEvent"
        ) -> "Iterator[Completion]":
            typed = document.text_before_cursor
            if not typed.startswith("/"):
                return
            parts = typed.split(" ")
            for word in words(parts):
                yield Completion(word, start_position=-len(parts[-1]))

    session: PromptSession[str] = PromptSession(
        history=FileHistory(str(history)),
        completer=Words(),
        complete_while_typing=False,
        rprompt=status,
        refresh_interval=_REFRESH_SECONDS,
    )
    return session.prompt
