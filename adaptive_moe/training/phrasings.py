"""How training questions are worded: which forms are held out, and what is put around a form."""

import random
import re
import string
from collections.abc import Sequence
from functools import lru_cache

from adaptive_moe.training.question_forms import DEFINITION_FORMS, FORMS

_HELD_OUT_SHARE = 0.12

_PREFIXES = (
    "Please tell me: {}",
    "Please: {}",
    "Question: {}",
    "Quick question: {}",
    "Hello. {}",
    "Hi! {}",
    "I wonder: {}",
    "One more: {}",
    "Help me: {}",
    "I forgot. {}",
    "So, {}",
    "Tell me, {}",
    "My friend asks: {}",
    "A quick check: {}",
    "In short: {}",
    "I never remember this. {}",
)
_SUFFIXES = (
    "{} Please.",
    "{} Thanks!",
    "{} Answer briefly.",
    "{} Just the answer.",
    "{} Do you know?",
    "{} I am not sure.",
    "{} One word will do.",
)
# Ways to say which field a question belongs to; {} is the question, {topic} the field's name.
_TOPICAL = (
    "In {topic}, {}",
    "{topic}: {}",
    "About {topic}: {}",
    "This is about {topic}. {}",
    "With {topic} in mind: {}",
    "A {topic} question: {}",
    "{} I mean in {topic}.",
)
# Sentences of other matters beside a question; each ~ becomes a filler or a thing.
_ASIDES = (
    "My ~ and I have a ~.",
    "I saw it on a ~ in the ~.",
    "There is a ~ on the ~.",
    "This is for a ~ about the ~.",
    "We talk of the ~ and the ~ here.",
    "Nobody at the ~ could say.",
    "It came up at the ~ again.",
    "Somebody left a ~ beside the ~.",
    "The ~ asks me this.",
    "I am writing a ~ for the ~.",
    "Before I ~ the ~, one thing:",
    "At the ~ they want to know:",
    "From my ~ to yours:",
    "While the ~ goes to the ~,",
    "In my ~ there is a ~, so",
    "For the ~ on the ~,",
    "As the ~ in a ~,",
    "With a ~ or a ~ in front of me,",
    "On the ~ of the ~ I read this:",
    "If the ~ needs it,",
)
_THING_WORDS = (
    "afternoon article basket bicycle bottle box bridge brother building bus cake camera chair "
    "chapter chart classroom colleague corner cousin customer daughter desk diary doctor door "
    "drawer exam exercise exhibition family field film folder game garden guest hall headline "
    "homework hotel house journey kitchen label lamp lecture lesson letter library magazine map "
    "market meeting memo menu message mirror morning museum neighbour newspaper notebook office "
    "package painting paragraph park pencil phone photo picture platform poster presentation "
    "programme project pupil puzzle quiz radio recipe report river road room sample school screen "
    "shelf shop sister slide speaker station story street summer supper sweater table talk task "
    "teacher test textbook theatre ticket tourist town train trip tutor uncle village visitor "
    "wall weather website wedding week window winter workshop"
)
# How people set off a name. Where the documents write it as code, it may stand inside of some: its
# tokens are others there, as they join with the marks around them. ~ is a filler.
MARKS = ('"{}"', "'{}'", "({})", "*{}*", "`{}`")
CODE_MARKS = (
    *("`{}`", "`{}`", "`{}()`", "{}()", "{}(...)", "{}.~", "{}.__~__"),
    *("~({})", "~({}(...))", "~({}.~)", "~ = {}(...)"),
)
# Words that say nothing about what is asked; learning to see past them is learning to see past
# those of any person.
_FILLER_WORDS = (
    "actually again ahead all along also always anyone anything around ask at back because before "
    "behind being best book call called carry case come commonly correct day does each else ever "
    "every exactly find first follow found get given go good grown guess hand have hear here home "
    "how inside just keep kind know known last later learn leave let like look made make mean meet "
    "most much must near need never new next normally note now often old once one only open order "
    "other our own page part people perhaps person pick place please point put quite read really "
    "right said same see seen serve set show shown simply since some someone something sometimes "
    "somewhere sort spot stand start still student such sure take tell thing think time today told "
    "try turn under use used usually wait want was way well where while who whole why will with "
    "without work world would write year yet you your"
)
_FILLERS = (_FILLER_WORDS + " " + _THING_WORDS).split()
_PLAIN, _PREFIXED, _SUFFIXED = 0.3, 0.42, 0.5  # cumulative shares of the ways to dress
_THINNED, _FILLED, _BESIDE = 0.62, 0.78, 0.98
_LOWER, _NO_END = 0.25, 0.25
_ASIDE_FIRST = 0.7  # of the whole sentences beside a question
_DROPPED = 0.4  # of the words that may go when a question is thinned


@lru_cache
def held_out_forms() -> frozenset[str]:
    """The whole forms that no training question may have, whatever the training's seed.

    Drawn from the fixed lists alone, before any document is looked at; the same for all trainings,
    so that an expert's versions can be compared in forms that none of them was taught.
    """
    chance = random.Random("held-out forms 0")  # noqa: S311  not for security
    chosen: set[str] = set()
    for group in (FORMS, DEFINITION_FORMS):
        chosen.update(chance.sample(sorted(group), max(2, round(_HELD_OUT_SHARE * len(group)))))
    return frozenset(chosen)


@lru_cache
def selection_forms() -> frozenset[str]:
    """Every other held-out form: these choose a training's weights, the rest judge them."""
    held_out = held_out_forms()
    groups = (sorted(held_out & set(group)) for group in (FORMS, DEFINITION_FORMS))
    return frozenset(form for forms in groups for form in forms[::2])


def fill_gaps(text: str, words: Sequence[str], chance: random.Random) -> str:
    """Put a filler for each ~ and one of `words` for each {word}."""
    text = re.sub("~", lambda _: chance.choice(_FILLERS), text)
    return re.sub(r"\{word\}", lambda _: chance.choice(words), text)


def dress(question: str, *, keep: str, chance: random.Random) -> str:
    """Leave a question as it is or change its words around those of `keep`.

    A prefix, a suffix, words left out, fillers put in, a sentence of other matters beside it;
    then, often, another casing or no full stop. The words of `keep` (subject and relation) always
    stay, in their order.
    """
    text = question[:1].upper() + question[1:]
    kind = chance.random()
    if kind < _PLAIN:
        return text
    if kind < _PREFIXED:
        text = chance.choice(_PREFIXES).format(text)
    elif kind < _SUFFIXED:
        text = chance.choice(_SUFFIXES).format(text) if text.endswith(("?", ".")) else text
    elif kind < _THINNED:
        text = _thin(text, keep, chance)
    elif kind < _FILLED:
        text = _fill(text, keep, chance)
    elif kind < _BESIDE:
        text = _beside(text, chance)
    if chance.random() < _NO_END:
        text = text.rstrip("?. ")
    return text.lower() if chance.random() < _LOWER else text


def place(question: str, topic: str, *, subject: str, chance: random.Random) -> str:
    """The question with the name of its field: around it, at its end, or before the subject."""
    kind = chance.randrange(4)
    if kind == 0 and question.endswith("?"):
        return f"{question[:-1]} in {topic}?"
    if kind == 1 and subject in question:
        return question.replace(subject, f"{topic}'s {subject}", 1)
    if kind == 2 and subject in question:  # noqa: PLR2004
        return question.replace(subject, f"the {topic} {subject}", 1)
    return chance.choice(_TOPICAL).replace("{topic}", topic).replace("{}", question)


def _thin(text: str, keep: str, chance: random.Random) -> str:
    """Leave out some of the words that do not say what is asked."""
    kept = _any_of(keep)
    words = [word for word in text.split() if kept.search(word) or chance.random() > _DROPPED]
    return " ".join(words) if words else text


@lru_cache
def _any_of(keep: str) -> re.Pattern[str]:
    """Matches in a word that is one of `keep`, whatever stands around it: 's, or code as x.keep().

    Case and marks at the ends of `keep`'s words make no difference.
    """
    words = {re.escape(word.strip(string.punctuation)) for word in keep.split()} - {""}
    found = "|".join(sorted(words)) or r"(?!)"
    return re.compile(rf"(?<![^\W_])(?:{found})(?![^\W_])", re.IGNORECASE)


def _beside(text: str, chance: random.Random) -> str:
    """Put a sentence about something else before or, if it is a whole one, behind."""
    aside = re.sub("~", lambda _: chance.choice(_FILLERS), chance.choice(_ASIDES))
    if not aside.endswith(".") or chance.random() < _ASIDE_FIRST:
        return f"{aside} {text}"
    return f"{text} {aside}"


def _fill(text: str, keep: str, chance: random.Random) -> str:
    """Put a few fillers in, never inside the subject or the relation."""
    kept, words = _any_of(keep), text.split()
    for _ in range(chance.randint(1, 4)):
        place = chance.randint(0, len(words))
        beside = words[max(0, place - 1) : place + 1]
        if not (0 < place < len(words) and all(kept.search(word) for word in beside)):
            words.insert(place, chance.choice(_FILLERS))
    return " ".join(words)
