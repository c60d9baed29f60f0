"""The forms in which a teacher asks for facts; one of them only measures."""

import random

TAUGHT_FORMS = {
    "taught-question": "questions (What, Which, Who, When, How many ...?)",
    "taught-request": "requests (Name ..., Give ..., Tell me ...)",
    "taught-gap": "sentences with a gap, written ___, in place of the answer",
}
REWRITTEN = "taught-rewritten"
IMPLIED = "taught-implied"
TEACHERS_FORMS = frozenset({*TAUGHT_FORMS, REWRITTEN, IMPLIED})
"""Of whatever a teacher had a part in."""


def held_out_taught_form() -> str:
    """The one of `TAUGHT_FORMS` that no training learns from, whatever its seed."""
    chance = random.Random("held-out taught form 0")  # noqa: S311  not for security
    return chance.choice(sorted(TAUGHT_FORMS))
