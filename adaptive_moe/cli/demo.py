"""`demo`: the whole story on the pocket model."""

import typer


def register(app: typer.Typer) -> None:
    """Add it."""
