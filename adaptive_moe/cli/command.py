"""Registers a command: adds the shared options and hands the function its terminal."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import typer

from adaptive_moe.cli.options import (
    COMMON_DEFAULTS,
    SETTING_OPTIONS,
    CommonOptions,
    as_overrides,
    in_options_words,
)
from adaptive_moe.cli.program import Command
from adaptive_moe.cli.terminal import Terminal, open_terminal
from adaptive_moe.config.settings import Settings
from adaptive_moe.errors import ConfigurationError

Body = Callable[..., int | None]  # the terminal first, then its own options; gives the exit code


def command(app: typer.Typer, name: str, *settings: str) -> Callable[[Body], Body]:
    """Decorator: the function becomes command `name` with the common options.

    `settings` names the options of SETTING_OPTIONS that it also takes; they end up in
    `terminal.settings`. The function's docstring is the help text.
    """

    def register(body: Body) -> Body:
        def invoke(context: typer.Context, **values: object) -> int | None:
            given = {key: values.pop(key) for key in settings}
            common = {key: values.pop(key) for key in COMMON_DEFAULTS}
            terminal = prepare(common, inherited=context.obj or {}, settings=given)
            if terminal is None:
                return 0
            return body(terminal, **values)

        own = list(inspect.signature(body, eval_str=True).parameters.values())[1:]
        _pretend(invoke, own, settings, inspect.getdoc(body) or "")
        app.command(name, cls=Command)(invoke)
        return body

    return register


def prepare(
    common: Mapping[str, object],
    *,
    inherited: Mapping[str, object] | None = None,
    settings: Mapping[str, object] | None = None,
) -> Terminal | None:
    """The terminal for these options; None when only the settings were asked for.

    `inherited` are the same options as given before the command's name.
    """
    from adaptive_moe.cli.log import configure_logging
    from adaptive_moe.config.loading import load_settings

    above = inherited or {}
    file = common["config"] or above.get("config")
    words = [*_words(above), *_words(common), *as_overrides(settings or {})]
    try:
        resolved = load_settings(cast(Path | None, file), overrides=words)
    except ConfigurationError as error:
        raise ConfigurationError(in_options_words(str(error), settings or {})) from error
    debug = bool(common["debug"] or above.get("debug"))
    as_json = bool(common["as_json"] or above.get("as_json"))
    terminal = open_terminal(resolved, as_json=as_json, debug=debug)
    if common["show_config"] or above.get("show_config"):
        _show_settings(terminal)
        return None
    configure_logging(resolved.logging, debug=debug, console=terminal.err)
    return terminal


def _words(values: Mapping[str, object]) -> Sequence[str]:
    return cast(Sequence[str], values.get("overrides") or ())


def _pretend(
    invoke: Callable[..., Any], own: list[inspect.Parameter], settings: Sequence[str], doc: str
) -> None:
    """Give `invoke` the signature that typer shall see."""
    added = [
        *((key, SETTING_OPTIONS[key].annotation, None) for key in settings),
        *((key, CommonOptions[key], default) for key, default in COMMON_DEFAULTS.items()),
    ]
    parameters = [
        _keyword("context", typer.Context, inspect.Parameter.empty),
        *(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own),
        *(_keyword(*option) for option in added),
    ]
    invoke.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    invoke.__annotations__ = {item.name: item.annotation for item in parameters}
    invoke.__doc__ = doc


def _keyword(name: str, annotation: object, default: object) -> inspect.Parameter:
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation, default=default
    )


def _show_settings(terminal: Terminal) -> None:
    import yaml

    tree = _plain(terminal.settings)
    text = yaml.safe_dump(tree, sort_keys=False, allow_unicode=True)
    terminal.finish(tree, text.rstrip("\n"))


def _plain(settings: Settings) -> dict[str, Any]:
    return settings.model_dump(mode="json")
