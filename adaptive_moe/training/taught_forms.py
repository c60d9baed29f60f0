"""The forms in which a teacher asks for facts; which of them only measures is drawn by the seed."""

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


def held_out_taught_form(seed: int) -> str:
    """The one of `TAUGHT_FORMS` that no training of this seed learns from."""
    chance = random.Random(f"held-out taught form {seed}")  # noqa: S311  not for security
    return chance.choice(sorted(TAUGHT_FORMS))
