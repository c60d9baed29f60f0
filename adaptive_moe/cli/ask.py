"""`ask`: one question, one answer, and what stands behind it."""

import sys
from typing import Annotated

import typer

from adaptive_moe.cli.command import command
from adaptive_moe.cli.options import RouteOption, parse_route
from adaptive_moe.cli.terminal import Terminal
from adaptive_moe.errors import EmptyPromptError

MAX_PROMPT_CHARACTERS = 4_000_000


def register(app: typer.Typer) -> None:
    """Add `ask` to the program."""
    command(app, "ask", "base", "store", "max_new_tokens", "seed", "force_uncalibrated")(ask)


def ask(
    terminal: Terminal,
    prompt: Annotated[str, typer.Argument(help="The question; - reads it from stdin.")],
    route: RouteOption = "auto",
    why: Annotated[
        bool, typer.Option("--why", help="Also show the reasons, scores and every token's shares.")
    ] = False,
) -> int:
    """Answer one question."""
    experts = parse_route(route)
    text = sys.stdin.read(MAX_PROMPT_CHARACTERS) if prompt == "-" else prompt
    if not text.strip():
        raise EmptyPromptError("the prompt is empty; write a question after `ask`")
    from adaptive_moe.cli.background import tell_queue
    from adaptive_moe.cli.engine import open_engine
    from adaptive_moe.cli.render import answer_parts, why_parts

    with open_engine(terminal) as moe:
        answer = moe.generate(text, experts=experts)
        tell_queue(terminal, moe)
    parts = answer_parts(answer)
    terminal.finish(answer.to_dict(), *parts, *(why_parts(answer) if why else ()))
    return 0
