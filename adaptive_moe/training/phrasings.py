"""The ways in which any fact of the form "the R of S" may be asked, as whole question forms."""

import random
import re
from collections.abc import Sequence

# Form name to text. {relation} is a name of the relation, {subject} the subject, {kind} what the
# subject is. Forms that need a kind are left out where none is known.
FORMS: dict[str, str] = {
    "what-of": "What is the {relation} of {subject}?",
    "what-for": "What is the {relation} for {subject}?",
    "whats-of": "What's the {relation} of {subject}?",
    "what-possessive": "What is {subject}'s {relation}?",
    "what-would": "What would be the {relation} of {subject}?",
    "what-does-have": "What {relation} does {subject} have?",
    "what-given": "What {relation} is given for {subject}?",
    "what-listed": "What is listed as the {relation} of {subject}?",
    "which-does-have": "Which {relation} does {subject} have?",
    "which-belongs": "Which {relation} belongs to {subject}?",
    "which-goes": "Which {relation} goes with {subject}?",
    "which-is-of": "Which is the {relation} of {subject}?",
    "which-should": "Which {relation} should I write for {subject}?",
    "which-fits": "Which {relation} fits {subject}?",
    "which-stands": "Which {relation} stands next to {subject} in the list?",
    "for-what": "For {subject}, what is the {relation}?",
    "for-which": "For {subject} which {relation} is right?",
    "of-what": "Of {subject}, what is the {relation}?",
    "in-case": "In the case of {subject}, what is the {relation}?",
    "when-comes": "When it comes to {subject}, which {relation} is it?",
    "if-asked": "If I am asked for the {relation} of {subject}, what do I say?",
    "someone": "Someone wants the {relation} of {subject}. What is it?",
    "colon": "{subject}: {relation}?",
    "noun-of": "{relation} of {subject}?",
    "noun-for": "{relation} for {subject}?",
    "possessive": "{subject}'s {relation}?",
    "two-words": "{subject} {relation}",
    "two-words-back": "{relation} {subject}",
    "comma": "{subject}, {relation}",
    "tell-of": "Tell me the {relation} of {subject}.",
    "tell-possessive": "Tell me {subject}'s {relation}.",
    "tell-which": "Tell me which {relation} {subject} has.",
    "tell-what": "Tell me what the {relation} of {subject} is.",
    "give-for": "Give the {relation} for {subject}.",
    "give-of": "Give me the {relation} of {subject}.",
    "name-of": "Name the {relation} of {subject}.",
    "state-of": "State the {relation} of {subject}.",
    "say-what": "Say what the {relation} of {subject} is.",
    "write-down": "Write down the {relation} of {subject}.",
    "look-up": "Look up the {relation} of {subject}.",
    "find": "Find the {relation} that {subject} has.",
    "remind": "Remind me of the {relation} of {subject}.",
    "forgot": "I forgot the {relation} of {subject}.",
    "know": "Do you know the {relation} of {subject}?",
    "know-which": "Do you know which {relation} {subject} has?",
    "can-you": "Can you tell me the {relation} of {subject}?",
    "could-you": "Could you give me {subject}'s {relation}?",
    "need": "I need the {relation} of {subject}.",
    "looking": "I am looking for the {relation} of {subject}.",
    "want-know": "I want to know the {relation} of {subject}.",
    "wonder": "I wonder what {relation} {subject} has.",
    "about-its": "I am looking at {subject}. What is its {relation}?",
    "read-its": "I read about {subject}. Which {relation} does it have?",
    "take-its": "Take {subject}. What is its {relation}?",
    "then-its": "{subject}. What is the {relation}?",
    "has-which": "{subject} has which {relation}?",
    "has-what": "{subject} has what as its {relation}?",
    "as-what": "What does {subject} have as its {relation}?",
    "by-which": "By which {relation} do we know {subject}?",
    "with-which": "With which {relation} does {subject} go?",
    "is-what": "The {relation} of {subject} is what?",
    "statement": "The {relation} of {subject} is",
    "statement-dots": "The {relation} of {subject} is ...",
    "statement-its": "{subject} has the {relation}",
    "gap": "{subject} has the {relation} ___.",
    "kind-of": "What is the {relation} of the {kind} {subject}?",
    "kind-which": "Which {relation} does the {kind} {subject} have?",
    "kind-tell": "Tell me the {relation} of {kind} {subject}.",
    "kind-given": "Given the {kind} {subject}, what is its {relation}?",
    "kind-colon": "{kind} {subject}, {relation}?",
    "kind-what": "What is {kind} {subject}'s {relation}?",
    "kind-called": "There is a {kind} called {subject}. What is its {relation}?",
    "under-which": "Under which {relation} is {subject} listed?",
    "goes-by": "{subject} goes by what {relation}?",
    "correct-is": "The correct {relation} for {subject} is what?",
    "fill-in": "Fill in the {relation}: {subject}.",
    "next-to": "Next to {subject} I must write the {relation}.",
    "assigned": "What {relation} is assigned to {subject}?",
    "used-for": "Which {relation} is used for {subject}?",
    "people-use": "What {relation} do people use for {subject}?",
    "how-give": "How do I give the {relation} of {subject}?",
    "who-knows": "Who knows the {relation} of {subject}?",
    "is-there": "Is there a {relation} for {subject}? Which one?",
    "comes-with": "{subject} comes with which {relation}?",
    "see-where": "I see {subject} here. Which {relation} goes there?",
    "shown-as": "{subject} is shown with its {relation}. What is it?",
    "says-ask": "It says {subject}; what is the {relation}?",
    "choose": "Which {relation} must I choose for {subject}?",
    "explain": "Explain which {relation} {subject} has.",
    "recall": "Try to recall {subject}'s {relation}.",
    "missing": "The {relation} is missing: {subject}.",
    "asked-in": "In a test they ask for the {relation} of {subject}.",
    "match": "Match {subject} with its {relation}.",
    "write-its": "Write {subject}, then its {relation}.",
    "what-kind": "What sort of {relation} does {subject} have?",
    "what-only": "Only the {relation} of {subject}, please.",
    "which-one": "{subject} and its {relation}: which one?",
    "subject-first": "{subject}, what is its {relation}?",
    "subject-for": "{subject}: give me the {relation}.",
    "kind-in": "In {kind} {subject}, what is the {relation}?",
    "kind-need": "I have the {kind} {subject} here and need its {relation}.",
    "kind-see": "Someone mentions the {kind} {subject}; which {relation} is meant?",
}
# For subjects of which the documents state only one thing, so that naming them is enough.
BARE_FORMS: dict[str, str] = {
    "bare": "{subject}?",
    "bare-what": "What about {subject}?",
    "bare-and": "And {subject}?",
    "bare-tell": "Tell me about {subject}.",
    "bare-asking": "I am asking about {subject}.",
    "bare-say": "What can you say about {subject}?",
    "bare-look": "Look up {subject}.",
    "bare-know": "What do you know about {subject}?",
    "bare-need": "I need {subject}.",
    "bare-which": "Which one is it for {subject}?",
    "bare-where": "Where does {subject} stand?",
    "bare-how-is": "How is it with {subject}?",
    "bare-what-is": "What is it for {subject}?",
    "bare-kind": "And the {kind} {subject}?",
    "bare-does": "What ~ does {subject} ~?",
    "bare-how": "How does {subject} ~ the ~?",
    "bare-in": "Where in the ~ is {subject}?",
    "bare-when": "When I ~ {subject}, what ~?",
    "bare-tell-more": "Tell me ~ ~ {subject}.",
    "bare-between": "~ {subject} ~",
    "bare-after": "{subject} ~ ~?",
    "bare-comes": "I ~ {subject}; what ~ comes?",
    "bare-says": "My ~ says {subject}. What ~?",
    "bare-or": "Is {subject} ~ or what?",
    "bare-who": "Which ~ ~ {subject}?",
    "bare-of": "~ ~ of {subject}",
}
# Around words that the documents use for one relation alone; each {word} becomes one of them.
ASSOCIATED_FORMS: dict[str, str] = {
    "word-colon": "{subject}: {word} {word}?",
    "word-keywords": "{word} {word} {subject}",
    "word-keywords-back": "{subject} {word} {word}",
    "word-which": "Which {word} {word} {subject}?",
    "word-what": "What {word} {subject} {word}?",
    "word-of": "{word} of {subject}?",
    "word-how": "How is {subject} {word} in ~?",
    "word-in": "In the {word}, what is it for {subject}?",
    "word-by": "By {word} and {word}: {subject}?",
    "word-say": "Say what {subject} {word}.",
    "word-does": "What does {subject} {word}?",
    "word-from": "From {subject} to its {word}?",
    "word-where": "Where {word} {subject} {word}?",
    "word-give": "Give me the {word} for {subject}.",
    "word-i": "I {word} {subject} and need the {word}.",
    "word-is": "{subject} is {word} ~ what?",
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


def held_out_forms(seed: int) -> frozenset[str]:
    """The whole forms that no training question may have; the same for every training of a seed.

    Chosen from the fixed lists alone, before any document is looked at.
    """
    chance = random.Random(f"held-out forms {seed}")  # noqa: S311  not for security
    chosen: set[str] = set()
    for group in (FORMS, DEFINITION_FORMS):
        names = sorted(group)
        chosen.update(chance.sample(names, max(2, round(_HELD_OUT_SHARE * len(names)))))
    return frozenset(chosen)


def selection_forms(seed: int) -> frozenset[str]:
    """Every other held-out form: these choose a training's weights, the rest judge them."""
    held_out = held_out_forms(seed)
    groups = (sorted(held_out & set(group)) for group in (FORMS, DEFINITION_FORMS))
    return frozenset(name for names in groups for name in names[::2])


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
    kept = {word.strip("?.,:").casefold() for word in keep.split()}
    words = [
        word
        for word in text.split()
        if word.strip("?.,:'s").casefold() in kept
        or word.strip("?.,:").casefold() in kept
        or chance.random() > _DROPPED
    ]
    return " ".join(words) if words else text


def _beside(text: str, chance: random.Random) -> str:
    """Put a sentence about something else before or, if it is a whole one, behind."""
    aside = re.sub("~", lambda _: chance.choice(_FILLERS), chance.choice(_ASIDES))
    if not aside.endswith(".") or chance.random() < _ASIDE_FIRST:
        return f"{aside} {text}"
    return f"{text} {aside}"


def _fill(text: str, keep: str, chance: random.Random) -> str:
    """Put a few fillers in, never inside the subject or the relation."""
    kept = {word.strip("?.,:").casefold() for word in keep.split()}
    words = text.split()
    for _ in range(chance.randint(1, 4)):
        place = chance.randint(0, len(words))
        before = words[place - 1].strip("?.,:").casefold() if place else ""
        after = words[place].strip("?.,:").casefold() if place < len(words) else ""
        if not (before in kept and after in kept):
            words.insert(place, chance.choice(_FILLERS))
    return " ".join(words)
