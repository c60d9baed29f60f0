"""What others build on does not change unseen: `make golden` rewrites the files beside this one."""

import dataclasses
import types
import typing

import pytest
from pydantic import BaseModel
from typer.main import get_command
from typer.testing import CliRunner

import adaptive_moe
from adaptive_moe import AdaptiveMoE
from adaptive_moe.cli.main import app
from adaptive_moe.config.loading import load_settings
from adaptive_moe.config.settings import Settings
from adaptive_moe.engine.events import Event
from tests.cli.answers import answer
from tests.support.tiny_models import save_tiny

pytestmark = pytest.mark.golden


def test_the_help_of_every_command(golden, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    sections = []
    for words in _commands(get_command(app), ()):
        shown = CliRunner().invoke(app, [*words, "--help"]).stdout
        assert max(map(len, shown.splitlines())) <= 80
        sections.append(f"$ {' '.join(('adaptive-moe', *words, '--help'))}\n{shown}")
    golden("help.txt", "\n".join(sections))


def test_the_keys_and_types_of_an_answer(golden, tmp_path):
    made = [answer(), answer(experts=(), low=True, p_correct=None)]
    made.append(
        dataclasses.replace(
            made[0], route=dataclasses.replace(made[0].route, domain="iron"), observation="1"
        )
    )
    base = f"base.id={save_tiny('llama', tmp_path / 'model')}"
    settings = load_settings(overrides=[base, f"store={tmp_path / 'store'}"])
    with AdaptiveMoE.from_settings(settings) as moe:
        made.append(moe.generate("What is it?", experts=None, max_new_tokens=2, min_new_tokens=2))
    found: dict[str, set[str]] = {}
    for each in made:
        _collect(each.to_dict(), "", found)
    lines = (f"{path}: {' | '.join(sorted(kinds))}\n" for path, kinds in sorted(found.items()))
    golden("answer.txt", "".join(lines))


def test_the_events_of_a_stream(golden):
    golden("events.txt", "\n".join(_fields(event) for event in typing.get_args(Event)))


def test_every_setting_with_its_type_and_default(golden):
    golden("settings.txt", "".join(f"{line}\n" for line in _settings(Settings, "")))


def test_the_names_of_the_package(golden):
    found = {name: getattr(adaptive_moe, name) for name in adaptive_moe.__all__}
    lines = (
        f"class {name}" if isinstance(each, type) else f"{name}: {type(each).__name__}"
        for name, each in found.items()
    )
    golden("names.txt", "".join(f"{line}\n" for line in lines))


def test_types_are_named_alike_in_every_python():
    names = {
        int | None: "int | None",
        typing.Union[str, int]: "str | int",  # noqa: UP007  its own kind of object
        typing.Literal["a", 2]: "'a' | 2",
        typing.Annotated[float, "per second"]: "float",
        tuple[str, ...]: "tuple[str, ...]",
        typing.Mapping[str, float]: "Mapping[str, float]",
    }
    assert {kind: _named(kind) for kind in names} == names


def test_a_value_is_described_by_its_paths():
    found: dict[str, set[str]] = {}
    for value in ({"a": [1, 2.0], "b": None}, {"a": [], "b": {"c": True}}):
        _collect(value, "", found)
    assert found == {
        "a": {"list"}, "a[]": {"int", "float"}, "b": {"null", "object"}, "b.c": {"bool"},
    }  # fmt: skip


def _commands(command, words):
    """The words of a command and of everything below it, in the order of the help."""
    yield words
    for name, below in getattr(command, "commands", {}).items():
        yield from _commands(below, (*words, name))


def _collect(value, path, found):
    """Note the kind of value at every path; [] stands for the items of a list."""
    kind = {type(None): "null", dict: "object"}.get(type(value), type(value).__name__)
    if path:
        found.setdefault(path, set()).add(kind)
    if isinstance(value, dict):
        for key, item in value.items():
            _collect(item, f"{path}.{key}".lstrip("."), found)
    elif isinstance(value, list):
        for item in value:
            _collect(item, f"{path}[]", found)


def _fields(kind):
    hints = typing.get_type_hints(kind)
    lines = (f"    {each.name}: {_named(hints[each.name])}\n" for each in dataclasses.fields(kind))
    return f"{kind.__name__}\n{''.join(lines)}"


def _settings(section, prefix):
    for name, field in section.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from _settings(kind, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}: {_named(kind)} = {field.default!r}"


def _named(kind):
    """A type as one would write it."""
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Literal:
        return " | ".join(map(repr, parts))
    if origin is typing.Annotated:
        return _named(parts[0])
    if origin in {typing.Union, types.UnionType}:
        return " | ".join(map(_named, parts))
    if kind in {None, type(None)}:
        return "None"
    if kind is Ellipsis:
        return "..."
    name = getattr(origin or kind, "__name__", str(kind))
    return f"{name}[{', '.join(map(_named, parts))}]" if parts else name
