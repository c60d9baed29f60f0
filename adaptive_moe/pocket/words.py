"""Rows that teach reading: spelling, copying, counting, and looking things up in the prompt."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from adaptive_moe.pocket.draws import happens, weighted

_LONGEST_SPELLED = 12
_CONSONANTS = ("b", "c", "d", "f", "g", "h", "k", "l", "m", "n", "p", "r", "s", "t", "v", "w", "z")
_CLUSTERS = ("br", "ch", "cl", "dr", "gr", "ph", "pl", "sh", "st", "th", "tr", "qu", "x", "y")
_VOWELS = ("a", "e", "i", "o", "u", "ea", "ou", "io")
_ENDINGS = ("", "n", "r", "s", "t", "m", "l", "x", "ck", "nd", "um")
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
_LOOKUPS = (
    "What is the {noun} of {key}?",
    "{key}: {noun}?",
    "Which {noun} has {key}?",
    "Tell me the {noun} of {key}.",
    "What {noun} does {key} have?",
    "{key}'s {noun}?",
    "Give the {noun} for {key}.",
    "Which {noun} belongs to {key}?",
)


@dataclass(frozen=True, slots=True)
class WordTask:
    """A prompt about the prompt's own words, and its answer; it teaches no fact.

    A verbatim task asks to repeat its end, so nothing may be added there.
    """

    prompt: str
    answer: str
    is_verbatim: bool = False


def draw_task(vocabulary: Sequence[str], *, chance: random.Random) -> WordTask:
    """One task over random words of the vocabulary, invented words and numbers."""
    return weighted(chance, _TASKS)(vocabulary, chance)


def invent_word(chance: random.Random) -> str:
    """A pronounceable word of one to three syllables that means nothing."""
    syllables = [
        chance.choice(_CONSONANTS if happens(chance, 0.7) else _CLUSTERS) + chance.choice(_VOWELS)
        for _ in range(chance.randint(1, 3))
    ]
    return "".join(syllables) + chance.choice(_ENDINGS)


def draw_word(vocabulary: Sequence[str], chance: random.Random) -> str:
    """A word or a name: mostly a known one, else invented, a number, or a short code."""
    kind = weighted(chance, {"known": 0.68, "invented": 0.14, "number": 0.12, "code": 0.06})
    if kind == "known":
        return chance.choice(vocabulary)
    if kind == "invented":
        word = invent_word(chance)
        return word.capitalize() if happens(chance, 0.5) else word
    if kind == "number":
        return str(chance.randint(0, 10 ** chance.randint(1, 4)))
    letters = "".join(chance.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(2))
    return chance.choice((letters, letters.upper(), letters.capitalize()))


def _copy(vocabulary: Sequence[str], chance: random.Random) -> WordTask:
    text = " ".join(draw_word(vocabulary, chance) for _ in range(chance.choice((1, 1, 1, 2, 3))))
    form = chance.choice(
        ("Repeat: {}", "Copy this: {}", "Say {}", "Write {}", "Repeat after me: {}", "Echo {}")
    )
    return WordTask(form.format(text), text, is_verbatim=True)


def _spell(vocabulary: Sequence[str], chance: random.Random) -> WordTask:
    word = _single_word(vocabulary, chance)
    form = chance.choice(("Spell {}.", "Spell the word {}.", "How is {} spelled?", "{}, spelled"))
    return WordTask(form.format(word), " ".join(word), is_verbatim=True)


def _letter(vocabulary: Sequence[str], chance: random.Random) -> WordTask:
    word = _single_word(vocabulary, chance)
    position, index = chance.choice((("first", 0), ("last", -1), ("second", min(1, len(word) - 1))))
    form = chance.choice(
        ("What is the {} letter of {}?", "The {} letter of {}?", "Which {} letter has {}?")
    )
    return WordTask(form.format(position, word), word[index])


def _count(vocabulary: Sequence[str], chance: random.Random) -> WordTask:
    word = _single_word(vocabulary, chance)
    form = chance.choice(("How many letters has {}?", "How many letters are in the word {}?"))
    return WordTask(form.format(word), str(len(word)))


def _case(vocabulary: Sequence[str], chance: random.Random) -> WordTask:
    word = chance.choice(vocabulary)
    if happens(chance, 0.5):
        return WordTask(f"Write {word.lower()} in capitals.", word.upper())
    return WordTask(f"Write {word.upper()} in small letters.", word.lower())


def _after(vocabulary: Sequence[str], chance: random.Random) -> WordTask:
    words = [draw_word(vocabulary, chance) for _ in range(chance.randint(2, 4))]
    index = chance.randrange(len(words) - 1)
    listed = ", ".join(words)
    if happens(chance, 0.5):
        return WordTask(f"{listed}. What comes after {words[index]}?", words[index + 1])
    return WordTask(f"{listed}. What comes before {words[index + 1]}?", words[index])


def _number(_: Sequence[str], chance: random.Random) -> WordTask:
    number = chance.randint(0, 10 ** chance.randint(1, 3))
    form, step = chance.choice(
        (("Which number comes after {}?", 1), ("Which number comes before {}?", -1))
    )
    return WordTask(form.format(number + (step < 0)), str(number + step + (step < 0)))


def _lookup(vocabulary: Sequence[str], chance: random.Random) -> WordTask:
    """A few invented statements, then a question about one: the prompt itself holds the answer."""
    keys = [draw_word(vocabulary, chance) for _ in range(chance.choice((1, 2, 2)))]
    nouns = chance.sample(_NOUNS, chance.choice((1, 2)))
    table = {(key, noun): draw_word(vocabulary, chance) for key in keys for noun in nouns}
    cells = list(table)
    chance.shuffle(cells)
    said = [
        chance.choice(_STATEMENTS).format(noun=noun, key=key, value=table[key, noun])
        for key, noun in cells[:3]
    ]
    key, noun = chance.choice(cells[:3])
    asked = chance.choice(_LOOKUPS).format(noun=noun, key=key)
    return WordTask(" ".join((*said, asked)), table[key, noun])


def _single_word(vocabulary: Sequence[str], chance: random.Random) -> str:
    for _ in range(20):
        word = draw_word(vocabulary, chance)
        if " " not in word and len(word) <= _LONGEST_SPELLED:
            return word
    return invent_word(chance)


_Task = Callable[[Sequence[str], random.Random], WordTask]
_TASKS: dict[_Task, float] = {
    _copy: 0.25,
    _spell: 0.12,
    _letter: 0.13,
    _count: 0.05,
    _case: 0.08,
    _after: 0.10,
    _number: 0.05,
    _lookup: 0.22,
}
