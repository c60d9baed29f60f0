"""How one fact is asked in many ways: its phrasings, generic forms, and surface variation."""

import random
import re
from collections.abc import Sequence

from adaptive_moe.pocket.draws import happens, weighted
from adaptive_moe.pocket.facts import Relation

# Forms that fit any relation, so that the model learns that they all ask for the same thing.
GENERIC_FORMS = (
    "What is the {noun} of {subject}?",
    "{subject}: {noun}?",
    "{noun} of {subject}?",
    "Tell me the {noun} of {subject}.",
    "Name the {noun} of {subject}.",
    "Give the {noun} for {subject}.",
    "{subject}'s {noun}?",
    "What is {subject}'s {noun}?",
    "For {subject}, what is the {noun}?",
    "What {noun} does {subject} have?",
    "Which {noun} belongs to {subject}?",
    "Which {noun} goes with {subject}?",
    "I need the {noun} of {subject}.",
    "Look up the {noun} of {subject}.",
    "{subject}. What is the {noun}?",
    "Do you know the {noun} of {subject}?",
    "About {subject}: which {noun}?",
    "{noun} for {subject}?",
    "Can you tell me the {noun} of {subject}?",
    "I am looking at {subject}. What is its {noun}?",
)
_CLOZE_FORMS = (
    "{start}",
    "{start} ...",
    "Complete the sentence: {start}",
    "Finish: {start} ...",
    "Fill the gap: {start} ___",
)
_PREFIXES = (
    "Please tell me: {}",
    "Question: {}",
    "Quick question: {}",
    "Hi! {}",
    "Hello. {}",
    "Hey, {}",
    "I wonder: {}",
    "Help me with this: {}",
    "One more: {}",
    "Now this: {}",
    "Quiz time! {}",
    "For my homework: {}",
    "My friend asks: {}",
    "A child asked me this. {}",
    "I would like to know this: {}",
    "Tell me if you can. {}",
    "So, {}",
    "Well, {}",
    "And {}",
)
_SUFFIXES = (
    "{} Please.",
    "{} Thanks!",
    "{} Thank you.",
    "{} Answer briefly.",
    "{} Just the answer.",
    "{} I forgot.",
    "{} I am not sure.",
    "{} Do you know?",
    "{} Please help.",
    "{} In one word or two.",
)


def normalised(text: str) -> str:
    """Lower case, words only: two texts equal in this form count as the same phrasing."""
    return " ".join(re.findall(r"[^\W_]+|\{\w+\}", text.lower()))


def question_forms(relation: Relation) -> tuple[str, ...]:
    """The trained phrasings, then those generic and cloze forms that equal no held-out phrasing."""
    held_out = {normalised(phrasing) for phrasing in relation.held_out}
    forms = list(relation.trained)
    extra = [form.replace("{noun}", relation.noun) for form in GENERIC_FORMS]
    extra += [form.replace("{start}", start) for start in _cloze(relation) for form in _CLOZE_FORMS]
    taken = held_out | {normalised(form) for form in forms}
    return (*forms, *(form for form in extra if normalised(form) not in taken))


def draw_question(
    relation: Relation, subject: str, *, forms: Sequence[str], chance: random.Random
) -> str:
    """One way of asking: half of the time a trained phrasing, else a generic or cloze form."""
    count = len(relation.trained)
    pool = forms[:count] if happens(chance, 0.5) or len(forms) == count else forms[count:]
    text = chance.choice(pool).replace("{subject}", subject)
    return vary(text, chance=chance)


def vary(text: str, *, chance: random.Random) -> str:
    """Leave a text plain (45 %) or change prefix, suffix, casing or punctuation."""
    text = text[0].upper() + text[1:]
    kind = weighted(chance, {"plain": 0.45, "prefix": 0.17, "suffix": 0.12, "ending": 0.26})
    if kind == "plain":
        return text
    if kind == "prefix":
        text = chance.choice(_PREFIXES).format(text)
    elif kind == "suffix":
        text = chance.choice(_SUFFIXES).format(text)
    return _change_casing(_change_ending(text, chance=chance), chance=chance)


def _cloze(relation: Relation) -> list[str]:
    """The statement up to its object, where the object ends the sentence."""
    start, _, rest = relation.statement.partition("{object}")
    return [start.rstrip()] if not rest.strip(" .!") and "{subject}" in start else []


def _change_ending(text: str, *, chance: random.Random) -> str:
    kind = weighted(chance, {"same": 0.7, "none": 0.2, "spaced": 0.05, "other": 0.05})
    bare = text.rstrip("?.!")
    if kind == "same":
        return text
    if kind == "none":
        return bare
    return bare + " ?" if kind == "spaced" else bare + chance.choice(("?", "??", "!", "..", "."))


def _change_casing(text: str, *, chance: random.Random) -> str:
    kind = weighted(chance, {"same": 0.74, "lower": 0.22, "upper": 0.04})
    return {"same": text, "lower": text.lower(), "upper": text.upper()}[kind]
