"""Makes a group of commands that shows its help when none of them is named."""

import typer

from adaptive_moe.cli.program import Group


def group(purpose: str) -> typer.Typer:
    """An empty group; `purpose` is its help text."""
    app = typer.Typer(cls=Group, help=purpose, rich_markup_mode=None)

    @app.callback(invoke_without_command=True, help=purpose)
    def show_help(context: typer.Context) -> None:
        context.obj = context.obj or {}
        if context.invoked_subcommand is None:
            typer.echo(context.get_help())

    return app
