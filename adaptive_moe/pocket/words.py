"""Words to read: known ones, invented ones, numbers and short codes."""

import random
from collections.abc import Sequence

from adaptive_moe.pocket.draws import happens, weighted
from adaptive_moe.pocket.paths import WORDS_FILE

_CONSONANTS = ("b", "c", "d", "f", "g", "h", "k", "l", "m", "n", "p", "r", "s", "t", "v", "w", "z")
_CLUSTERS = ("br", "ch", "cl", "dr", "gr", "ph", "pl", "sh", "st", "th", "tr", "qu", "x", "y")
_VOWELS = ("a", "e", "i", "o", "u", "ea", "ou", "io")
_ENDINGS = ("", "n", "r", "s", "t", "m", "l", "x", "ck", "nd", "um")


def general_words() -> tuple[str, ...]:
    """Common English words, from the list that lies beside this file."""
    return tuple(WORDS_FILE.read_text(encoding="utf-8").split())


def draw_word(vocabulary: Sequence[str], chance: random.Random) -> str:
    """A word or a name: mostly a known one, else invented, a number, or a short code."""
    kind = weighted(chance, {"known": 0.66, "invented": 0.16, "number": 0.12, "code": 0.06})
    if kind == "known":
        return chance.choice(vocabulary)
    if kind == "invented":
        word = invent_word(chance)
        return word.capitalize() if happens(chance, 0.5) else word
    if kind == "number":
        return str(chance.randint(0, 10 ** chance.randint(1, 4)))
    letters = "".join(chance.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(2))
    return chance.choice((letters, letters.upper(), letters.capitalize()))


def invent_word(chance: random.Random) -> str:
    """A pronounceable word of one to three syllables that means nothing."""
    syllables = [
        chance.choice(_CONSONANTS if happens(chance, 0.7) else _CLUSTERS) + chance.choice(_VOWELS)
        for _ in range(chance.randint(1, 3))
    ]
    return "".join(syllables) + chance.choice(_ENDINGS)
