"""`bench`: measures what this project promises on the machine at hand."""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from adaptive_moe.cli.command import command
from adaptive_moe.cli.safe_text import clean_line
from adaptive_moe.cli.tables import facts_table
from adaptive_moe.cli.terminal import Terminal
from adaptive_moe.errors import ConfigurationError
from adaptive_moe.experiments.benchmarks import BENCHMARKS, find
from adaptive_moe.experiments.plan import Plan

if TYPE_CHECKING:
    from rich.console import RenderableType

    from adaptive_moe.experiments.table import Line

_USUAL = Plan()
_STYLES = {"met": "green", "missed": "red", "failed": "red"}

NameArgument = Annotated[
    str | None, typer.Argument(metavar="NAME", help="Which one; without it, list them.")
]
ModelOption = Annotated[
    list[str] | None,
    typer.Option(
        "--model", metavar="M", help="pocket, random-30m, a folder or a hub id; repeatable."
    ),
]
RoundsOption = Annotated[int, typer.Option("--rounds", metavar="N", min=1, help="At most.")]
MinutesOption = Annotated[
    float | None,
    typer.Option("--minutes", metavar="N", min=0.0, help="For a model's rounds, at most."),
]
ThreadsOption = Annotated[
    int, typer.Option("--threads", metavar="N", min=1, help="Of the processor.")
]
DeviceOption = Annotated[str, typer.Option("--device", metavar="D", help="cpu, cuda, ...")]


def register(app: typer.Typer) -> None:
    """Add `bench` to the program."""
    command(app, "bench", "seed")(bench)


def bench(
    terminal: Terminal,
    name: NameArgument = None,
    model: ModelOption = None,
    rounds: RoundsOption = _USUAL.rounds,
    minutes: MinutesOption = _USUAL.minutes,
    threads: ThreadsOption = _USUAL.threads,
    device: DeviceOption = _USUAL.device,
    quick: Annotated[bool, typer.Option("--quick", help="Leave out what takes minutes.")] = False,
    output: Annotated[
        Path | None, typer.Option("--output", metavar="FILE", help="Also write the JSON there.")
    ] = None,
) -> int:
    """Measure speed, exactness or memory beside the figures to reach.

    A busy machine is told as such and its timings are not judged.
    """
    if name is None:
        _list(terminal)
        return 0
    find(name)
    _check_writable(output)
    plan = Plan(
        models=tuple(model or ()),
        rounds=rounds,
        minutes=minutes,
        seed=terminal.settings.training.seed,
        threads=threads,
        device=device,
        quick=quick,
    )
    found = _conduct(terminal, name, plan)
    if output is not None:
        output.write_text(json.dumps(found, indent=2, allow_nan=False) + "\n")
    terminal.finish(found, *_parts(found))
    return 0


def _list(terminal: Terminal) -> None:
    told = {name: benchmark.summary for name, benchmark in BENCHMARKS.items()}
    values = [{"name": name, "summary": summary} for name, summary in told.items()]
    hint = Text("Run one: adaptive-moe bench NAME", style="dim")
    terminal.finish({"benchmarks": values}, facts_table(told), hint)


def _check_writable(output: Path | None) -> None:
    """Better told now than after minutes of measuring."""
    if output is None:
        return
    if output.is_dir() or not os.access(output.absolute().parent, os.W_OK):
        raise ConfigurationError(
            f"--output {output} cannot be written; name a file in a folder where you may write"
        )


def _conduct(terminal: Terminal, name: str, plan: Plan) -> dict[str, Any]:
    from adaptive_moe.cli.engine import quieten_libraries

    quieten_libraries(terminal)
    from adaptive_moe.experiments.benchmarks import conduct

    with terminal.working(name) as status:
        return conduct([name], plan, lambda text: status.update(clean_line(text)))


def _parts(found: dict[str, Any]) -> "list[RenderableType]":
    from adaptive_moe.experiments.table import busy, figures_of, line_of, notes_of, sections

    contended = bool(found["contended"])
    parts: list[RenderableType] = []
    for section in sections(figures_of(found)):
        parts.append(Text(clean_line(section.row.what), style="bold"))
        if section.row.reach:
            parts.append(Text(clean_line(f"to reach: {section.row.reach}"), style="dim"))
        parts.append(_table([line_of(each, contended=contended) for each in section.figures]))
        parts += [Text(clean_line(note), style="dim") for note in notes_of(section.figures)]
    if not parts:
        parts.append(Text("It compares with nothing; --json and --output tell what was measured."))
    elif contended:
        parts.append(Text(f"Contended: {busy(found)}, so no timing is judged.", style="yellow"))
    return parts


def _table(lines: "list[Line]") -> Table:
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    for _ in range(6):
        table.add_column(overflow="fold")
    for line in lines:
        told = (line.name, line.where, line.measured, line.interval, line.wanted)
        verdict = Text(line.verdict, style=_STYLES.get(line.verdict, "yellow"))
        table.add_row(*map(clean_line, told), verdict)
    return table
