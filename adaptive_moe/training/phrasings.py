"""The ways in which any fact of the form "the R of S" may be asked, as whole question forms."""

import random

# Form name to text. {relation} is a name of the relation, {subject} the subject, {kind} what the
# subject is. Forms that need a kind are left out where none is known.
FORMS: dict[str, str] = {
    "what-of": "What is the {relation} of {subject}?",
    "what-for": "What is the {relation} for {subject}?",
    "what-possessive": "What is {subject}'s {relation}?",
    "what-does-have": "What {relation} does {subject} have?",
    "which-does-have": "Which {relation} does {subject} have?",
    "which-belongs": "Which {relation} belongs to {subject}?",
    "which-goes": "Which {relation} goes with {subject}?",
    "for-what": "For {subject}, what is the {relation}?",
    "colon": "{subject}: {relation}?",
    "noun-of": "{relation} of {subject}?",
    "noun-for": "{relation} for {subject}?",
    "possessive": "{subject}'s {relation}?",
    "two-words": "{subject} {relation}",
    "tell-of": "Tell me the {relation} of {subject}.",
    "tell-possessive": "Tell me {subject}'s {relation}.",
    "give-for": "Give the {relation} for {subject}.",
    "give-of": "Give me the {relation} of {subject}.",
    "name-of": "Name the {relation} of {subject}.",
    "state-of": "State the {relation} of {subject}.",
    "look-up": "Look up the {relation} of {subject}.",
    "know": "Do you know the {relation} of {subject}?",
    "can-you": "Can you tell me the {relation} of {subject}?",
    "need": "I need the {relation} of {subject}.",
    "looking": "I am looking for the {relation} of {subject}.",
    "about-its": "I am looking at {subject}. What is its {relation}?",
    "then-its": "{subject}. What is the {relation}?",
    "has-which": "{subject} has which {relation}?",
    "is-what": "The {relation} of {subject} is what?",
    "statement": "The {relation} of {subject} is",
    "statement-dots": "The {relation} of {subject} is ...",
    "statement-its": "{subject} has the {relation}",
    "as-what": "What does {subject} have as its {relation}?",
    "kind-of": "What is the {relation} of the {kind} {subject}?",
    "kind-which": "Which {relation} does the {kind} {subject} have?",
    "kind-tell": "Tell me the {relation} of {kind} {subject}.",
    "kind-given": "Given the {kind} {subject}, what is its {relation}?",
    "kind-colon": "{kind} {subject}, {relation}?",
    "kind-what": "What is {kind} {subject}'s {relation}?",
}
# Where the answer is not named by a relation ("X is a Y").
DEFINITION_FORMS: dict[str, str] = {
    "define-what": "What is {subject}?",
    "define-tell": "Tell me what {subject} is.",
    "define-explain": "Explain {subject}.",
    "define-word": "What do you mean by {subject}?",
    "define-know": "Do you know what {subject} is?",
    "define-describe": "Describe {subject}.",
    "define-statement": "{subject} is",
    "define-who": "How would you define {subject}?",
}
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
)
_SUFFIXES = (
    "{} Please.",
    "{} Thanks!",
    "{} Answer briefly.",
    "{} Just the answer.",
    "{} Do you know?",
)
_PLAIN, _PREFIXED, _SUFFIXED = 0.5, 0.68, 0.78  # cumulative shares; the rest changes only its dress
_LOWER, _NO_END = 0.25, 0.25


def held_out_forms(seed: int) -> frozenset[str]:
    """The whole forms that no training question may have; the same for every training of a seed.

    Chosen from the fixed list alone, before any document is looked at.
    """
    chance = random.Random(f"held-out forms {seed}")  # noqa: S311  not for security
    chosen: set[str] = set()
    for group in (FORMS, DEFINITION_FORMS):
        names = sorted(group)
        chosen.update(chance.sample(names, max(2, round(_HELD_OUT_SHARE * len(names)))))
    return frozenset(chosen)


def dress(question: str, *, chance: random.Random) -> str:
    """Leave a question as it is (half of the time) or add a prefix, a suffix, change its casing."""
    text = question[:1].upper() + question[1:]
    kind = chance.random()
    if kind < _PLAIN:
        return text
    if kind < _PREFIXED:
        text = chance.choice(_PREFIXES).format(text)
    elif kind < _SUFFIXED and text.endswith(("?", ".")):
        text = chance.choice(_SUFFIXES).format(text)
    if chance.random() < _NO_END:
        text = text.rstrip("?. ")
    return text.lower() if chance.random() < _LOWER else text
