"""Strings that must never reach a terminal as they are, and what is left when they do not."""

import random
import re
import unicodedata

PAYLOADS = (
    "\x1b[2J\x1b[H", "\x1b]0;title\x07", "\x1b]52;c;ZXZpbA==\x07", "\x1b]8;;http://x\x1b\\link",
    "\x9b31m", "\x90q\x9c", "\u202egnp.exe\u202c", "\u2066hidden\u2069", "a\u200bb\ufeffc",
    "[/INST]", "[bold]x", "[/]", "[link=file:///etc/passwd]x[/link]", "\\[red]",
    "[@click=app.bell]", ":smile:", "\r overwritten", "\x08\x08\x08", "\x7f",
    "\ud83d", "\u2028\u2029", "a\x00b", "\x0e\x0f",
    "\U000e0041\U000e0042", "\x1b[6n", "\x1bc", "\x1b(0", "\x85", "\ttab", "two\nlines",
)  # fmt: skip
_ALPHABET = [*PAYLOADS, *"[]\\/ab =#:@'\"", "\x1b", "\x9b", "é", "漢", "🙂"]
_OWN_STYLES = re.compile(r"\x1b\[[0-9;]*m")


def strings(count: int) -> list[str]:
    """Every payload, and seeded mixtures of their parts."""
    chance = random.Random(7)  # noqa: S311
    mixed = ["".join(chance.choices(_ALPHABET, k=chance.randint(1, 9))) for _ in range(count)]
    return [*PAYLOADS, *mixed][:count]


def leaks(shown: str) -> list[str]:
    """What got through, not counting rich's own colours."""
    plain = _OWN_STYLES.sub("", shown)
    return [
        character
        for character in plain
        if character not in "\n\t" and unicodedata.category(character) in ("Cc", "Cf", "Cs")
    ]
