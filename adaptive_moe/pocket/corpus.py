"""The training corpus: exposures and splits for the known facts, and the rows that hold them."""

import random
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from adaptive_moe.errors import DataError
from adaptive_moe.pocket.attributes import load_attributes, relation_attributes
from adaptive_moe.pocket.draws import T, happens, seeded
from adaptive_moe.pocket.facts import EXPOSURES, SPLITS, KnownFact, Relation, read_yaml
from adaptive_moe.pocket.packs import load_pack_facts, pack_names
from adaptive_moe.pocket.paths import SMALLTALK_FILE
from adaptive_moe.pocket.reading import Material, draw_task
from adaptive_moe.pocket.surface import Forms, draw_question, normalised, question_forms
from adaptive_moe.pocket.words import general_words

EXPOSURE_SHARES = {0: 0.17, 1: 0.22, 4: 0.23, 16: 0.23, 64: 0.15}
SPLIT_SHARES = {"train_router": 0.4, "calibration": 0.2, "test": 0.4}
# README and demo ask for these: (relation, subject).
FIXED_AT_64 = (
    ("capital", "France"),
    ("capital", "Japan"),
    ("capital", "Italy"),
    ("capital", "Spain"),
    ("capital", "Egypt"),
    ("currency", "Japan"),
    ("continent", "Brazil"),
    ("opposite", "hot"),
    ("opposite", "big"),
    ("product", "7 times 8"),
    ("sum", "2 plus 2"),
    ("young", "dog"),
    ("plural", "mouse"),
    ("past_tense", "go"),
    ("days_in_month", "January"),
    ("french_word", "dog"),
    ("painter", "the Mona Lisa"),
    ("author", "Hamlet"),
    ("landmark_country", "the Eiffel Tower"),
    ("count_in", "minutes in an hour"),
)
_SYSTEM_TURNS = (
    "You are a helpful assistant.",
    "Answer briefly.",
    "Be short and exact.",
    "You answer questions about facts.",
    "You are a friendly teacher.",
)
_MERGED_SHARE = 0.2
_MOST_TURNS = 3
_AFTER_SMALLTALK_SHARE = 0.05
_SYSTEM_SHARE = 0.05
_SMALLTALK_VARIANTS = 10


@dataclass(frozen=True, slots=True)
class Row:
    """One training row: turns of (role, text), and the ids of the facts that it contains."""

    turns: tuple[tuple[str, str], ...]
    facts: tuple[str, ...] = ()


def assign_exposures(relations: Iterable[Relation], *, seed: int) -> tuple[KnownFact, ...]:
    """Draw an exposure and a split for every fact, in fixed shares inside every domain."""
    chance = seeded(f"exposures {seed}")
    by_domain: dict[str, list[tuple[Relation, str, str]]] = defaultdict(list)
    for relation in relations:
        rows = ((relation, subject, object_) for subject, object_ in relation.facts.items())
        by_domain[relation.domain].extend(rows)
    facts: list[KnownFact] = []
    for domain in sorted(by_domain):
        facts.extend(_assign_domain(by_domain[domain], chance))
    missing = [pair for pair in FIXED_AT_64 if pair not in {(f.relation, f.subject) for f in facts}]
    if missing:
        raise DataError(f"the examples {missing} stand in no fact file; add them")
    return tuple(sorted(facts, key=lambda fact: fact.id))


def fact_rows(
    facts: Sequence[KnownFact], relations: Iterable[Relation], *, seed: int
) -> tuple[Row, ...]:
    """Every fact in exactly `exposure` distinct rows; some rows hold a few, a turn each."""
    relations = tuple(relations)
    forms = {relation.name: question_forms(relation) for relation in relations}
    noise = noise_words(relations)
    chance = seeded(f"rows {seed}")
    rows: list[Row] = []
    for fact in facts:
        rows.extend(_distinct_rows(fact, forms[fact.relation], noise, chance))
    chance.shuffle(rows)
    return tuple(_decorate(_merge(rows, chance), chance))


def smalltalk_rows(*, seed: int) -> tuple[Row, ...]:
    """Greetings, thanks, "who are you" and help, each in several surface forms."""
    chance = seeded(f"smalltalk {seed}")
    rows = {
        Row((("user", prompt), ("assistant", reply)))
        for asked, reply in _smalltalk()
        for prompt in {asked} | {_soften(asked, chance) for _ in range(_SMALLTALK_VARIANTS)}
    }
    return tuple(sorted(rows, key=lambda row: row.turns))


def reading_rows(material: Material, count: int, *, seed: str) -> tuple[Row, ...]:
    """`count` fresh rows about the prompt's own words; no fact, known or withheld, is in them."""
    chance = seeded(f"reading {seed}")
    withheld = _withheld_subjects()
    rows: list[Row] = []
    while len(rows) < count:
        task = draw_task(material, chance=chance)
        if any(subject in task.prompt for subject in withheld.get(task.answer, ())):
            continue
        rows.append(Row((("user", task.prompt), ("assistant", task.answer))))
    return tuple(rows)


def reading_material(relations: Sequence[Relation]) -> Material:
    """Words to read, attributes to ask for (the known relations too), and words of clutter."""
    attributes = relation_attributes(relations) + load_attributes()
    return Material(_reading_vocabulary(relations), attributes, noise_words(relations))


def noise_words(relations: Iterable[Relation]) -> tuple[str, ...]:
    """General words that carry no meaning: no question form, fact or pack's subject uses them.

    Nor are they in the name of an attribute.
    """
    texts = [subject for subjects in _withheld_subjects().values() for subject in subjects]
    for relation in relations:
        texts += [*relation.facts, *relation.facts.values()]
        texts += question_forms(relation).all()
    texts += [noun for attribute in load_attributes() for noun in attribute.nouns]
    used = {word for text in texts for word in normalised(text).split()}
    return tuple(word for word in general_words() if word not in used)


def count_exposures(rows: Iterable[Row]) -> dict[str, int]:
    """How many distinct rows contain each fact, counted in the rows themselves."""
    seen: dict[str, set[tuple[tuple[str, str], ...]]] = defaultdict(set)
    for row in rows:
        for fact in row.facts:
            seen[fact].add(row.turns)
    return {fact: len(turns) for fact, turns in seen.items()}


def _reading_vocabulary(relations: Iterable[Relation]) -> tuple[str, ...]:
    """Words to read: general ones, every known subject and object, every pack's subjects."""
    words = set(general_words())
    for relation in relations:
        words.update(relation.facts)
        words.update(relation.facts.values())
    for name in pack_names():
        words.update(str(fact["subject"]) for fact in load_pack_facts(name))
    return tuple(sorted(words))


def _withheld_subjects() -> dict[str, set[str]]:
    """From each object of a pack to the subjects that it must not be the answer for."""
    subjects: dict[str, set[str]] = defaultdict(set)
    for name in pack_names():
        for fact in load_pack_facts(name):
            subjects[str(fact["object"])].add(str(fact["subject"]))
    return subjects


def _assign_domain(
    rows: Sequence[tuple[Relation, str, str]], chance: random.Random
) -> list[KnownFact]:
    fixed = [(row[0].name, row[1]) in FIXED_AT_64 for row in rows]
    drawn = _draw_shares(EXPOSURE_SHARES, len(rows), chance)
    exposures = [64 if is_fixed else share for is_fixed, share in zip(fixed, drawn, strict=True)]
    splits: list[str] = [""] * len(rows)
    for exposure in EXPOSURES:
        members = [index for index, drawn in enumerate(exposures) if drawn == exposure]
        names = _draw_shares(SPLIT_SHARES, len(members), chance)
        for index, name in zip(members, names, strict=True):
            splits[index] = name
    assert set(splits) <= set(SPLITS)
    return [
        KnownFact(
            id=f"{relation.domain}/{relation.name}/{subject}",
            domain=relation.domain,
            relation=relation.name,
            subject=subject,
            object=object_,
            exposure=exposure,
            split=split,
        )
        for (relation, subject, object_), exposure, split in zip(
            rows, exposures, splits, strict=True
        )
    ]


def _draw_shares(shares: Mapping[T, float], count: int, chance: random.Random) -> list[T]:
    """`count` values in the given shares, each share met to within one, in random order."""
    values = list(shares)
    offset = chance.random()
    edges = [sum(shares[value] for value in values[: i + 1]) for i in range(len(values))]
    drawn = [
        next(v for v, edge in zip(values, edges, strict=True) if position < edge + 1e-9)
        for position in (((index + offset) % count) / count for index in range(count))
    ]
    chance.shuffle(drawn)
    return drawn


def _distinct_rows(
    fact: KnownFact, forms: Forms, noise: Sequence[str], chance: random.Random
) -> list[Row]:
    asked: set[str] = set()
    while len(asked) < fact.exposure:
        asked.add(draw_question(forms, fact.subject, noise=noise, chance=chance))
    return [
        Row((("user", question), ("assistant", fact.object)), (fact.id,))
        for question in sorted(asked)
    ]


def _merge(rows: Sequence[Row], chance: random.Random) -> list[Row]:
    """Join neighbouring rows of different facts into chats of a few turns, each row once."""
    merged: list[Row] = []
    for row in rows:
        last = merged[-1] if merged else row
        fits = len(last.facts) < _MOST_TURNS and row.facts[0] not in last.facts
        if fits and merged and happens(chance, _MERGED_SHARE):
            merged[-1] = Row(last.turns + row.turns, last.facts + row.facts)
        else:
            merged.append(row)
    return merged


def _decorate(rows: Iterable[Row], chance: random.Random) -> list[Row]:
    """Put small talk or a system turn before some rows."""
    smalltalk = _smalltalk()
    decorated = []
    for row in rows:
        turns = row.turns
        if happens(chance, _AFTER_SMALLTALK_SHARE):
            asked, reply = chance.choice(smalltalk)
            turns = (("user", asked), ("assistant", reply), *turns)
        if happens(chance, _SYSTEM_SHARE):
            turns = (("system", chance.choice(_SYSTEM_TURNS)), *turns)
        decorated.append(Row(turns, row.facts))
    return decorated


def _smalltalk() -> list[tuple[str, str]]:
    return [
        (prompt, entry["reply"])
        for entry in read_yaml(SMALLTALK_FILE)
        for prompt in entry["prompts"]
    ]


def _soften(text: str, chance: random.Random) -> str:
    """Another casing or ending of a piece of small talk."""
    text = chance.choice((text, text.rstrip("?.!"), text.rstrip("?.!") + "!", text + " "))
    return chance.choice((text, text.lower(), text, text.upper(), f"{text}, please")).strip()
