"""The text of an HTML page as Markdown: headings, lists and tables stay what they are."""

import re
from pathlib import Path
from typing import TYPE_CHECKING

from adaptive_moe.errors import DataError
from adaptive_moe.training.files import foreign_parser, read_text

if TYPE_CHECKING:
    from bs4 import BeautifulSoup

ESCAPED_HASH = r"\#"
"""How a page's words begin with a hash, which in Markdown alone would make them a heading."""

_UNSEEN = ("script", "style", "template", "noscript", "svg")
_CONTROLS = ("head", "title", "input", "button", "select", "textarea")
_HASH = re.compile(r"^(\s*)#")
_HEADING = re.compile("^h[1-6]$")


def markdown_of_page(path: Path) -> str:
    """What a reader of the page reads; its title is the heading where it has none.

    Raises DataError for what is no page or no text, and where the parser is not installed.
    """
    try:
        from bs4 import BeautifulSoup
        from markdownify import ATX, MarkdownConverter
    except ImportError as error:
        raise DataError(
            f"{path}: reading HTML needs markdownify; install adaptive_moe[training] or give text"
        ) from error
    converter = MarkdownConverter(
        heading_style=ATX,
        strip=["a", "img"],
        escape_asterisks=False,
        escape_underscores=False,
        escape_misc=False,
        table_infer_header=True,
    )
    source = read_text(path)
    with foreign_parser(path, "HTML page", advice="save it anew, or give its text"):
        page = BeautifulSoup(source, "html.parser")
        _remove(page, _UNSEEN)
        title = page.title.get_text(" ", strip=True) if page.title else ""
        _remove(page, _CONTROLS)
        _remove_navigation(page)
        for words in page(string=_HASH):
            words.replace_with(_HASH.sub(lambda found: found[1] + ESCAPED_HASH, words))
        text: str = converter.convert_soup(page)
        return text if page.find(_HEADING) or not title else f"# {title}\n\n{text}"


def _remove(page: "BeautifulSoup", tags: tuple[str, ...]) -> None:
    for part in page(tags):
        part.decompose()


def _remove_navigation(page: "BeautifulSoup") -> None:
    """But for one that was not closed: it holds the rest of the page."""
    for part in page("nav"):
        if 2 * len(part.get_text()) < len(page.get_text()):
            part.decompose()
