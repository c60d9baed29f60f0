"""Sentence patterns around known facts, and the questions that follow from them."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence

from adaptive_moe.training.prose import Clause
from adaptive_moe.training.tables import Fact

SUBJECT, VALUE = "{subject}", "{value}"
_MIN_SUPPORT = 2  # facts that must share a pattern before it may speak for the relation
_MAX_PATTERN_WORDS = 18
_PREPOSITIONS = {"of", "in", "on", "at", "to", "by", "from", "with", "for", "as", "into", "under"}
_SMALL = _PREPOSITIONS | {"the", "a", "an", "its", "is", "was", "are", "has", "named", "called"}
_BE = {"is", "was", "are", "were"}


def mine_statements(facts: Sequence[Fact], clauses: Iterable[Clause]) -> dict[str, tuple[str, ...]]:
    """Per relation the patterns, with {subject} and {value}, that at least two facts share.

    Values of the subject's other relations are cut out where they stand in brackets or between
    commas; a pattern that still holds one is dropped.
    """
    index = _SubjectIndex(facts)
    support: dict[str, Counter[str]] = defaultdict(Counter)
    for clause in clauses:
        for subject in index.subjects_in(clause.text):
            for fact in index.facts_of(subject):
                others = [
                    other.value for other in index.facts_of(subject) if other.value != fact.value
                ]
                pattern = _pattern(clause.text, fact, others)
                if pattern:
                    support[fact.relation][pattern] += 1
    return {
        relation: tuple(text for text, count in patterns.most_common() if count >= _MIN_SUPPORT)
        for relation, patterns in support.items()
    }


def questions_from(pattern: str) -> Iterator[tuple[str, str]]:
    """(form, question with {subject}) for a pattern; the statement's words stay as they are."""
    before, _, after = pattern.partition(VALUE)
    tail = f" {after.strip()}" if after.strip() else ""
    before = before.strip()
    if before and not tail:
        start = re.sub(r" (?:the|an?)$", "", before)
        yield "stated-cloze", _capital(start)
        yield "stated-dots", f"{_capital(start)} ..."
        yield "stated-what", f"{_capital(start)} what?"
    elif before:
        yield "stated-gap", f"{_capital(before)} ___{tail}."
    if not before:
        yield from _value_first(after.strip())
        return
    yield from _value_behind_noun(before, tail)
    yield from _verb_questions(before, tail)


def names_in_statements(patterns: Iterable[str]) -> tuple[str, ...]:
    """Other names for the relation: "uses gate {value}", "the Y of {subject} is {value}"."""
    found = []
    for pattern in patterns:
        phrase = re.match(r"the (.+) (?:of|for|in) \{subject\} is \{value\}", pattern)
        words = pattern.partition(VALUE)[0].split()
        if phrase:
            found.append(phrase.group(1))
        elif len(words) > 1 and not words[-2].startswith(SUBJECT) and _is_noun(words[-1]):
            found.append(words[-1])
    return tuple(dict.fromkeys(found))


class _SubjectIndex:
    """Finds the known subjects that a clause mentions without trying each of them."""

    def __init__(self, facts: Sequence[Fact]) -> None:
        self._facts: dict[str, list[Fact]] = defaultdict(list)
        self._by_first_word: dict[str, set[str]] = defaultdict(set)
        for fact in facts:
            words = re.findall(r"\w+", fact.subject.casefold())
            if words:
                self._facts[fact.subject].append(fact)
                self._by_first_word[words[0]].add(fact.subject)

    def facts_of(self, subject: str) -> Sequence[Fact]:
        return self._facts[subject]

    def subjects_in(self, text: str) -> list[str]:
        """The mentioned subjects; one that lies inside a longer one does not count."""
        found = {
            subject
            for word in set(re.findall(r"\w+", text.casefold()))
            for subject in self._by_first_word.get(word, ())
            if _find(subject, text)
        }
        return sorted(
            subject
            for subject in found
            if not any(subject != other and subject in other for other in found)
        )


def _find(name: str, text: str, *, exact: bool = False) -> re.Match[str] | None:
    flags = re.NOFLAG if exact else re.IGNORECASE
    return re.search(rf"(?<![\w/.-]){re.escape(name)}(?![\w/-]|\.\w)", text, flags)


def _pattern(text: str, fact: Fact, others: Sequence[str]) -> str | None:
    for other in others:
        text = re.sub(rf" \({re.escape(other)}\)|, (?:[\w-]+ )?{re.escape(other)},", "", text)
    subject = _find(fact.subject, text)
    if subject is None:
        return None
    marked = f"{text[: subject.start()]}{SUBJECT}{text[subject.end() :]}"
    value = _find(fact.value, marked, exact=True)
    if value is None:
        return None
    marked = f"{marked[: value.start()]}{VALUE}{marked[value.end() :]}"
    head, tail = marked.split(VALUE, 1) if marked.index(SUBJECT) < value.start() else ("", marked)
    if head:
        marked = f"{head}{VALUE}{re.split(r'[,(]| and | so ', tail)[0].rstrip()}"
    elif not tail.startswith(VALUE):
        return None
    leftover = any(_find(other, marked, exact=True) for other in others)
    pronoun = re.search(r"\b(?:its|their|it)\b", marked)
    if leftover or pronoun or len(marked.split()) > _MAX_PATTERN_WORDS:
        return None
    return marked[0].lower() + marked[1:] if re.match(r"[A-Z][a-z ]", marked) else marked


def _value_first(after: str) -> Iterator[tuple[str, str]]:
    """Turn "{value} is the Y of {subject}" round: "Which is the Y of {subject}?"."""
    match = re.match(r"(?:, [^,]+, )?(is|was|are) (the .+)$", after)
    if match:
        yield "stated-which", f"Which {match.group(1)} {match.group(2)}?"


def _value_behind_noun(before: str, tail: str) -> Iterator[tuple[str, str]]:
    """Turn "In {subject} the N {value} does T" round: "In {subject}, which N does T?"."""
    match = re.match(rf"(.*{re.escape(SUBJECT)}) the (\w+)$", before)
    if match and tail:
        yield "stated-noun", f"{_capital(match.group(1))}, which {match.group(2)}{tail}?"


def _verb_questions(before: str, tail: str) -> Iterator[tuple[str, str]]:
    """Turn "{start} VERB rest {value} tail" round into a question."""
    match = re.match(rf"(.*?{re.escape(SUBJECT)}),? (\w+)(.*)$", before)
    if match is None:
        return
    start, verb, rest = match.group(1), match.group(2), re.sub(r" (?:the|an?)$", "", match.group(3))
    start = start[0].lower() + start[1:] if re.match(r"[A-Z][a-z ]", start) else start
    words = rest.split()
    if "," in before and verb.endswith("ed"):
        yield "stated-how", f"How is {start} {verb}?"
    elif verb in _BE:
        if not words or words[0] not in _PREPOSITIONS:
            yield "stated-be", f"What {verb} {start}{rest}{tail}?"
    elif verb.endswith("s"):
        plain_verb = _infinitive(verb)
        if words and _is_noun(words[-1]):
            yield "stated-does-noun", _which_noun(words, tail, f"does {start} {plain_verb}")
        elif verb == "has" and tail:
            yield "stated-many", f"How many{tail} does {start} have?"
        else:
            yield "stated-does", f"What does {start} {plain_verb}{rest}{tail}?"


def _which_noun(words: Sequence[str], tail: str, does: str) -> str:
    """Ask for the noun phrase at the end of `words`; "of ..." behind the value belongs to it."""
    small = [place for place, word in enumerate(words) if word in _SMALL]
    cut = small[-1] + 1 if small else 0
    noun = " ".join(words[cut:])
    kept = re.sub(r"(?:^| )(?:the|an?)$", "", " ".join(words[:cut]))
    kept = f" {kept}" if kept else ""
    if tail.startswith(" of "):
        return f"Which {noun}{tail} {does}{kept}?"
    return f"Which {noun} {does}{kept}{tail}?"


def _is_noun(word: str) -> bool:
    return word.isalpha() and word.islower() and word not in _SMALL and not word.endswith("ly")


def _infinitive(verb: str) -> str:
    if verb == "has":
        return "have"
    if verb.endswith("ies"):
        return f"{verb[:-3]}y"
    if verb.endswith(("sses", "shes", "ches", "xes", "zes", "oes")):
        return verb[:-2]
    return verb[:-1]


def _capital(text: str) -> str:
    return text if text.startswith("{") else text[:1].upper() + text[1:]
