"""Words that documents use around one relation and around no other."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

from adaptive_moe.training.tables import Fact

_MOST_WORDS = 16
_SHARE = 0.8  # of a word's clauses that must speak of the one relation
_SHORTEST = 4  # letters; shorter words rarely say what is meant
_STOP_WORDS = (
    "about above after also another because before being between both called could does each "
    "every from have here into itself just like made many more most much name named only other "
    "over same should some such than that their them then there these they this those under used "
    "very were what when where which while whose will with would your"
)


def associated_words(
    clauses: Iterable[str], facts: Sequence[Fact], names: Mapping[str, Sequence[str]]
) -> dict[str, tuple[str, ...]]:
    """Up to 16 words a relation, the most frequent first, that people may ask for it with.

    A clause speaks of a relation when it uses one of its names or states one of its facts; clauses
    that speak of several count for none. Words of subjects and values are left out.
    """
    own = {
        word for fact in facts for part in (fact.subject, fact.value) for word in _words(part)
    } | set(_STOP_WORDS.split())
    stated: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for fact in facts:
        stated[fact.subject.casefold()].append((fact.value.casefold(), fact.relation))
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for clause in clauses:
        relations = _spoken_of(clause.casefold(), stated, names)
        if len(relations) == 1:
            counts[relations.pop()].update(set(_words(clause)) - own)
    everywhere = sum(counts.values(), Counter())
    return {
        relation: tuple(
            word
            for word, count in sorted(counter.items(), key=lambda item: (-item[1], item[0]))
            if count >= _SHARE * everywhere[word]
        )[:_MOST_WORDS]
        for relation, counter in counts.items()
    }


def _spoken_of(
    clause: str,
    stated: Mapping[str, Sequence[tuple[str, str]]],
    names: Mapping[str, Sequence[str]],
) -> set[str]:
    found = {
        relation for relation, known in names.items() if any(n.casefold() in clause for n in known)
    }
    words = set(re.findall(r"\w+", clause))
    for subject, values in stated.items():
        if words.issuperset(re.findall(r"\w+", subject)):
            found |= {relation for value, relation in values if value in clause}
    return found


def _words(text: str) -> list[str]:
    return [word for word in re.findall(r"[a-z]+", text.casefold()) if len(word) >= _SHORTEST]
