"""Other names that a document gives to a relation, so that people may ask in their own words."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from adaptive_moe.training.tables import Fact

_CALLED = re.compile(
    r"(?:also|sometimes|often|simply|usually) (?:called|known as|named) (.{3,60}?)"
    r"(?=[.,;:]| and\b|$)"
)
_EQUATED = re.compile(
    r"(?:is|means) (?:also |simply )?(?:its|the|their|just the) ([\w' -]{3,60}?)"
    r"(?= (?:that|where|which|who|when|how|one|it|in everyday)\b|[.,;:]|$)"
)
_APPOSED = re.compile(
    r", (?:which is|that is|or) (?:the |its )?([\w' -]{3,40}?)(?=[.,;:]| used\b|$)"
)
_OF = re.compile(r"\b(?:of|for) (?:an?|each|every|the|any)\b")
_ARTICLES = re.compile(r"^(?:the|its|their|an?) ")
_QUESTION_WORDS = {"how", "what", "who", "why", "where", "when", "that", "one", "not"}
_MAX_WORDS = 6
_MIN_SUPPORT = 2  # facts that must agree before a name found by coincidence counts


def document_aliases(
    paragraphs: Iterable[str], relations: Iterable[str]
) -> dict[str, tuple[str, ...]]:
    """Names that general sentences equate with a relation: "the Y of an X is its Z", "also called".

    A sentence counts for the relation that it, or the sentence before it, is about.
    """
    found: dict[str, list[str]] = {relation: [] for relation in relations}
    for paragraph in paragraphs:
        about: str | None = None
        for sentence in re.split(r"(?<=[.!?:])\s+", paragraph):
            named = _mentioned(sentence, found)
            about = named or (about if re.match(r"(?:It|This|That) ", sentence) else None)
            if about is not None:
                found[about] += _names_in(sentence, about)
    return {relation: _distinct(names, relation) for relation, names in found.items()}


def coincident_aliases(
    facts: Mapping[tuple[str, str], str], stated: Sequence[Fact]
) -> dict[str, tuple[str, ...]]:
    """Names under which prose states known facts; `facts` maps (subject, value) to relation."""
    support: dict[str, Counter[str]] = {}
    for fact in stated:
        relation = facts.get((fact.subject.casefold(), fact.value.casefold()))
        if relation is not None and fact.relation.casefold() != relation.casefold():
            support.setdefault(relation, Counter())[fact.relation] += 1
    return {
        relation: tuple(name for name, count in names.most_common() if count >= _MIN_SUPPORT)
        for relation, names in support.items()
    }


def shorter_names(relation: str, others: Iterable[str]) -> tuple[str, ...]:
    """The relation's own head words: "X of Y" gives X, "big X" gives X, unless another has them."""
    head = re.split(r" (?:of|in|for|to|by|from|with) ", relation)[0]
    words = head.split()
    names = [" ".join(words[start:]) for start in range(len(words))]
    taken = " / ".join(other.casefold() for other in others if other != relation)
    return tuple(
        name
        for name in names
        if name != relation and not re.search(rf"\b{re.escape(name.casefold())}\b", taken)
    )


def _mentioned(sentence: str, relations: Iterable[str]) -> str | None:
    lowered = sentence.casefold()
    at = {name: lowered.find(name.casefold()) for name in relations}
    present = [name for name, place in at.items() if place >= 0]
    return min(present, key=lambda name: (at[name], -len(name))) if present else None


def _names_in(sentence: str, relation: str) -> list[str]:
    """What stands behind the relation's mention and is equated with it."""
    start = sentence.casefold().find(relation.casefold())
    tail = sentence[start + len(relation) :] if start >= 0 else sentence
    names = [name for match in _CALLED.finditer(tail) for name in match.group(1).split(" or ")]
    general = start < 0 or tail.startswith((",", " is", " means")) or _OF.match(tail.strip())
    if general:
        for pattern in (_EQUATED, _APPOSED):
            match = pattern.search(tail)
            if match:
                names.append(match.group(1))
    return names


def _distinct(names: Iterable[str], relation: str) -> tuple[str, ...]:
    kept: dict[str, None] = {}
    for name in names:
        cleaned = _ARTICLES.sub("", " ".join(name.split()).strip(" ,."))
        words = cleaned.split()
        if words and words[0].casefold() in _QUESTION_WORDS:
            continue
        if 0 < len(words) <= _MAX_WORDS and cleaned.casefold() != relation.casefold():
            kept[cleaned] = None
    return tuple(kept)
