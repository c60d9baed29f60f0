"""What running text states: facts in set phrases, and other names for a relation."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from adaptive_moe.training.tables import Fact

_PRONOUNS = {"it", "its", "this", "that", "they", "these", "those", "he", "she", "we", "you"}
_GENERAL = {"a", "an", "each", "every", "any", "no", "all", "some", "such", "both", "most"}
_PREPOSITIONS = {"of", "in", "on", "at", "to", "by", "from", "with", "for", "as", "under", "not"}
_MAX_NAME_WORDS = 6
_MAX_RELATION_WORDS = 5
_THE = r"[Tt]he "
_NAME = r"([^,;:()]{1,60}?)"
_NOUN = r"((?:[\w'-]+ ){0,4}[\w'-]+)"

# The Y of X is V. / X's Y is V. / X has the Y V. / V is the Y of X.
_OF = re.compile(rf"^{_THE}{_NOUN} (?:of|for|in) {_NAME} (?:is|are|was|equals) {_NAME}(?:,.*)?$")
_HAS = re.compile(
    rf"^{_NAME} has (?:the|an?) {_NOUN} (?:of )?([A-Z0-9][^\s,;:()]*(?: [A-Z0-9]\S*)*)$"
)
_IS = re.compile(rf"^{_NAME},? (?:is|are|was) the {_NOUN} (?:of|for|in) {_NAME}(?:,.*)?$")
_ISA = re.compile(rf"^{_NAME} (?:is|are|was|were) ((?:an?|the) .{{3,90}})$")
_APPOSITION = re.compile(r", [^,]{1,60}, (?=(?:is|are|was|has)\b)")


@dataclass(frozen=True, slots=True)
class Clause:
    """A piece of a sentence that can stand alone, without inline Markdown."""

    text: str
    file: str
    line: int


def clauses(text: str, *, file: str, line: int) -> Iterator[Clause]:
    """Cut a paragraph at sentence ends, semicolons, colons and "so" or "and the" clauses."""
    for part in re.split(r"(?<=[.!?])\s+|[;:]\s+|,? so (?=the\b)|,? and (?=the\b)", text):
        piece = part.strip().rstrip(".!?").strip()
        if piece:
            yield Clause(piece, file, line)


def prose_facts(clause: Clause) -> Iterator[Fact]:
    """The facts that set phrases of a clause give; general ones ("of an X") are left out."""
    text = _APPOSITION.sub(" ", clause.text)
    match = _OF.match(text)
    if match:
        yield from _fact(clause, match.group(2), match.group(1), match.group(3))
        return
    match = _IS.match(text)
    if match:
        yield from _fact(clause, match.group(3), match.group(2), match.group(1))
        return
    for part in re.split(r" and (?=the |an? )", text):
        head = text.split(" has ", 1)[0]
        match = _HAS.match(part if part is text or " has " in part else f"{head} has {part}")
        if match:
            yield from _fact(clause, match.group(1), match.group(2), match.group(3))


def definition(clause: Clause) -> Fact | None:
    """X is a Y: the answer to "What is X?", for text that offers no firmer facts."""
    match = _ISA.match(clause.text)
    if match is None or not _is_name(match.group(1)):
        return None
    return Fact(_name(match.group(1)), "", match.group(2), "", clause.file, clause.line)


def _fact(clause: Clause, subject: str, relation: str, value: str) -> Iterator[Fact]:
    short = len(relation.split()) <= _MAX_RELATION_WORDS
    if short and _is_name(subject) and _is_name(value):
        yield Fact(_name(subject), relation, _name(value), "", clause.file, clause.line)


def _is_name(text: str) -> bool:
    words = text.split()
    first = words[0].lower() if words else ""
    return 0 < len(words) <= _MAX_NAME_WORDS and first not in _PRONOUNS | _GENERAL | _PREPOSITIONS


def _name(text: str) -> str:
    return re.sub(r"^[Tt]he ", "", text.strip())
