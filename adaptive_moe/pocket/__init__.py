"""The embedded tiny base model: its files and the facts it was taught; imports no torch."""

from adaptive_moe.pocket.facts import (
    EXPOSURES,
    SPLITS,
    KnownFact,
    Relation,
    facts_path,
    load_facts,
    load_relations,
    questions,
)
from adaptive_moe.pocket.packs import PackQuestion, load_questions, pack_names, pack_path
from adaptive_moe.pocket.paths import model_path

__all__ = [
    "EXPOSURES",
    "SPLITS",
    "KnownFact",
    "PackQuestion",
    "Relation",
    "facts_path",
    "load_facts",
    "load_questions",
    "load_relations",
    "model_path",
    "pack_names",
    "pack_path",
    "questions",
]
