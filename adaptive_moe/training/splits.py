"""Which examples teach and which only measure."""

import hashlib
import json
import random
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from adaptive_moe.config.settings import TrainingSettings
from adaptive_moe.errors import TooFewExamplesError
from adaptive_moe.measures.graders import normalise
from adaptive_moe.training.material import Material, question_key
from adaptive_moe.training.near_copies import NearCopies
from adaptive_moe.training.phrasings import held_out_forms, selection_forms
from adaptive_moe.training.rows import Row, asked_in
from adaptive_moe.training.stages import Place, Stage, first_places
from adaptive_moe.training.synthesis import AS_WRITTEN, Example
from adaptive_moe.training.taught_forms import TEACHERS_FORMS, held_out_taught_form

SplitName = Literal["recall", "generalise"]
Metric = Literal["exact", "loss"]
METRICS: dict[SplitName, Metric] = {"recall": "exact", "generalise": "loss"}
"""What weights are chosen and judged by: exact answers for facts, loss for free text."""

_MAX_HELD_OUT = 400  # examples that are generated for or scored at every evaluation
_MIN_HELD_OUT = 4
_MIN_WORDINGS = 2  # of one answer; with more, one of them can be spared for measuring
_TOLD = 3  # dropped rows in an error
_COMPLETIONS_HELD_OUT = 0.1  # of sentences to complete, which have one form only
_WORD = re.compile(r"\w+")
_SHINGLE = 5  # words; near copies share most of their shingles
_NEAR_COPY = 0.8  # Jaccard similarity


@dataclass(frozen=True, slots=True)
class Split:
    """Training and held-out examples, and how they were parted.

    recall: every fact is taught, whole question forms are held out. generalise: whole sources
    (or questions with their near copies) are held out. Which ones hangs on their names alone, not
    on a seed or on what else there is: a later version of an expert, of more material too, holds
    out the same ones again and some of the new. The trainer chooses its weights by
    `selection`; `held_out` is the gate's alone and shares no form or source with it, except where
    there is too little to part: then both are the same. `other` holds what the material offers
    for the split that was not chosen; it is not trained on either. `digest` is the SHA-256 of
    all sides.
    """

    name: SplitName
    train: tuple[Example, ...]
    selection: tuple[Example, ...]
    held_out: tuple[Example, ...]
    digest: str
    other: tuple[Example, ...] = ()

    @property
    def selection_only(self) -> int:
        """How many examples choose the weights and judge nothing; 0 where the gate's have to."""
        return 0 if self.selection == self.held_out else len(self.selection)


def split_examples(
    material: Material, synthesised: Sequence[Example], settings: TrainingSettings
) -> Split:
    """Split by the data's shape, or as `settings.split` says.

    Documents that state at least as many facts as there are rows in example files are recalled.
    Raises TooFewExamplesError where fewer than `settings.min_examples` are left to learn from, or
    nothing to measure on.
    """
    by_rules = {example.fact for example in synthesised if not _by_teacher(example)}
    stated = len(by_rules or {example.fact for example in synthesised})
    fitting: SplitName = "recall" if stated and stated >= len(material.rows) else "generalise"
    name: SplitName = fitting if settings.split == "auto" else settings.split
    facts, fact_tests = _split_by_form(synthesised, material.reserved)
    facts = [each for each in facts if _question(each) not in material.reserved]
    if name == "recall" and not synthesised:
        rows, fact_tests, row_tests = _split_rows_by_form(material.rows)
    elif name == "generalise" and not material.rows:
        facts, row_tests = _split_by_fact(facts, settings.held_out_fraction)
        rows, fact_tests = [], []
    else:
        rows, row_tests = _split_by_source(material.rows, settings.held_out_fraction)
    train = (*facts, *rows)
    tests, other = (fact_tests, row_tests) if name == "recall" else (row_tests, fact_tests)
    tests = _at_most(tests)
    _check_counts(train, tests, settings, material.dropped)
    selection, held_out = _in_two(tests)
    digest = _digest(train, selection, held_out)
    return Split(name, train, tuple(selection), tuple(held_out), digest, tuple(other))


def split_stage(material: Material, synthesised: Sequence[Example], split: Split) -> Stage:
    """The record of this stage.

    Rows may be reworded to measure by, so more can leave it than entered; examples that equal a
    held-out question, or are left over, are not used.
    """
    entered = {"rows": len(material.rows), "examples": len(synthesised)}
    left = {
        "train": len(split.train),
        "selection": split.selection_only,
        "held out": len(split.held_out),
    }
    unused = max(0, sum(entered.values()) - sum(left.values()))
    return Stage("split", entered, left, split.digest, {"not used": unused} if unused else {})


def row_example(row: Row) -> Example:
    """A row of an example file as it stands."""
    source = row.group or question_key(row.prompt[-1][1])
    return Example(row.prompt, row.answer, source, AS_WRITTEN, row.file, row.line)


def _split_by_form(
    examples: Sequence[Example], reserved: frozenset[str]
) -> tuple[list[Example], list[Example]]:
    """Held-out forms measure; training questions that equal a measured one are dropped."""
    forms = held_out_forms() | {held_out_taught_form()}
    tests = [example for example in examples if example.form in forms]
    if examples and not tests:
        return _split_by_fact(examples, _COMPLETIONS_HELD_OUT)
    measured = reserved | {_question(example) for example in tests}
    train = [
        example
        for example in examples
        if example.form not in forms and _question(example) not in measured
    ]
    return train, tests


def _split_by_fact(
    examples: Sequence[Example], fraction: float
) -> tuple[list[Example], list[Example]]:
    """Whole facts on either side."""
    facts = _drawn({example.fact for example in examples})
    count = min(max(1, round(fraction * len(facts))), len(facts) - 1)
    chosen = set(facts[: max(0, count)])
    tests = [example for example in examples if example.fact in chosen]
    measured = {_stated(each) for each in tests}
    taught = {_stated(each) for each in tests if _by_teacher(each)}
    # A teacher's question may be about a fact that the rules know by another key.
    train = [
        example
        for example in examples
        if example.fact not in chosen
        and _stated(example) not in (measured if _by_teacher(example) else taught)
    ]
    return train, tests


def _stated(example: Example) -> tuple[str, str]:
    """What a fact comes down to where nothing tells whom it is about."""
    return example.file, normalise(example.answer)


def _by_teacher(example: Example) -> bool:
    return example.form in TEACHERS_FORMS


def _split_rows_by_form(
    rows: Sequence[Row],
) -> tuple[list[Example], list[Example], list[Example]]:
    """Every row is taught as written; one of its other wordings, or a reworded one, measures."""
    by_answer: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in rows:
        by_answer[row.file, row.answer].append(row)
    train, tests = [], []
    for alike in by_answer.values():
        spared = _spared(alike)
        train += [row_example(row) for row in alike if row is not spared]
        tests += [_reworded(row) for row in alike] if spared is None else [row_example(spared)]
    return train, tests, []


def _spared(alike: Sequence[Row]) -> Row | None:
    """Of three rows or more with one answer and source, one that others ask the same as.

    A word that none of them has would be of another question, which has to be taught.
    """
    if len(alike) <= _MIN_WORDINGS or len({row.group for row in alike}) > 1:
        return None
    words = {row: set(_WORD.findall(row.prompt[-1][1].casefold())) for row in alike}
    counts = Counter(word for each in words.values() for word in each)
    candidates = [row for row in alike if all(counts[word] > 1 for word in words[row])]
    return min(candidates, key=_lot_of_row, default=None)


def _reworded(row: Row) -> Example:
    *before, (role, text) = row.prompt
    question = f"I would like to know this. {text[:1].lower()}{text[1:]}"
    example = row_example(row)
    prompt = (*before, (role, question))
    return Example(prompt, row.answer, example.fact, "reworded", row.file, row.line)


def _split_by_source(rows: Sequence[Row], fraction: float) -> tuple[list[Example], list[Example]]:
    """Whole groups on either side, until about `fraction` of the rows is held out.

    Where a few texts are all that is asked about, so that none can be spared, their questions are
    parted.
    """
    train, held_out = _parted(rows, _groups(rows, str), fraction)
    if held_out:
        return train, held_out
    return _parted(rows, _groups(rows, asked_in), fraction)


def _parted(
    rows: Sequence[Row], names: Sequence[str], fraction: float
) -> tuple[list[Example], list[Example]]:
    groups: dict[str, list[Example]] = defaultdict(list)
    for row, group in zip(rows, names, strict=True):
        groups[group].append(replace(row_example(row), fact=group))
    wanted = min(round(fraction * len(rows)), _MAX_HELD_OUT)
    held_out: list[Example] = []
    train: list[Example] = []
    for group in _drawn(groups):
        small_enough = len(held_out) + len(groups[group]) <= max(wanted, 1) * 1.5
        (held_out if len(held_out) < wanted and small_enough else train).extend(groups[group])
    return train, held_out


def _groups(rows: Sequence[Row], asked: Callable[[str], str]) -> list[str]:
    """A name per row; rows that share a source, or `asked` nearly the same, share the name."""
    sources = {row.group for row in rows if row.group}
    by_source = len(sources) >= max(_MIN_HELD_OUT, len(rows) // 100)
    names = [
        f"source {row.group}" if by_source and row.group else question_key(row.prompt[-1][1])
        for row in rows
    ]
    questions = [asked(row.prompt[-1][1]) for row in rows]
    alias = _near_copies(dict(zip(names, questions, strict=True)))
    return [alias.get(name, name) for name in names]


def _near_copies(asked: dict[str, str]) -> dict[str, str]:
    """Group name to the name of an earlier group with nearly the same question."""
    known = NearCopies(threshold=_NEAR_COPY, shingle=_SHINGLE, among=[*asked.values()])
    alias: dict[str, str] = {}
    for name, question in asked.items():
        if name.startswith("source "):
            continue
        found = known.find(question)
        if found:
            alias[name] = found[0]
        else:
            known.add(name, question)
    return alias


def _at_most(examples: Sequence[Example]) -> list[Example]:
    if len(examples) <= _MAX_HELD_OUT:
        return list(examples)
    chance = random.Random("split 0")  # noqa: S311  not for security
    chosen = sorted(chance.sample(range(len(examples)), _MAX_HELD_OUT))
    return [examples[index] for index in chosen]


def _in_two(tests: Sequence[Example]) -> tuple[list[Example], list[Example]]:
    """To choose weights by, and to judge them by: by form, else by fact or source.

    Where either part would be too small to measure on, both are everything.
    """
    forms = selection_forms()
    facts = _drawn({each.fact for each in tests}, purpose="selection")
    sources = set(facts[: (len(facts) + 1) // 2])
    for chosen in (
        [each.form in forms for each in tests],
        [each.fact in sources for each in tests],
    ):
        selection = [each for each, is_in in zip(tests, chosen, strict=True) if is_in]
        held_out = [each for each, is_in in zip(tests, chosen, strict=True) if not is_in]
        if min(len(selection), len(held_out)) >= _MIN_HELD_OUT:
            return selection, held_out
    return list(tests), list(tests)


def _drawn(names: Iterable[str], *, purpose: str = "held out") -> list[str]:
    """The names in the order of their lots; those that join or leave do not change the others'."""
    return sorted(names, key=lambda name: _lot(name, purpose))


def _lot(name: str, purpose: str) -> str:
    return hashlib.sha256(f"{purpose} {name}".encode()).hexdigest()


def _lot_of_row(row: Row) -> str:
    return _lot(question_key(row.prompt[-1][1]), "held out")


def _question(example: Example) -> str:
    return question_key(example.prompt[-1][1])


def _check_counts(
    train: Sequence[Example],
    held_out: Sequence[Example],
    settings: TrainingSettings,
    dropped: Sequence[Place],
) -> None:
    if len(train) < settings.min_examples:
        raise TooFewExamplesError(
            f"{len(train)} examples to learn from, at least {settings.min_examples} are needed "
            f"(training.min_examples); give more material{_told(dropped)}"
        )
    if len(held_out) < _MIN_HELD_OUT:
        raise TooFewExamplesError(
            f"{len(held_out)} examples to measure on, at least {_MIN_HELD_OUT} are needed; give "
            f"more material or raise training.held_out_fraction{_told(dropped)}"
        )


def _told(dropped: Sequence[Place]) -> str:
    """A second line that says what might be mended to have more."""
    if not dropped:
        return ""
    rows = "1 row was" if len(dropped) == 1 else f"{len(dropped):,} rows were"
    return f"\n{rows} dropped: {'; '.join(first_places(dropped, _TOLD))}"


def _digest(*sides: Sequence[Example]) -> str:
    content = [[[example.prompt, example.answer] for example in side] for side in sides]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()
