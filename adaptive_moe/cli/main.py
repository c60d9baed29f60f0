"""The command line's root: `adaptive-moe` and everything below it."""

from pathlib import Path
from typing import Annotated

import typer

from adaptive_moe import __version__
from adaptive_moe.cli import ask, bench, chat, demo, doctor, experts, gaps, router, train
from adaptive_moe.cli.command import prepare
from adaptive_moe.cli.options import COMMON_DEFAULTS
from adaptive_moe.cli.program import Program

app = typer.Typer(
    cls=Program,
    name="adaptive-moe",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["--help", "-h"]},
)


def _print_version(wanted: bool) -> bool:
    if wanted:
        typer.echo(f"adaptive-moe {__version__}")
        raise typer.Exit
    return wanted


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    config: Annotated[Path | None, typer.Option(help="Settings from this YAML file.")] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="One setting.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Results as JSON on stdout.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Log everything.")] = False,
    show_config: Annotated[
        bool, typer.Option("--show-config", help="Print the settings in force and stop.")
    ] = False,
    _version: Annotated[
        bool,
        typer.Option(
            "--version", is_eager=True, callback=_print_version, help="Print the version and stop."
        ),
    ] = False,
) -> None:
    """A frozen language model that grows experts where it notices that it does not know.

    Start with `adaptive-moe demo`, or talk to it: `adaptive-moe chat`.
    """
    given = (config, overrides, as_json, debug, show_config)
    context.obj = dict(zip(COMMON_DEFAULTS, given, strict=True))
    if context.invoked_subcommand is not None:
        return
    if show_config:
        prepare(context.obj)
    else:
        typer.echo(context.get_help())


for _module in (ask, chat, train, demo, bench, doctor):
    _module.register(app)
for _name, _group in (("experts", experts.app), ("gaps", gaps.app), ("router", router.app)):
    app.add_typer(_group, name=_name)


def run() -> None:
    """The console script."""
    app()
