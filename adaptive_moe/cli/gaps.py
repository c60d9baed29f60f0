"""`gaps`: what the model was found not to know, and what became of it."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from adaptive_moe.cli.command import command
from adaptive_moe.cli.gap_view import evidence_values, gap_parts, gap_values, outlook_parts
from adaptive_moe.cli.group import group
from adaptive_moe.cli.stored import check_store, open_store
from adaptive_moe.cli.tables import gaps_table
from adaptive_moe.cli.terminal import Terminal

if TYPE_CHECKING:
    from adaptive_moe.experts.store import Store
    from adaptive_moe.gaps.detector import GapDetector

app = group("The knowledge gaps found so far: list, inspect, fill, dismiss.")

GapArgument = Annotated[int, typer.Argument(metavar="ID", help="The gap's number.")]
DataOption = Annotated[
    list[Path] | None,
    typer.Option("--data", metavar="PATH", help="Material; absent: the settings' gaps.sources."),
]


@dataclass(frozen=True, slots=True)
class _Opened:
    """The gaps of one base and the store beside them."""

    gaps: "GapDetector"
    store: "Store"
    base_id: str


@command(app, "list", "base", "store")
def list_gaps(terminal: Terminal) -> int:
    """List the gaps of this base."""
    with _open_gaps(terminal) as opened:
        found = sorted(opened.gaps.list(), key=lambda gap: (gap.changed, gap.id), reverse=True)
    values = {"gaps": [gap_values(gap) for gap in found]}
    empty = "No gaps. Prompts answered with low confidence become evidence for them."
    terminal.finish(values, gaps_table(found) if found else empty)
    return 0


@command(app, "show", "base", "store")
def show(terminal: Terminal, gap_id: GapArgument) -> int:
    """Show one gap: its evidence, what it lacks, and what would fill it."""
    with _open_gaps(terminal) as opened:
        from adaptive_moe.engine.events import to_json
        from adaptive_moe.engine.outlook import outlook

        gap = opened.gaps.show(gap_id)
        explained = opened.gaps.explain(gap)
        with terminal.working("reading gaps.sources"):
            ahead = outlook(
                gap,
                terminal.settings,
                gaps=opened.gaps.list(),
                records=opened.store.list(),
                base_id=opened.base_id,
            )
    values = gap_values(gap) | {
        "explanation": list(explained),
        "evidence": evidence_values(gap),
        "outlook": to_json(ahead),
    }
    terminal.finish(values, *gap_parts(gap, explained), *outlook_parts(ahead))
    return 0


@command(app, "fill", "base", "store", "ranks", "rank", "seed", "force_uncalibrated")
def fill(
    terminal: Terminal,
    gap_id: GapArgument,
    data: DataOption = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only predict steps, tokens, memory and time.")
    ] = False,
) -> int:
    """Train an expert for a gap and put it before the gate."""
    from adaptive_moe.cli.training_view import run_training, show_estimate

    check_store(terminal.settings)
    if dry_run:
        return show_estimate(terminal, lambda moe: moe.gaps.estimate(gap_id, data))
    return run_training(
        terminal,
        lambda moe, listener, cancelled: moe.gaps.fill(
            gap_id, data, listener=listener, cancelled=cancelled
        ),
    )


@command(app, "dismiss", "base", "store")
def dismiss(terminal: Terminal, gap_id: GapArgument) -> int:
    """Close a gap that nobody wants filled."""
    with _open_gaps(terminal) as opened:
        gap = opened.gaps.dismiss(gap_id)
    terminal.finish(gap_values(gap), f"Gap {gap.id} ({gap.label}) is {str(gap.state).lower()}.")
    return 0


@contextmanager
def _open_gaps(terminal: Terminal) -> Iterator[_Opened]:
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
            detector = GapDetector(ledger, settings, base_id=base_id)
            yield _Opened(detector, store, base_id)
