"""Builds the settings from their layers and names the layer in every complaint."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import yaml
from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, EnvSettingsSource

from adaptive_moe.config.settings import Section, Settings
from adaptive_moe.errors import ConfigurationError

PREFIX = "ADAPTIVE_MOE__"
_ENVIRONMENT = "environment"
_YAML_BYTES = 1024 * 1024
_DEPTH = 50  # of keys, and of lists and mappings in a value
_YAML_ALIASES = 10  # more, each of the one before, would unfold to millions
_SHOWN = 60  # characters of a wrong value

Tree = dict[str, object]
AnySection = TypeVar("AnySection", bound=Section)


class _Environment(BaseSettings, Settings):  # type: ignore[misc]  # both set model_config
    """The same tree, as pydantic-settings wants it for reading environment variables."""


class _EnvironmentSource(EnvSettingsSource):
    """Takes what is no list or mapping as the word that it is; whether it fits is validated later.

    JSON is read as the YAML that it is, within the limits of a file.
    """

    def decode_complex_value(self, field_name: str, _field: FieldInfo, value: str) -> object:
        if not value.startswith(("[", "{")):
            return value
        try:
            return _parse_value(value, field_name)
        except ConfigurationError:
            return value


def load_settings(
    file: Path | None = None,
    *,
    overrides: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
) -> Settings:
    """Settings from defaults < YAML `file` < `ADAPTIVE_MOE__...` < `overrides`.

    `overrides` are `key=value` words such as `router.threshold=0.8`; values are read as YAML.
    Raises ConfigurationError naming the layer, the key and the reason.
    """
    variables = _our_variables(os.environ if environment is None else environment)
    layers = (
        (str(file), read_yaml(file) if file is not None else {}),
        (_ENVIRONMENT, _read_environment(variables)),
        ("--set", _read_overrides(overrides)),
    )
    merged: Tree = {}
    for _, tree in layers:
        merged = _merge(merged, tree)
    try:
        return Settings.model_validate(merged)
    except ValidationError as error:
        raise ConfigurationError(_explain(error, layers, variables)) from error


def amend(section: AnySection, changes: Mapping[str, object], *, name: str) -> AnySection:
    """A copy with other values, None leaving one as it was; ConfigurationError tells what is wrong.

    `name` is how the complaint calls the section.
    """
    asked = {key: value for key, value in changes.items() if value is not None}
    try:
        return type(section).model_validate(section.model_dump() | asked)
    except ValidationError as error:
        raise ConfigurationError(f"{name}: {explain(error)}") from error


def explain(error: ValidationError) -> str:
    """What pydantic has against some values, one short clause each."""
    details = error.errors(include_url=False, include_context=False)
    return "; ".join(
        f"{'.'.join(map(str, detail['loc'])) or 'the whole'}={_short(detail['input'])}: "
        f"{detail['msg']}"
        for detail in details
    )


def read_yaml(file: Path) -> Tree:
    """The mapping in a YAML file, refused when it is oversized, too deep or full of aliases."""
    try:
        text = file.read_bytes()
    except OSError as error:
        raise ConfigurationError(
            f"{file}: cannot be read ({error.strerror}); check the path"
        ) from error
    if len(text) > _YAML_BYTES:
        raise ConfigurationError(f"{file}: larger than {_YAML_BYTES} bytes; keep settings only")
    try:
        tree = _parse_yaml(text, str(file))
    except ConfigurationError:
        raise
    except (yaml.YAMLError, ValueError) as error:
        problem = " ".join(str(error).split())
        raise ConfigurationError(f"{file}: not valid YAML: {problem}") from error
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigurationError(
            f"{file}: the top level must be keys and values, e.g. router: {{threshold: 0.8}}"
        )
    return tree


def _parse_yaml(text: bytes | str, where: str) -> object:
    """What the text holds; YAMLError or ValueError for no YAML, ConfigurationError for a bomb."""
    _guard_structure(text, where)
    return yaml.safe_load(text)


def _guard_structure(text: bytes | str, where: str) -> None:
    depth = aliases = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        elif isinstance(event, yaml.AliasEvent):
            aliases += 1
        # PyYAML fails on tags such as !!bool x with errors that are none of its own.
        if depth > _DEPTH or aliases > _YAML_ALIASES or getattr(event, "tag", None):
            raise ConfigurationError(
                f"{where}: nested too deeply, too many aliases or a tag; write it plainly"
            )


def _our_variables(environment: Mapping[str, str]) -> Mapping[str, str]:
    """The variables that are settings, by their names in capitals."""
    found = {name.upper(): value for name, value in environment.items()}
    found = {name: value for name, value in found.items() if name.startswith(PREFIX)}
    for name in found:
        section = name.removeprefix(PREFIX).split("__")[0].lower()
        if section not in Settings.model_fields:
            raise ConfigurationError(
                f"environment: {name}: there is no setting {section!r}; correct or unset it"
            )
        if name.count("__") > _DEPTH:
            raise ConfigurationError(
                f"environment: {name[:_SHOWN]}...: nested too deeply; unset it"
            )
    return found


def _read_environment(variables: Mapping[str, str]) -> Tree:
    source = _EnvironmentSource(_Environment, env_prefix=PREFIX, env_nested_delimiter="__")
    source.env_vars = {name.lower(): value for name, value in variables.items()}
    return source()


def _read_overrides(overrides: Sequence[str]) -> Tree:
    tree: Tree = {}
    for word in overrides:
        key, separator, value = word.partition("=")
        if not separator or not key:
            raise ConfigurationError(f"--set {word}: write key=value, e.g. router.threshold=0.8")
        *sections, name = key.strip().split(".")
        if len(sections) > _DEPTH:
            raise ConfigurationError(
                f"--set {key[:_SHOWN]}...: nested too deeply; see --show-config"
            )
        branch: Tree = {name: _parse_value(value, f"--set {key}")}
        for section in reversed(sections):
            branch = {section: branch}
        tree = _merge(tree, branch)
    return tree


def _parse_value(value: str, where: str) -> object:
    """The value as YAML within the limits of a file, or the text itself where it is none."""
    try:
        return _parse_yaml(value, where)
    except ConfigurationError:
        raise
    except (yaml.YAMLError, ValueError):
        return value


def _merge(lower: Tree, upper: Mapping[str, object]) -> Tree:
    merged = dict(lower)
    for key, value in upper.items():
        below = merged.get(key)
        if isinstance(below, dict) and isinstance(value, dict):
            merged[key] = _merge(below, value)
        else:
            merged[key] = value
    return merged


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _explain(
    error: ValidationError, layers: Sequence[tuple[str, Tree]], variables: Mapping[str, str]
) -> str:
    return "; ".join(
        _explain_one(detail, layers, variables) for detail in error.errors(include_url=False)
    )


def _explain_one(
    detail: ErrorDetails, layers: Sequence[tuple[str, Tree]], variables: Mapping[str, str]
) -> str:
    path = [str(part) for part in detail["loc"]]
    origin = next((name for name, tree in reversed(layers) if _holds(tree, path)), "settings")
    if origin == _ENVIRONMENT:
        origin = f"{origin}: {_variable_of(path, variables)}"
    reason = detail["msg"].removeprefix("Value error, ")
    if detail["type"] == "extra_forbidden":
        reason = "there is no such setting (--show-config lists all)"
    return f"{origin}: {'.'.join(path) or 'settings'}: {reason}"


def _variable_of(path: Sequence[str], variables: Mapping[str, str]) -> str:
    """The variable that sets this key: its own, or one that holds a whole section."""
    names = [PREFIX + "__".join(path[:end]).upper() for end in range(len(path), 0, -1)]
    return next((name for name in names if name in variables), names[0])


def _holds(tree: object, path: Sequence[str]) -> bool:
    """Whether this layer sets the key (list positions below it do not matter)."""
    for part in path:
        if not isinstance(tree, dict):
            return True
        if part not in tree:
            return False
        tree = tree[part]
    return bool(path)
