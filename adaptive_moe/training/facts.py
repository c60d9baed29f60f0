"""The facts that a set of documents states, merged, and the words it uses for each relation."""

import logging
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from adaptive_moe.training.aliases import coincident_aliases, document_aliases, shorter_names
from adaptive_moe.training.associations import associated_words
from adaptive_moe.training.documents import Passage
from adaptive_moe.training.prose import Clause, clauses, definition, prose_facts
from adaptive_moe.training.statements import mine_statements, names_in_statements
from adaptive_moe.training.tables import Fact, list_facts, plain, table_facts

_MIN_SUBJECTS = 3  # of a relation that only prose states, where tables or lists state others

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class FactBase:
    """Facts without repeats, in document order.

    `names` maps a relation to what people may call it, its own name first; `statements` to the
    sentence patterns ({subject}, {value}) that state it; `associated` to words that the documents
    use around it alone, or say what it is with. `conflicts` are readable lines about facts that the
    documents state in two ways; the first one is kept.
    """

    facts: tuple[Fact, ...]
    names: dict[str, tuple[str, ...]]
    statements: dict[str, tuple[str, ...]]
    associated: dict[str, tuple[str, ...]]
    conflicts: tuple[str, ...]


def extract_facts(passages: Sequence[Passage]) -> FactBase:
    """Read tables and lists first, then prose: repeats merge, contradictions are reported."""
    firm = [fact for passage in passages for fact in _firm_facts(passage)]
    prose = [clause for passage in passages for clause in _clauses(passage)]
    stated = [fact for clause in prose for fact in prose_facts(clause)]
    facts, conflicts = _merge(firm)
    aliases = coincident_aliases(
        {(fact.subject.casefold(), fact.value.casefold()): fact.relation for fact in facts}, stated
    )
    fresh, more = _only_in_prose(facts, _renamed(stated, aliases, facts))
    facts += fresh
    if not facts:
        facts, _ = _merge([fact for clause in prose if (fact := definition(clause)) is not None])
    for line in conflicts + more:
        _log.warning("conflict in the material: %s", line)
    statements = mine_statements(facts, prose)
    names = _names(facts, passages, aliases, statements)
    return FactBase(
        facts=tuple(facts),
        names=names,
        statements=statements,
        associated=associated_words(prose, facts, names),
        conflicts=tuple(conflicts + more),
    )


def _firm_facts(passage: Passage) -> Iterable[Fact]:
    if passage.text.startswith("|"):
        return table_facts(passage)
    return list_facts(passage) if _is_list(passage) else ()


def _is_list(passage: Passage) -> bool:
    return passage.text.lstrip()[:2] in {"- ", "* ", "+ "} or passage.text[:1].isdigit()


def _clauses(passage: Passage) -> Iterable[Clause]:
    if passage.text.startswith("|") or _is_list(passage):
        return ()
    return clauses(plain(passage.text), file=passage.file, line=passage.line)


def _merge(facts: Iterable[Fact]) -> tuple[list[Fact], list[str]]:
    """First statement of each fact, and a line for every later one with another value."""
    kept: dict[str, Fact] = {}
    conflicts = []
    for fact in facts:
        known = kept.setdefault(fact.key, fact)
        if known.value.casefold() != fact.value.casefold():
            conflicts.append(_conflict(known, fact))
    return list(kept.values()), conflicts


def _conflict(known: Fact, other: Fact) -> str:
    return (
        f"{known.relation or 'definition'} of {known.subject}: {known.value!r} "
        f"({known.file}:{known.line}) and {other.value!r} ({other.file}:{other.line})"
    )


def _renamed(
    stated: Iterable[Fact], aliases: dict[str, tuple[str, ...]], known: Sequence[Fact]
) -> list[Fact]:
    """Prose facts under the names that the tables use for subject and relation."""
    subjects = {fact.subject.casefold(): fact.subject for fact in known}
    kinds = {word for fact in known for word in fact.kind.casefold().split()}
    canonical = {name.casefold(): relation for relation, names in aliases.items() for name in names}
    return [
        Fact(
            _without_kind(fact.subject, subjects, kinds),
            canonical.get(fact.relation.casefold(), fact.relation),
            fact.value,
            fact.kind,
            fact.file,
            fact.line,
        )
        for fact in stated
    ]


def _without_kind(subject: str, subjects: dict[str, str], kinds: set[str]) -> str:
    """Take "widget 12" for the known subject "12" where the tables list widgets."""
    words = subject.casefold().split()
    while words and words[0] in kinds and " ".join(words) not in subjects:
        words = words[1:]
    return subjects.get(" ".join(words), subject)


def _only_in_prose(facts: Sequence[Fact], stated: Sequence[Fact]) -> tuple[list[Fact], list[str]]:
    """Prose facts that no table has; where tables exist, only of relations with some support."""
    known = {fact.key: fact for fact in facts}
    pairs = {(fact.subject.casefold(), fact.value.casefold()) for fact in facts}
    conflicts = [
        _conflict(known[fact.key], fact)
        for fact in stated
        if fact.key in known and known[fact.key].value.casefold() != fact.value.casefold()
    ]
    fresh, more = _merge(
        fact
        for fact in stated
        if fact.key not in known and (fact.subject.casefold(), fact.value.casefold()) not in pairs
    )
    subjects: dict[str, set[str]] = defaultdict(set)
    for fact in fresh:
        subjects[fact.relation].add(fact.subject)
    relations = {fact.relation for fact in facts}
    supported = [
        fact
        for fact in fresh
        if not facts or fact.relation in relations or len(subjects[fact.relation]) >= _MIN_SUBJECTS
    ]
    return supported, conflicts + more


def _names(
    facts: Sequence[Fact],
    passages: Sequence[Passage],
    coincident: dict[str, tuple[str, ...]],
    statements: dict[str, tuple[str, ...]],
) -> dict[str, tuple[str, ...]]:
    """What each relation may be called; a name that holds a subject or is another's is left out."""
    relations = list(dict.fromkeys(fact.relation for fact in facts))
    defined = document_aliases((plain(passage.text) for passage in passages), relations)
    capitalised = {fact.subject for fact in facts if fact.subject[:1].isupper()}
    names = {}
    for relation in relations:
        candidates = [
            relation,
            *coincident.get(relation, ()),
            *defined[relation],
            *shorter_names(relation, relations),
            *names_in_statements(statements.get(relation, ())),
        ]
        others = {other.casefold() for other in relations if other != relation}
        kept: dict[str, str] = {}
        for name in candidates:
            foreign = any(subject in name for subject in capitalised) and name != relation
            if name.casefold() not in others and not foreign:
                kept.setdefault(name.casefold(), name)
        names[relation] = tuple(kept.values())
    return names
