"""Facts that documents state in tables and lists: subject, relation (the header) and value."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from adaptive_moe.training.documents import Passage

_SEPARATOR = re.compile(r"^\|?\s*:?-+:?\s*(\|\s*:?-+:?\s*)*\|?$")
_BLANK = {"", "-", "--", "\u2014", "\u2013", "n/a", "?", "..."}
_NUMBERING = {"", "#", "no", "no.", "nr", "nr.", "index", "row"}
_MAX_VALUE_WORDS = 16
_ITEM = re.compile(r"^\s*(?:[-*+]|\d{1,3}[.)])\s+(.*)$")
_PAIR = re.compile(r"^(.{1,60}?)(?::\s+|\s+[\u2014\u2013]\s+|\s+->\s+|\s+=\s+)(.+)$")


@dataclass(frozen=True, slots=True)
class Fact:
    """`value` is the `relation` of `subject`, as written at file and line.

    `kind` is the noun for what the subject is ("" when the document does not say).
    """

    subject: str
    relation: str
    value: str
    kind: str
    file: str
    line: int

    @property
    def key(self) -> str:
        """Equal for the same question, whatever the case."""
        return f"{self.subject.casefold()}|{self.relation.casefold()}"


def table_facts(passage: Passage) -> Iterator[Fact]:
    """One fact per filled cell beside the subject column of a Markdown table.

    The subject column is the first whose cells are all different; running numbers are skipped
    when another column will do.
    """
    lines = passage.text.splitlines()
    if len(lines) < 3 or not _SEPARATOR.match(lines[1]):  # noqa: PLR2004  header, rule, row
        return
    header = [plain(cell) for cell in _cells(lines[0])]
    rows = [[plain(cell) for cell in _cells(line)] for line in lines[2:]]
    numbered = [(line, row) for line, row in enumerate(rows, start=2) if len(row) == len(header)]
    if len(header) < 2 or not numbered:  # noqa: PLR2004  a relation needs two columns
        return
    subject = _subject_column(header, [row for _, row in numbered])
    for offset, row in numbered:
        for column, name in enumerate(header):
            usable = column != subject and name and _is_value(row[column])
            if usable and row[subject].casefold() not in _BLANK:
                yield Fact(
                    subject=row[subject],
                    relation=as_phrase(name),
                    value=row[column],
                    kind=as_phrase(header[subject]),
                    file=passage.file,
                    line=passage.line + offset,
                )


def list_facts(passage: Passage) -> Iterator[Fact]:
    """One fact per item "X: V" of a list; the relation is the nearest heading."""
    relation = as_phrase(plain(passage.heading[-1])) if passage.heading else "meaning"
    for offset, line in enumerate(passage.text.splitlines()):
        item = _ITEM.match(line)
        pair = _PAIR.match(plain(item.group(1))) if item else None
        if pair and _is_value(pair.group(2)):
            subject, value = pair.group(1).strip(), pair.group(2).rstrip(" .;")
            yield Fact(subject, relation, value, "", passage.file, passage.line + offset)


def plain(text: str) -> str:
    """Inline Markdown taken off: code marks, emphasis, links, footnotes; spaces joined."""
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", text)
    text = re.sub(r"\[\^?\d+\]", "", text)
    text = text.replace("**", "").replace("`", "").replace("\\|", "|")
    text = re.sub(r"(?<!\w)[*_]([^*_]+)[*_](?!\w)", r"\1", text)
    return " ".join(text.split())


def as_phrase(title: str) -> str:
    """A header as it stands inside a sentence: capitals kept only where a whole word has them."""
    words = title.rstrip(" :").split()
    if all(_is_capitalised(word) for word in words if word[:1].isalpha()):
        return " ".join(words).lower()
    if _is_capitalised(words[0]):
        words[0] = words[0].lower()
    return " ".join(words)


def _is_capitalised(word: str) -> bool:
    return word[:1].isupper() and word[1:] == word[1:].lower()


def _cells(line: str) -> list[str]:
    inner = line.strip().removeprefix("|").removesuffix("|")
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", inner)]


def _is_value(cell: str) -> bool:
    return cell.casefold() not in _BLANK and len(cell.split()) <= _MAX_VALUE_WORDS


def _subject_column(header: Sequence[str], rows: Sequence[Sequence[str]]) -> int:
    distinct = [len({row[column].casefold() for row in rows}) for column in range(len(header))]
    order = [column for column, count in enumerate(distinct) if count == max(distinct)]
    named = [column for column in order if header[column].casefold() not in _NUMBERING]
    return (named or order)[0]
