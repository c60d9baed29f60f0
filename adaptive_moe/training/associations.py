"""Words that documents use around one relation and around no other."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

from adaptive_moe.training.prose import Clause
from adaptive_moe.training.tables import Fact

_MOST_WORDS = 16  # of either kind of clauses
_SHARE = 0.8  # of a word's clauses that must speak of the one relation
_SHORTEST = 4  # letters; shorter words rarely say what is meant
_STOP_WORDS = (
    "about above after also another because before being between both called could does each "
    "every from have here into itself just like made many more most much name named only other "
    "over same should some such than that their them then there these they this those under used "
    "very were what when where which while whose will with would your"
)


def associated_words(
    clauses: Iterable[Clause], facts: Sequence[Fact], names: Mapping[str, Sequence[str]]
) -> dict[str, tuple[str, ...]]:
    """Up to 32 words a relation that people may ask for it with.

    The 16 most frequent come from clauses that speak of the relation: that use one of its names or
    state one of its facts. As many more come from those that state no fact and stand in a file
    that has facts of this relation alone: they tell what it is. Clauses that speak of several
    relations count for none, and words of subjects and values are left out.
    """
    own = {
        word for fact in facts for part in (fact.subject, fact.value) for word in _words(part)
    } | set(_STOP_WORDS.split())
    stated: dict[str, list[tuple[str, str]]] = defaultdict(list)
    of_file: dict[str, set[str]] = defaultdict(set)
    for fact in facts:
        stated[fact.subject.casefold()].append((fact.value.casefold(), fact.relation))
        of_file[fact.file].add(fact.relation)
    spoken: dict[str, Counter[str]] = defaultdict(Counter)
    general: dict[str, Counter[str]] = defaultdict(Counter)
    for clause in clauses:
        text = clause.text.casefold()
        words = set(_words(text)) - own
        told = _facts_in(text, stated)
        relations = told | _named_in(text, names)
        if len(relations) == 1:
            spoken[next(iter(relations))].update(words)
        if not told and relations <= of_file[clause.file] and len(of_file[clause.file]) == 1:
            general[next(iter(of_file[clause.file]))].update(words)
    found: dict[str, tuple[str, ...]] = {}
    for relation in names:
        first = _distinctive(relation, spoken, besides=())
        found[relation] = first + _distinctive(relation, general, besides=first)
    return found


def _distinctive(
    relation: str, counts: Mapping[str, Counter[str]], *, besides: Sequence[str]
) -> tuple[str, ...]:
    """The relation's most frequent words that hardly any other one's clauses use."""
    everywhere = sum(counts.values(), Counter())
    own = counts.get(relation, Counter())
    ordered = sorted(own.items(), key=lambda item: (-item[1], item[0]))
    found = [
        word
        for word, count in ordered
        if word not in besides and count >= _SHARE * everywhere[word]
    ]
    return tuple(found[:_MOST_WORDS])


def _named_in(text: str, names: Mapping[str, Sequence[str]]) -> set[str]:
    return {
        relation for relation, known in names.items() if any(n.casefold() in text for n in known)
    }


def _facts_in(text: str, stated: Mapping[str, Sequence[tuple[str, str]]]) -> set[str]:
    """The relations of the facts that the clause states."""
    found: set[str] = set()
    words = set(re.findall(r"\w+", text))
    for subject, values in stated.items():
        if words.issuperset(re.findall(r"\w+", subject)):
            found |= {relation for value, relation in values if value in text}
    return found


def _words(text: str) -> list[str]:
    return [word for word in re.findall(r"[a-z]+", text.casefold()) if len(word) >= _SHORTEST]
