"""How one fact is asked in many ways: its phrasings, generic forms, and surface variation."""

import random
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from adaptive_moe.pocket.draws import happens, weighted
from adaptive_moe.pocket.facts import Relation
from adaptive_moe.pocket.words import invent_word

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
    "{subject} has which {noun}?",
    "{subject} comes with what {noun}?",
    "With {subject} in mind, which {noun} is right?",
    "What would be the {noun} if I take {subject}?",
    "If somebody says {subject}, which {noun} do you think of?",
    "Under which {noun} would I find {subject}?",
    "In a list, what stands as the {noun} next to {subject}?",
    "Suppose I ask for {subject}: what {noun} do you give?",
    "By what {noun} is {subject} known?",
    "One question on {subject}: its {noun}?",
    "I want to find {subject}; which {noun} do I look for?",
    "Where it says {subject}, what does it say as {noun}?",
    "How do people give the {noun} of {subject}?",
    "Say which {noun} the thing called {subject} has.",
)
_CLOZE_FORMS = (
    "{start}",
    "{start} ...",
    "Complete the sentence: {start}",
    "Finish: {start} ...",
    "Fill the gap: {start} ___",
)
# Sentences of clutter; each ~ becomes a word of noise.
_SENTENCES = (
    "My ~ likes the ~.",
    "I saw a ~ near the ~.",
    "The ~ is ~ and the ~ is ~.",
    "Someone talks about the ~.",
    "A ~ wants to know this.",
    "We were ~ all day.",
    "It is for a ~.",
    "There was a ~ ~ on the ~.",
    "Before my ~, I need to know:",
    "While I ~ the ~, tell me:",
    "At the ~ someone asks:",
    "In a ~ about the ~ I read:",
    "For the ~ and the ~:",
    "Suppose that a ~ ~ the ~.",
    "If you ~ a ~,",
    "When the ~ is ~,",
    "On a ~ ~,",
    "As a ~ of the ~,",
    "To ~ the ~,",
)
_MARKED_SHARE = 1 / 12
_FUNCTION_WORDS = frozenset(
    re.findall(
        r"\w+",
        "a an and are as at be by can do does for from give has have i in is it its me my name of "
        "on or some tell that the this to was we what which who with you",
    )
)
# How people set off a name from the words around it.
_MARKS = ('"{}"', "'{}'", "`{}`", "({})", "*{}*", "{}()", "[{}]", "{}:", "the word {}")
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


@dataclass(frozen=True, slots=True)
class Forms:
    """The ways to ask for one relation, by kind; none of them equals a held-out phrasing."""

    trained: tuple[str, ...]
    further: tuple[str, ...]
    generic: tuple[str, ...]
    cloze: tuple[str, ...]

    def all(self) -> tuple[str, ...]:
        """Every form, each once."""
        return tuple(dict.fromkeys((*self.trained, *self.further, *self.generic, *self.cloze)))


def question_forms(relation: Relation) -> Forms:
    """The trained phrasings and all further forms that equal no held-out phrasing."""
    held_out = {normalised(phrasing) for phrasing in relation.held_out}

    def allowed(forms: Iterable[str]) -> tuple[str, ...]:
        return tuple(form for form in forms if normalised(form) not in held_out)

    generic = (form.replace("{noun}", n) for n in relation.nouns for form in GENERIC_FORMS)
    cloze = (form.replace("{start}", s) for s in _cloze(relation) for form in _CLOZE_FORMS)
    return Forms(relation.trained, allowed(relation.forms), allowed(generic), allowed(cloze))


def draw_question(
    forms: Forms, subject: str, *, noise: Sequence[str], chance: random.Random
) -> str:
    """One way of asking for the subject, with the surface varied.

    `noise` are words that mean nothing here: some questions are cluttered with them, so that the
    model learns to find subject and relation among words it has never seen in a question.
    """
    kind = weighted(chance, {"trained": 0.25, "further": 0.4, "generic": 0.25, "cloze": 0.1})
    pool = {"further": forms.further, "generic": forms.generic, "cloze": forms.cloze}.get(kind)
    form = chance.choice(pool or forms.trained)
    return vary(fill(form, subject, noise=noise, chance=chance), chance=chance)


def fill(form: str, subject: str, *, noise: Sequence[str], chance: random.Random) -> str:
    """The form with its subject: plain (60 %), among words of noise, or beside a sentence of it.

    One subject in twelve is set off by quotes or the like.
    """
    if happens(chance, _MARKED_SHARE):
        subject = chance.choice(_MARKS).format(subject)
    clutter = weighted(chance, {"none": 0.6, "words": 0.2, "sentence": 0.2})
    if clutter == "words":
        form = _scatter(form, noise, chance)
    text = form.replace("{subject}", subject)
    return _beside_sentence(text, noise, chance) if clutter == "sentence" else text


def vary(text: str, *, chance: random.Random, keeps_case: bool = False) -> str:
    """Leave a text plain (45 %) or change prefix, suffix, punctuation or, if allowed, casing."""
    if not keeps_case:
        text = text[0].upper() + text[1:]
    kind = weighted(chance, {"plain": 0.45, "prefix": 0.17, "suffix": 0.12, "ending": 0.26})
    if kind == "plain":
        return text
    if kind == "prefix":
        text = chance.choice(_PREFIXES).format(text)
    elif kind == "suffix":
        text = chance.choice(_SUFFIXES).format(text)
    text = _change_ending(text, chance=chance)
    return text if keeps_case else _change_casing(text, chance=chance)


def _beside_sentence(text: str, noise: Sequence[str], chance: random.Random) -> str:
    """Put a sentence made of words of noise before or after a question."""
    clutter = re.sub("~", lambda _: _noise_word(noise, chance), chance.choice(_SENTENCES))
    if clutter.endswith((":", ",")) or happens(chance, 0.6):
        return f"{clutter} {text}"
    return f"{text} {clutter}"


def _scatter(form: str, noise: Sequence[str], chance: random.Random) -> str:
    """Drop some function words and put one to four words of noise anywhere between the others."""
    words = [
        word
        for word in form.split()
        if word.lower() not in _FUNCTION_WORDS or not happens(chance, 0.35)
    ]
    for _ in range(chance.randint(1, 4)):
        words.insert(chance.randint(0, len(words)), _noise_word(noise, chance))
    return " ".join(words)


def _noise_word(noise: Sequence[str], chance: random.Random) -> str:
    """A general word or an invented one: words never seen before must not distract either."""
    return invent_word(chance) if happens(chance, 0.4) else chance.choice(noise)


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
