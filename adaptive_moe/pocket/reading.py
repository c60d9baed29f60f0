"""Rows that teach reading: what a question is about, spelling, copying, looking things up.

They let the model find the subject and the relation of a question in any words, known or not;
later experts build on that. None of them teaches a fact.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from adaptive_moe.pocket.draws import happens, weighted
from adaptive_moe.pocket.surface import GENERIC_FORMS, Forms, fill, vary
from adaptive_moe.pocket.words import draw_word, invent_word

_LONGEST_SPELLED = 12
_NOUNS = (
    "colour", "size", "name", "number", "code", "meaning", "place", "kind", "owner", "year",
    "symbol", "group", "use", "port", "result", "letter", "partner", "value", "home", "friend",
    "sign", "type", "weight", "part", "leader", "class", "month", "answer", "key", "word",
    "title", "rank", "family", "position", "mark", "label", "category", "status", "length",
)  # fmt: skip
_STATEMENTS = (
    "The {noun} of {key} is {value}.",
    "{key} has the {noun} {value}.",
    "{key}: {noun} {value}.",
    "For {key} the {noun} is {value}.",
    "{value} is the {noun} of {key}.",
)
# What can be read off a word itself, under several nouns each.
_PROPERTIES: dict[tuple[str, ...], Callable[[str], str]] = {
    ("first letter", "initial", "starting letter", "letter at the start"): lambda word: word[0],
    ("last letter", "final letter", "ending letter", "letter at the end"): lambda word: word[-1],
    ("number of letters", "letter count", "length in letters"): lambda word: str(len(word)),
    ("form in capitals", "capital form", "upper case"): str.upper,
    ("spelling", "list of letters", "spelled form"): " ".join,
    ("copy", "exact word", "repetition", "echo"): str,
}
_TOPIC_FORMS = (
    "What is asked about here? {}",
    "Topic: {}",
    "{} What is the topic?",
    "Find the topic: {}",
    "Which thing is meant: {}",
    "{} About which thing is this?",
)
_WANTED_FORMS = (
    "What is wanted here? {}",
    "Wanted: {}",
    "{} What is wanted?",
    "Find what is wanted: {}",
    "Which property is meant: {}",
)


@dataclass(frozen=True, slots=True)
class Task:
    """A prompt about its own words, and its answer.

    A verbatim task asks to repeat its end, so nothing may be added there.
    """

    prompt: str
    answer: str
    is_verbatim: bool = False


@dataclass(frozen=True, slots=True)
class Material:
    """What tasks are made of: words to read, question forms to ask in, words of clutter."""

    vocabulary: Sequence[str]
    forms: Sequence[Forms]
    noise: Sequence[str]


def draw_task(material: Material, *, chance: random.Random) -> Task:
    """One task over random known words, invented words and numbers, its surface varied."""
    task = weighted(chance, _TASKS)(material, chance)
    if task.is_verbatim or happens(chance, 0.4):
        return task
    return Task(vary(task.prompt, chance=chance, keeps_case=True), task.answer)


def _property(material: Material, chance: random.Random) -> Task:
    """Ask for something that can be read off a word in the very forms that ask for facts."""
    nouns, function = chance.choice(list(_PROPERTIES.items()))
    word = _single_word(material, chance)
    form = chance.choice(GENERIC_FORMS).replace("{noun}", chance.choice(nouns))
    asked = fill(form, word, noise=material.noise, chance=chance)
    return Task(asked, function(word))


def _topic(material: Material, chance: random.Random) -> Task:
    """Name the subject of a question, whatever it asks for and in whatever form."""
    forms = chance.choice(material.forms)
    word = draw_word(material.vocabulary, chance)
    asked = fill(chance.choice(forms.all()), word, noise=material.noise, chance=chance)
    return Task(chance.choice(_TOPIC_FORMS).format(asked), word)


def _wanted(material: Material, chance: random.Random) -> Task:
    """Name what a question asks for, whatever its subject is."""
    noun = chance.choice((chance.choice(_NOUNS), chance.choice(material.noise)))
    word = draw_word(material.vocabulary, chance)
    asked = chance.choice(GENERIC_FORMS).replace("{noun}", noun).replace("{subject}", word)
    return Task(chance.choice(_WANTED_FORMS).format(asked), noun)


def _lookup(material: Material, chance: random.Random) -> Task:
    """A few invented statements, then a question about one: the prompt itself holds the answer."""
    keys = [draw_word(material.vocabulary, chance) for _ in range(chance.choice((1, 2, 2)))]
    nouns = chance.sample(_NOUNS, chance.choice((1, 2)))
    table = {(key, noun): draw_word(material.vocabulary, chance) for key in keys for noun in nouns}
    cells = list(table)
    chance.shuffle(cells)
    said = [
        chance.choice(_STATEMENTS).format(noun=noun, key=key, value=table[key, noun])
        for key, noun in cells[:3]
    ]
    key, noun = chance.choice(cells[:3])
    asked = chance.choice(GENERIC_FORMS).replace("{noun}", noun).replace("{subject}", key)
    return Task(" ".join((*said, asked)), table[key, noun])


def _copy(material: Material, chance: random.Random) -> Task:
    count = chance.choice((1, 1, 1, 2, 3))
    text = " ".join(draw_word(material.vocabulary, chance) for _ in range(count))
    form = chance.choice(
        ("Repeat: {}", "Copy this: {}", "Say {}", "Write {}", "Repeat after me: {}", "Echo {}")
    )
    return Task(form.format(text), text, is_verbatim=True)


def _spell(material: Material, chance: random.Random) -> Task:
    word = _single_word(material, chance)
    form = chance.choice(("Spell {}.", "Spell the word {}.", "How is {} spelled?", "{}, spelled"))
    return Task(form.format(word), " ".join(word))


def _case(material: Material, chance: random.Random) -> Task:
    word = chance.choice(material.vocabulary)
    if happens(chance, 0.5):
        return Task(f"Write {word.lower()} in capitals.", word.upper())
    return Task(f"Write {word.upper()} in small letters.", word.lower())


def _after(material: Material, chance: random.Random) -> Task:
    words = [draw_word(material.vocabulary, chance) for _ in range(chance.randint(2, 4))]
    index = chance.randrange(len(words) - 1)
    listed = ", ".join(words)
    if happens(chance, 0.5):
        return Task(f"{listed}. What comes after {words[index]}?", words[index + 1])
    return Task(f"{listed}. What comes before {words[index + 1]}?", words[index])


def _number(_: Material, chance: random.Random) -> Task:
    number = chance.randint(0, 10 ** chance.randint(1, 3))
    form, step = chance.choice(
        (("Which number comes after {}?", 1), ("Which number comes before {}?", -1))
    )
    return Task(form.format(number + (step < 0)), str(number + step + (step < 0)))


def _single_word(material: Material, chance: random.Random) -> str:
    for _ in range(20):
        word = draw_word(material.vocabulary, chance)
        if " " not in word and len(word) <= _LONGEST_SPELLED:
            return word
    return invent_word(chance)


_Draw = Callable[[Material, random.Random], Task]
_TASKS: dict[_Draw, float] = {
    _property: 0.32,
    _topic: 0.26,
    _wanted: 0.06,
    _lookup: 0.14,
    _copy: 0.09,
    _spell: 0.03,
    _case: 0.03,
    _after: 0.05,
    _number: 0.02,
}
