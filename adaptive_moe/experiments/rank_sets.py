"""The sets of facts that the study of rank strategies trains on."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from adaptive_moe.config.settings import TrainingSettings
from adaptive_moe.measures.sampling import evenly
from adaptive_moe.pocket import load_facts, pack_names, pack_path
from adaptive_moe.pocket.facts import KnownFact, further_questions, questions
from adaptive_moe.training.material import Material, read_material
from adaptive_moe.training.phrasings import held_out_forms, selection_forms
from adaptive_moe.training.splits import split_examples
from adaptive_moe.training.synthesis import Example, synthesise

PACKS, UNSHOWN = "packs", "unshown"
_FORMS_PER_FACT = 16  # some seven thousand questions for four packs; a run sees about twice those
_MOST_SHOWN = 1  # times that the base saw a fact of `unshown`; it knows hardly one of those
_FACTS = 720
_SELECTION = 200  # questions, asked every few steps
_DOMAIN_ROWS = 1000
_SEED = 0  # of wording and split: the same for every run


@dataclass(frozen=True, slots=True)
class StudySet:
    """What is taught, what chooses a run's weights and rate, and what scores it, once.

    Every fact of `test` is taught by `train` in other words. `about` says in words what it is.
    """

    name: str
    about: str
    train: tuple[Example, ...]
    selection: tuple[Example, ...]
    test: tuple[Example, ...]

    @property
    def digest(self) -> str:
        """SHA-256 over all examples, in short."""
        sides = (self.train, self.selection, self.test)
        content = json.dumps([[[each.prompt, each.answer] for each in side] for side in sides])
        return hashlib.sha256(content.encode()).hexdigest()[:16]

    def to_dict(self) -> dict[str, object]:
        """Sizes and digest as JSON values."""
        return {
            "about": self.about,
            "facts": len({example.fact for example in self.train}),
            "train": len(self.train),
            "selection": len(self.selection),
            "test": len(self.test),
            "digest": self.digest,
        }


def load_set(word: str) -> StudySet:
    """`packs`, PACK+PACK, `unshown`, or NAME=FOLDER for the rows of the folder's train.jsonl.

    Raises DataError for an unknown pack or a folder without such a file.
    """
    name, _, folder = word.partition("=")
    if folder:
        return _rows(name, read_material([Path(folder) / "train.jsonl"], limit=_DOMAIN_ROWS))
    if name == UNSHOWN:
        return _unshown()
    packs = pack_names() if name == PACKS else tuple(name.split("+"))
    about = f"the knowledge packs {', '.join(packs)} together"
    return _documents(name, about, read_material([pack_path(pack) for pack in packs]))


def _documents(name: str, about: str, material: Material) -> StudySet:
    """Every fact is tested, in one question of a form that neither taught nor chose anything."""
    examples = synthesise(material.passages, seed=_SEED, forms_per_fact=_FORMS_PER_FACT)
    split = split_examples(material, examples, TrainingSettings(split="recall"))
    judging = held_out_forms() - selection_forms()
    test = tuple(example for example in examples if example.form in judging)
    return StudySet(name, about, split.train, split.selection, test)


def _unshown() -> StudySet:
    """Facts of the base's own world: the wordings it was never asked in choose and test."""
    rare = [fact for fact in load_facts() if fact.exposure <= _MOST_SHOWN]
    facts = evenly(rare, _FACTS)
    asked = {fact.id: list(_held_out(fact)) for fact in facts}
    return StudySet(
        UNSHOWN,
        "facts of the pocket model's own world that it was shown once at most",
        train=tuple(example for fact in facts for example in _taught(fact)),
        selection=tuple(evenly([choosing for choosing, _ in asked.values()], _SELECTION)),
        test=tuple(judging for _, judging in asked.values()),
    )


def _taught(fact: KnownFact) -> Iterator[Example]:
    for text in (*questions(fact), *further_questions(fact)):
        yield _example(fact, text, "trained")


def _held_out(fact: KnownFact) -> tuple[Example, Example]:
    choosing, judging, *_ = questions(fact, held_out=True)
    return _example(fact, choosing, "choosing"), _example(fact, judging, "judging")


def _example(fact: KnownFact, text: str, form: str) -> Example:
    return Example((("user", text),), fact.object, fact.id, form, fact.domain, 1)


def _rows(name: str, material: Material) -> StudySet:
    """Every row is taught as it stands, and asked for in other words."""
    split = split_examples(material, (), TrainingSettings(split="recall"))
    about = f"{len(material.rows):,} rows of an external set, asked for in other words"
    return StudySet(name, about, split.train, split.selection, split.held_out)
