"""Rows that teach reading: what a question is about, spelling, copying, looking things up.

They let the model find the subject and the relation of a question in any words, known or not;
later experts build on that. None of them teaches a fact.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from adaptive_moe.pocket.attributes import Attribute
from adaptive_moe.pocket.draws import happens, seeded, weighted
from adaptive_moe.pocket.surface import GENERIC_FORMS, fill, vary
from adaptive_moe.pocket.words import draw_word, invent_word

_LONGEST_SPELLED = 12
_OWN_WORDING = 0.75  # of the questions for an attribute; the others fit any attribute
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
# Mostly behind the question: what stands in front cannot know then what it will be read for, so
# the question's own words must carry it, as they must when a fact is asked for.
_TOPIC_FORMS = (
    "What is asked about here? {}",
    "Topic: {}",
    "{} What is the topic?",
    "{} Find the topic.",
    "{} Which thing is meant?",
    "{} About which thing is this?",
)
_WANTED_FORMS = (
    "What is wanted here? {}",
    "Wanted: {}",
    "{} What is wanted?",
    "{} Find what is wanted.",
    "{} Which property is meant?",
    "{} What does this ask for?",
)
_PLAIN_FORMS = (
    "Say it simply: {}",
    "{} Say that simply.",
    "{} In plain words?",
    "{} Put this plainly.",
    "{} What of what?",
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
    """What tasks are made of: words to read, attributes to ask for, words of clutter."""

    vocabulary: Sequence[str]
    attributes: Sequence[Attribute]
    noise: Sequence[str]


def draw_task(material: Material, *, chance: random.Random) -> Task:
    """One task over random known words, invented words and numbers, its surface varied."""
    task = weighted(chance, _TASKS)(material, chance)
    if task.is_verbatim or happens(chance, 0.4):
        return task
    return Task(vary(task.prompt, chance=chance, keeps_case=True), task.answer)


def held_out_tasks(attributes: Sequence[Attribute], words: Sequence[str]) -> list[tuple[str, str]]:
    """Prompt and answer of one `wanted` task for every held-out wording, about a random word."""
    chance = seeded("held-out tasks")
    return [
        (
            chance.choice(_WANTED_FORMS).format(form.replace("{subject}", chance.choice(words))),
            attribute.nouns[0],
        )
        for attribute in attributes
        for form in attribute.held_out
    ]


def _property(material: Material, chance: random.Random) -> Task:
    """Ask for something that can be read off a word in the very forms that ask for facts."""
    nouns, function = chance.choice(list(_PROPERTIES.items()))
    word = _single_word(material, chance)
    form = chance.choice(GENERIC_FORMS).replace("{noun}", chance.choice(nouns))
    asked = fill(form, word, noise=material.noise, chance=chance)
    return Task(asked, function(word))


def _topic(material: Material, chance: random.Random) -> Task:
    """Name the subject of a question, whatever it asks for and in whatever form."""
    word = draw_word(material.vocabulary, chance)
    asked = _ask_for(chance.choice(material.attributes), word, material, chance)
    return Task(chance.choice(_TOPIC_FORMS).format(asked), word)


def _wanted(material: Material, chance: random.Random) -> Task:
    """Name what a question asks for by its usual name, whatever its subject and its words are."""
    attribute = chance.choice(material.attributes)
    word = draw_word(material.vocabulary, chance)
    asked = _ask_for(attribute, word, material, chance)
    return Task(chance.choice(_WANTED_FORMS).format(asked), attribute.nouns[0])


def _plainly(material: Material, chance: random.Random) -> Task:
    """Say both, what is asked for and of what."""
    attribute = chance.choice(material.attributes)
    word = draw_word(material.vocabulary, chance)
    asked = _ask_for(attribute, word, material, chance)
    return Task(chance.choice(_PLAIN_FORMS).format(asked), f"{attribute.nouns[0]} of {word}")


def _lookup(material: Material, chance: random.Random) -> Task:
    """A few invented statements, then a question about one: the prompt itself holds the answer.

    Statement and question may name the attribute differently.
    """
    keys = [draw_word(material.vocabulary, chance) for _ in range(chance.choice((1, 1, 2)))]
    attributes = chance.sample(material.attributes, chance.choice((1, 2)))
    cells = [(key, attribute) for key in keys for attribute in attributes]
    chance.shuffle(cells)
    said = [(*cell, draw_word(material.vocabulary, chance)) for cell in cells[:3]]
    statements = [
        chance.choice(_STATEMENTS).format(noun=chance.choice(attribute.nouns), key=key, value=value)
        for key, attribute, value in said
    ]
    key, attribute, value = chance.choice(said)
    asked = chance.choice((*attribute.forms, *_generic(attribute))).replace("{subject}", key)
    return Task(" ".join((*statements, asked)), value)


def _ask_for(attribute: Attribute, subject: str, material: Material, chance: random.Random) -> str:
    """A question for an attribute of the subject, in a wording of its own or in a generic one."""
    own = happens(chance, _OWN_WORDING)
    form = chance.choice(attribute.forms if own else _generic(attribute))
    return fill(form, subject, noise=material.noise, chance=chance)


def _generic(attribute: Attribute) -> tuple[str, ...]:
    return tuple(form.replace("{noun}", noun) for noun in attribute.nouns for form in GENERIC_FORMS)


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
    _property: 0.16,
    _topic: 0.24,
    _wanted: 0.2,
    _plainly: 0.1,
    _lookup: 0.14,
    _copy: 0.1,
    _spell: 0.02,
    _case: 0.01,
    _after: 0.02,
    _number: 0.01,
}
