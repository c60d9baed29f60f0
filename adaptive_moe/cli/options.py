"""The options that commands share, written once: their spelling, help, and the setting behind."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import typer

from adaptive_moe.cli.stored import complete_expert, complete_route
from adaptive_moe.errors import ConfigurationError

Route = Literal["auto"] | None | tuple[str, ...]

CommonOptions: Mapping[str, object] = {
    "config": Annotated[
        Path | None, typer.Option("--config", help="Settings from this YAML file.")
    ],
    "overrides": Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="One setting; may be given repeatedly."),
    ],
    "as_json": Annotated[
        bool, typer.Option("--json", help="One JSON object on stdout, all else on stderr.")
    ],
    "debug": Annotated[
        bool, typer.Option("--debug", help="Log everything; show where an error happened.")
    ],
    "show_config": Annotated[
        bool, typer.Option("--show-config", help="Print the settings in force and stop.")
    ],
}
COMMON_DEFAULTS: Mapping[str, object] = {
    "config": None,
    "overrides": None,
    "as_json": False,
    "debug": False,
    "show_config": False,
}


@dataclass(frozen=True, slots=True)
class SettingOption:
    """An option that does nothing but set `keys` of the configuration."""

    annotation: object
    keys: tuple[str, ...]


SETTING_OPTIONS: Mapping[str, SettingOption] = {
    "base": SettingOption(
        Annotated[
            str | None,
            typer.Option("--base", metavar="ID|PATH|pocket", help="The frozen base model."),
        ],
        ("base.id",),
    ),
    "store": SettingOption(
        Annotated[
            str | None, typer.Option("--store", metavar="DIR", help="Where the experts are kept.")
        ],
        ("store",),
    ),
    "max_new_tokens": SettingOption(
        Annotated[
            int | None,
            typer.Option("--max-new-tokens", metavar="N", help="The longest answer, in tokens."),
        ],
        ("generation.max_new_tokens",),
    ),
    "seed": SettingOption(
        Annotated[
            int | None, typer.Option("--seed", metavar="N", help="Of everything left to chance.")
        ],
        ("generation.seed", "training.seed"),
    ),
    "force_uncalibrated": SettingOption(
        Annotated[
            bool | None,
            typer.Option(
                "--force-uncalibrated", help="Use a router of another base, uncalibrated."
            ),
        ],
        ("router.force_uncalibrated",),
    ),
    "ranks": SettingOption(
        Annotated[
            str | None,
            typer.Option(
                "--ranks", metavar="STRATEGY", help="How ranks are shared out, e.g. gradient."
            ),
        ],
        ("training.ranks",),
    ),
    "rank": SettingOption(
        Annotated[
            int | None,
            typer.Option("--rank", metavar="R0", help="Reference rank: the parameter budget."),
        ],
        ("training.rank",),
    ),
}

RouteOption = Annotated[
    str,
    typer.Option(
        "--route",
        metavar="auto|base|NAME[,NAME...]",
        help="Who answers.",
        autocompletion=complete_route,
    ),
]
ExpertArgument = Annotated[
    str, typer.Argument(metavar="NAME", help="The expert.", autocompletion=complete_expert)
]


def parse_route(text: str) -> Route:
    """What `experts=` takes: "auto", None for the base alone, or the experts' names."""
    if text == "auto":
        return "auto"
    if text == "base":
        return None
    names = tuple(name.strip() for name in text.split(","))
    if not all(names) or {"auto", "base"} & set(names):
        raise ConfigurationError(
            f"--route {text}: write auto, base, or expert names separated by commas"
        )
    return names


def as_overrides(values: Mapping[str, object]) -> Sequence[str]:
    """`key=value` words for the setting options that were given."""
    return [
        f"{key}={json.dumps(value)}"
        for name, value in values.items()
        if value is not None
        for key in SETTING_OPTIONS[name].keys
    ]


def in_options_words(message: str, values: Mapping[str, object]) -> str:
    """A complaint about settings, naming the options that were given instead of their keys."""
    for name, value in values.items():
        for key in SETTING_OPTIONS[name].keys if value is not None else ():
            message = message.replace(f"--set: {key}:", f"--{name.replace('_', '-')}:")
    return "; ".join(dict.fromkeys(message.split("; ")))
