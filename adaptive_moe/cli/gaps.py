"""`gaps`: what the model was found not to know, and what became of it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from adaptive_moe.cli.command import command
from adaptive_moe.cli.group import group
from adaptive_moe.cli.safe_text import clean_line
from adaptive_moe.cli.stored import check_store
from adaptive_moe.cli.tables import facts_table, gaps_table
from adaptive_moe.cli.terminal import Terminal

if TYPE_CHECKING:
    from rich.console import RenderableType

    from adaptive_moe.gaps.ledger import Gap

app = group("The knowledge gaps found so far: list, inspect, fill, dismiss.")

GapArgument = Annotated[int, typer.Argument(metavar="ID", help="The gap's number.")]


@command(app, "list", "base", "store")
def list_gaps(terminal: Terminal) -> int:
    """List the gaps of this base."""
    from adaptive_moe.cli.engine import open_engine

    check_store(terminal.settings)
    with open_engine(terminal) as moe:
        found = moe.gaps.list()
    values = {"gaps": [gap_values(gap) for gap in found]}
    empty = "No gaps. Prompts answered with low confidence become evidence for them."
    terminal.finish(values, gaps_table(found) if found else empty)
    return 0


@command(app, "show", "base", "store")
def show(terminal: Terminal, gap_id: GapArgument) -> int:
    """Show one gap: its evidence, its history, and what is still missing."""
    from adaptive_moe.cli.engine import open_engine

    check_store(terminal.settings)
    with open_engine(terminal) as moe:
        gap = moe.gaps.show(gap_id)
        explained = tuple(moe.gaps.explain(gap_id))
    values = gap_values(gap) | {"explanation": list(explained)}
    terminal.finish(values, *gap_parts(gap, explained))
    return 0


@command(app, "fill", "base", "store", "ranks", "rank", "seed")
def fill(
    terminal: Terminal,
    gap_id: GapArgument,
    data: Annotated[
        list[Path] | None,
        typer.Option(
            "--data", metavar="PATH", help="Material; absent: the settings' gaps.sources."
        ),
    ] = None,
) -> int:
    """Train an expert for a gap and put it before the gate."""
    from adaptive_moe.cli.training_view import run_training

    check_store(terminal.settings)
    return run_training(
        terminal,
        lambda moe, listener, cancelled: moe.gaps.fill(
            gap_id, data, listener=listener, cancelled=cancelled
        ),
    )


@command(app, "dismiss", "base", "store")
def dismiss(terminal: Terminal, gap_id: GapArgument) -> int:
    """Close a gap that nobody wants filled."""
    from adaptive_moe.cli.engine import open_engine

    check_store(terminal.settings)
    with open_engine(terminal) as moe:
        moe.gaps.dismiss(gap_id)
        gap = moe.gaps.show(gap_id)
    terminal.finish(gap_values(gap), f"Gap {gap.id} ({gap.label}) is {str(gap.state).lower()}.")
    return 0


def gap_values(gap: "Gap") -> dict[str, object]:
    """A gap as JSON values."""
    from adaptive_moe.engine.events import to_json

    names = (
        "id", "state", "label", "terms", "prompts", "failures", "successes", "e_value",
        "lower_bound", "p_correct_mean", "expert", "reason", "opened", "changed", "domain",
        "history",
    )  # fmt: skip
    return {name: to_json(getattr(gap, name)) for name in names}


def gap_parts(gap: "Gap", explained: tuple[str, ...]) -> tuple["RenderableType", ...]:
    """A gap for a person."""
    from rich.text import Text

    checked = gap.failures + gap.successes
    facts = {
        "gap": f"{gap.id}, {gap.state}",
        "about": gap.label,
        "terms": ", ".join(gap.terms),
        "evidence": f"{len(gap.prompts)} distinct prompts; {gap.failures} of {checked} checked "
        f"answers wrong; at least {gap.lower_bound:.0%} are; e-value {gap.e_value:.3g}",
        "expert": gap.expert or "",
        "reason": gap.reason,
        "opened": gap.opened,
        "changed": gap.changed,
    }
    return (
        facts_table(facts),
        *(Text(f"  {clean_line(line)}") for line in explained),
        Text("Prompts", style="bold"),
        *(Text(f"  {clean_line(prompt)}") for prompt in gap.prompts[-12:]),
        Text("History", style="bold"),
        *(
            Text(clean_line(f"{step.when}  {step.before} → {step.after}: {step.reason}"))
            for step in gap.history
        ),
    )
