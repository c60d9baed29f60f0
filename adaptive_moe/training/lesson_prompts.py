"""What a teacher is asked: pieces of documents, and the instructions that go with them."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace

from adaptive_moe.models.chat_format import Messages
from adaptive_moe.training.documents import Passage
from adaptive_moe.training.tables import plain
from adaptive_moe.training.taught_forms import TAUGHT_FORMS

_LONGEST = 1500  # characters of one piece
_FEWEST_WORDS = 4  # of a piece that states something
_TABLE_HEAD = 2  # lines: the names of the columns, and the rule below them
_PAIRS = """Write one JSON object a line and nothing else:
{"question": "...", "answer": "..."}"""

# Whoever answers later has no passage; hence the second sentence.
_QUESTIONS = """Read the passage and write {what} about every fact in it, each with an answer as \
short as possible, in the passage's own words. Name in each what it is about; nobody else sees the \
passage. {pairs}"""

_REWRITES = """Read the passage and state every fact in it again in other words, each as one full \
sentence on a line of its own, such as "The colour of X is Y." Name in each what it is about. Add \
nothing."""

_IMPLICATIONS = """Read the passage and write questions about what follows from it without being \
said: comparisons, orders, sums, reversals. Answer each with words or numbers of the passage. Name \
in each what it is about; nobody else sees the passage. {pairs}"""

_AGAIN = """Answer from the passage, with as few of its own words as possible and nothing else.
Question: {question}"""


def pieces(passages: Sequence[Passage]) -> tuple[Passage, ...]:
    """Passages of at most 1,500 characters, cut between lines or sentences.

    Every part of a table keeps the names of its columns. What states nothing is left out.
    """
    cut = (piece for passage in passages for piece in _pieces(passage))
    return tuple(each for each in cut if len(re.findall(r"\w+", each.text)) >= _FEWEST_WORDS)


def questions_in(form: str, piece: Passage) -> Messages:
    """Ask for question and answer pairs in one of `TAUGHT_FORMS`."""
    return _about(piece, _QUESTIONS.format(what=TAUGHT_FORMS[form], pairs=_PAIRS))


def rewrites(piece: Passage) -> Messages:
    """Ask for the passage's facts in other words."""
    return _about(piece, _REWRITES)


def implications(piece: Passage) -> Messages:
    """Ask for question and answer pairs about what follows from the passage."""
    return _about(piece, _IMPLICATIONS.format(pairs=_PAIRS))


def asked_again(question: str, piece: Passage) -> Messages:
    """Ask a question with the passage at hand."""
    return _about(piece, _AGAIN.format(question=question))


def _about(piece: Passage, instruction: str) -> Messages:
    heading = " > ".join(plain(title) for title in piece.heading)
    title = f" ({heading})" if heading else ""
    return [{"role": "user", "content": f"{instruction}\n\nPassage{title}:\n{piece.text}"}]


def _pieces(passage: Passage) -> Iterator[Passage]:
    if len(passage.text) <= _LONGEST:
        yield passage
        return
    lines = passage.text.splitlines()
    head = lines[:_TABLE_HEAD] if passage.text.startswith("|") else []
    joint = "\n" if len(lines) > 1 else " "
    parts = lines[len(head) :] if len(lines) > 1 else re.split(r"(?<=[.!?])\s+", passage.text)
    for group in _groups(parts, room=_LONGEST - sum(map(len, head))):
        yield replace(passage, text=joint.join([*head, *group]))


def _groups(parts: Sequence[str], *, room: int) -> Iterator[list[str]]:
    """Neighbours together as long as they fit; a part that is too long stands alone, cut short."""
    group: list[str] = []
    for part in parts:
        if group and sum(map(len, group)) + len(part) > room:
            yield group
            group = []
        group.append(part[:_LONGEST])
    if group:
        yield group
