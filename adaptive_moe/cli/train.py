"""`train`: turn the user's own material into an expert, and let the gate judge it."""

from pathlib import Path
from typing import Annotated

import typer

from adaptive_moe.cli.command import command
from adaptive_moe.cli.terminal import Terminal
from adaptive_moe.errors import ConfigurationError, DataError


def register(app: typer.Typer) -> None:
    """Add `train` to the program."""
    command(app, "train", "base", "store", "ranks", "rank", "seed", "force_uncalibrated")(train)


def train(
    terminal: Terminal,
    name: Annotated[str, typer.Argument(metavar="NAME", help="What to call the expert.")],
    more: Annotated[
        list[Path] | None, typer.Argument(metavar="[PATH]...", help="More material.")
    ] = None,
    data: Annotated[
        list[Path] | None,
        typer.Option("--data", metavar="PATH", help="Files, folders, or hf:OWNER/NAME of the hub."),
    ] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, metavar="N", help="Use at most N example rows.")
    ] = None,
    plan_only: Annotated[
        bool, typer.Option("--plan-only", help="Only show the rank of every module.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only predict steps, tokens, memory and time.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Keep an expert that the gate rejects, quarantined.")
    ] = False,
) -> int:
    """Train an expert on files or folders.

    For example: adaptive-moe train chemistry --data notes.md answers.jsonl

    Ctrl-C stops after the step, or at the gate after the batch, and keeps a checkpoint; the same
    command goes on from there.
    """
    from adaptive_moe.cli import training_view
    from adaptive_moe.experts.store import check_name

    if plan_only and dry_run:
        raise ConfigurationError("give --plan-only or --dry-run, not both")
    check_name(name)
    paths = _check_paths([*(data or ()), *(more or ())], is_needed=not plan_only)
    if plan_only:
        return training_view.show_plan(terminal, paths)
    if dry_run:
        return training_view.show_estimate(
            terminal, lambda moe: moe.estimate_expert(paths, limit=limit)
        )
    return training_view.train_on_files(terminal, name, paths, limit=limit, force=force)


def _check_paths(paths: list[Path], *, is_needed: bool) -> list[Path]:
    """Complain about missing material before a model is loaded."""
    if is_needed and not paths:
        raise DataError("there is nothing to learn from; name files or folders with --data PATH")
    for path in paths:
        if not path.as_posix().startswith("hf:") and not path.exists():
            raise DataError(f"{path}: no such file or folder; check the path after --data")
    return paths
