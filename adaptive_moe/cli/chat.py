"""`chat`: a conversation with the model and its experts."""

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from adaptive_moe.cli.command import command
from adaptive_moe.cli.options import RouteOption, parse_route
from adaptive_moe.cli.terminal import Terminal

if TYPE_CHECKING:
    from adaptive_moe.cli.conversation import Conversation
    from adaptive_moe.cli.line_editor import LineReader


def register(app: typer.Typer) -> None:
    """Add `chat` to the program."""
    command(app, "chat", "base", "store", "max_new_tokens", "seed", "force_uncalibrated")(chat)


def chat(
    terminal: Terminal,
    route: RouteOption = "auto",
    resume: Annotated[
        bool, typer.Option("--continue", help="Go on with the last conversation.")
    ] = False,
) -> int:
    """Talk; /help lists what else it can do. Without a terminal: a line in, an answer out."""
    parse_route(route)
    terminal = _asking(terminal)
    from adaptive_moe.cli.background import tell_queue
    from adaptive_moe.cli.chat_commands import complete
    from adaptive_moe.cli.chat_log import sessions_folder, state_folder
    from adaptive_moe.cli.conversation import Conversation
    from adaptive_moe.cli.engine import open_engine
    from adaptive_moe.cli.line_editor import open_reader

    interactive = sys.stdin.isatty() and sys.stdout.isatty() and not terminal.as_json
    sessions, history = sessions_folder(), state_folder() / "history"
    with open_engine(terminal, background=True) as moe:
        talk = Conversation(terminal, moe, sessions, route=route, interactive=interactive)
        if resume:
            talk.resume()
        reader = open_reader(
            history,
            words=lambda words: complete(talk, words),
            status=talk.status,
            interactive=interactive,
        )
        talk.reader = reader
        _converse(talk, reader)
        tell_queue(terminal, moe)
    return 0


def _asking(terminal: Terminal) -> Terminal:
    """In a conversation verified gaps are offered for training, unless the settings say else."""
    gaps = terminal.settings.gaps
    if "on_verified" in gaps.model_fields_set:
        return terminal
    return terminal.with_settings(gaps=gaps.model_copy(update={"on_verified": "ask"}))


def _converse(talk: "Conversation", reader: "LineReader") -> None:
    """Read, answer, repeat, until Ctrl-D or /exit."""
    talk.greet()
    while True:
        try:
            if not _take_turn(talk, reader):
                break
        except KeyboardInterrupt:
            if not talk.interactive:
                raise
            talk.terminal.note("Ctrl-D or /exit leaves.")
    talk.farewell()


def _take_turn(talk: "Conversation", reader: "LineReader") -> bool:
    """Read one message or command and act on it; false at the end."""
    from adaptive_moe.cli.chat_commands import obey
    from adaptive_moe.cli.line_editor import read_message

    talk.tell_news()
    try:
        text = read_message(reader)
    except EOFError:
        return False
    with talk.surviving():
        if text.startswith("/"):
            return obey(talk, text)
        if text.strip():
            talk.reply(text)
    return True
