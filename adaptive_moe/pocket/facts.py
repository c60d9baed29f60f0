"""The known facts: as written down by relation, and as recorded with exposure and split."""

import json
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from adaptive_moe.errors import DataError
from adaptive_moe.pocket.paths import FACT_SOURCES, FACTS_FILE, WORDINGS_FILE

EXPOSURES = (0, 1, 4, 16, 64)
SPLITS = ("train_router", "calibration", "test")


@dataclass(frozen=True, slots=True)
class Relation:
    """One relation of one domain: how it is asked and what holds.

    `nouns` name the relation, as in "the {noun} of {subject}"; `forms` are further wordings.
    Every phrasing holds `{subject}`, the statement `{subject}` and `{object}`; `held_out` phrasings
    never occur in training; `facts` maps a subject to the one true object.
    """

    domain: str
    name: str
    trained: tuple[str, ...]
    held_out: tuple[str, ...]
    statement: str
    facts: Mapping[str, str]
    sources: tuple[str, ...]
    nouns: tuple[str, ...] = ()
    forms: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class KnownFact:
    """A fact with its exposure: the number of distinct training rows that contain it."""

    id: str
    domain: str
    relation: str
    subject: str
    object: str
    exposure: int
    split: str


def facts_path() -> Path:
    """The JSON lines with every known fact, its exposure and its split."""
    return FACTS_FILE


def load_facts(path: Path = FACTS_FILE) -> tuple[KnownFact, ...]:
    """Read the recorded facts, in file order."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return tuple(KnownFact(**json.loads(line)) for line in lines if line)


def load_relations(folder: Path = FACT_SOURCES) -> tuple[Relation, ...]:
    """Read every fact file, sorted by file name; raises DataError with file and reason."""
    wordings = read_yaml(WORDINGS_FILE)
    relations: list[Relation] = []
    for path in sorted(folder.glob("*.yaml")):
        relations.extend(_read_file(path, wordings))
    return tuple(relations)


def questions(fact: KnownFact, *, held_out: bool = False) -> tuple[str, ...]:
    """Every plain phrasing that asks for this fact, trained or held out ones."""
    relation = _relations_by_name()[fact.domain, fact.relation]
    phrasings = relation.held_out if held_out else relation.trained
    return tuple(phrasing.replace("{subject}", fact.subject) for phrasing in phrasings)


def further_questions(fact: KnownFact) -> tuple[str, ...]:
    """Every freer wording that asks for this fact; trained as well."""
    relation = _relations_by_name()[fact.domain, fact.relation]
    return tuple(form.replace("{subject}", fact.subject) for form in relation.forms)


_cached_relations: dict[tuple[str, str], Relation] = {}


def _relations_by_name() -> dict[tuple[str, str], Relation]:
    if not _cached_relations:
        _cached_relations.update({(r.domain, r.name): r for r in load_relations()})
    return _cached_relations


class _TextLoader(yaml.BaseLoader):
    """Reads every scalar as text (so `no` and `12` stay words) and refuses repeated keys."""


def _unique_mapping(loader: _TextLoader, node: yaml.MappingNode) -> dict[Hashable, Any]:
    keys = [key.value for key, _ in node.value]
    for key in keys:
        if keys.count(key) > 1:
            raise DataError(f"{key!r} occurs twice {node.start_mark}; remove one of them")
    return loader.construct_mapping(node, deep=True)


_TextLoader.add_constructor("tag:yaml.org,2002:map", _unique_mapping)


def read_yaml(path: Path) -> Any:  # noqa: ANN401 - the shape is the caller's to know
    """Read one of our own YAML files; every scalar is text, repeated keys are refused."""
    with path.open(encoding="utf-8") as stream:
        return yaml.load(stream, Loader=_TextLoader)  # noqa: S506 - a BaseLoader makes text only


def _read_file(path: Path, wordings: Mapping[str, Any]) -> list[Relation]:
    content = read_yaml(path)
    try:
        return [
            Relation(
                domain=content["domain"],
                name=entry["name"],
                trained=tuple(entry["trained"]),
                held_out=tuple(entry["held_out"]),
                statement=entry["statement"],
                facts=entry["facts"],
                sources=tuple(content["sources"]),
                nouns=(entry["name"].replace("_", " "), *wordings[entry["name"]]["nouns"]),
                forms=tuple(wordings[entry["name"]]["forms"]),
            )
            for entry in content["relations"]
        ]
    except (KeyError, TypeError) as error:
        raise DataError(f"{path.name}: a key is missing or misplaced: {error}") from error
