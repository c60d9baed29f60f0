"""Documents as passages: one paragraph, list or table each, with headings and line number."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from adaptive_moe.errors import DataError
from adaptive_moe.training.files import foreign_parser, read_text
from adaptive_moe.training.pages import ESCAPED_HASH, markdown_of_page

_HEADING = re.compile(r"^(#{1,6})\s+(.*?)\s*#*$")
_FENCE = re.compile(r"^\s*(```|~~~)")
_LIST_ITEM = re.compile(r"^\s*(?:[-*+]|\d{1,3}[.)])\s+")
_RULE = re.compile(r"^\s*([-*_=])(\s*\1){2,}\s*$")
_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Passage:
    """A block of a document.

    Tables and lists keep their lines, a paragraph is one line. `heading` holds the titles above
    it, the document's own first. `line` counts from 1; in a PDF it is the page, in an HTML page
    the line of its Markdown.
    """

    text: str
    heading: tuple[str, ...]
    file: str
    line: int


def read_passages(path: Path, *, file: str) -> list[Passage]:
    """The passages of a Markdown, text, HTML or PDF file in order; DataError names the file."""
    try:
        return list(READERS[path.suffix.lower()](path, file))
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error


def split_markdown(text: str, *, file: str) -> Iterator[Passage]:
    """The blocks of a Markdown text; fenced code, comments and rules are left out."""
    text = _COMMENT.sub(lambda match: "\n" * match.group().count("\n"), text)
    heading: list[tuple[int, str]] = []
    block: list[tuple[int, str]] = []
    fenced = False
    for number, raw in enumerate([*text.splitlines(), ""], start=1):
        line = raw.rstrip()
        fenced ^= bool(_FENCE.match(line))
        title = None if fenced else _HEADING.match(line)
        skipped = fenced or _FENCE.match(line) or _RULE.match(line) or not line.strip()
        if block and (title or skipped or _kind(line) != _kind(block[0][1])):
            yield _passage(block, heading, file)
            block = []
        if title:
            depth = len(title.group(1))
            heading = [(level, name) for level, name in heading if level < depth]
            heading.append((depth, title.group(2)))
        elif not skipped:
            block.append((number, line))


def _kind(line: str) -> str:
    if line.lstrip().startswith("|"):
        return "table"
    # An indented line carries the list item above it on.
    return "list" if _LIST_ITEM.match(line) or line.startswith("  ") else "paragraph"


def _passage(block: list[tuple[int, str]], heading: list[tuple[int, str]], file: str) -> Passage:
    joint = " " if _kind(block[0][1]) == "paragraph" else "\n"
    text = joint.join(line.strip() for _, line in block)
    return Passage(text, tuple(name for _, name in heading), file, block[0][0])


def _read_markdown(path: Path, file: str) -> Iterator[Passage]:
    return split_markdown(read_text(path), file=file)


def _read_pdf(path: Path, file: str) -> Iterator[Passage]:
    try:
        import pypdf
    except ImportError as error:
        raise DataError(
            f"{path}: reading PDF needs pypdf; install adaptive_moe[training] or give text"
        ) from error
    advice = "save it anew, without encryption, or give its text"
    with path.open("rb") as opened, foreign_parser(path, "PDF", advice=advice):
        for number, page in enumerate(pypdf.PdfReader(opened).pages, start=1):
            for paragraph in re.split(r"\n\s*\n", page.extract_text() or ""):
                text = " ".join(paragraph.split())
                if text:
                    yield Passage(text, (), file, number)


def _read_html(path: Path, file: str) -> Iterator[Passage]:
    for passage in split_markdown(markdown_of_page(path), file=file):
        yield replace(passage, text=passage.text.replace(ESCAPED_HASH, "#"))


READERS: dict[str, Callable[[Path, str], Iterator[Passage]]] = {
    ".md": _read_markdown,
    ".markdown": _read_markdown,
    ".txt": _read_markdown,
    ".pdf": _read_pdf,
    ".html": _read_html,
    ".htm": _read_html,
}
