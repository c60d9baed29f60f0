"""`gaps`: what the model was found not to know, and what became of it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from adaptive_moe.cli.command import command
from adaptive_moe.cli.group import group
from adaptive_moe.cli.safe_text import clean_line
from adaptive_moe.cli.stored import check_store, open_store
from adaptive_moe.cli.tables import facts_table, gaps_table
from adaptive_moe.cli.terminal import Terminal

if TYPE_CHECKING:
    from rich.console import RenderableType

    from adaptive_moe.gaps.detector import GapDetector
    from adaptive_moe.gaps.ledger import Gap

app = group("The knowledge gaps found so far: list, inspect, fill, dismiss.")

GapArgument = Annotated[int, typer.Argument(metavar="ID", help="The gap's number.")]


@command(app, "list", "base", "store")
def list_gaps(terminal: Terminal) -> int:
    """List the gaps of this base."""
    with _open_gaps(terminal) as gaps:
        found = sorted(gaps.list(), key=lambda gap: (gap.changed, gap.id), reverse=True)
    values = {"gaps": [gap_values(gap) for gap in found]}
    empty = "No gaps. Prompts answered with low confidence become evidence for them."
    terminal.finish(values, gaps_table(found) if found else empty)
    return 0


@command(app, "show", "base", "store")
def show(terminal: Terminal, gap_id: GapArgument) -> int:
    """Show one gap: its evidence, its history, and what is still missing."""
    with _open_gaps(terminal) as gaps:
        gap = gaps.show(gap_id)
        explained = gaps.explain(gap)
    values = gap_values(gap) | {"explanation": list(explained)}
    terminal.finish(values, *gap_parts(gap, explained))
    return 0


@command(app, "fill", "base", "store", "ranks", "rank", "seed", "force_uncalibrated")
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
    with _open_gaps(terminal) as gaps:
        gap = gaps.dismiss(gap_id)
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


@contextmanager
def _open_gaps(terminal: Terminal) -> "Iterator[GapDetector]":
    """The gaps of the settings' base, found by the fingerprint of its files; it is not loaded."""
    from adaptive_moe.cli.engine import quieten_libraries

    quieten_libraries(terminal)
    with open_store(terminal.settings) as store:
        with terminal.working(f"identifying {terminal.settings.base.id}"):
            from adaptive_moe.engine.runtime import LEDGER_FILE
            from adaptive_moe.gaps.detector import GapDetector
            from adaptive_moe.gaps.ledger import GapLedger
            from adaptive_moe.models.loading import read_base_id

            base_id = read_base_id(terminal.settings.base)
        settings = terminal.settings.gaps
        file = settings.ledger or store.root / LEDGER_FILE
        with GapLedger(file, before_creating=store.create) as ledger:
            yield GapDetector(ledger, settings, base_id=base_id)
