"""Whether an answer stands in the passage that it was written from."""

import re
import unicodedata
from collections.abc import Sequence

_ARTICLES = frozenset({"a", "an", "the"})
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
# Scripts that put no space between words: every sign of theirs is taken for a word.
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff"
_WORD = re.compile(
    rf"(?:(?<!\w)-)?\d+(?:\.\d+)*[^\W_{_UNSPACED}]*"  # -5, 3.5, 2nd
    rf"|[{_UNSPACED}]"
    rf"|[^\W{_UNSPACED}]+(?:\+\+|#)?"  # C++ and C# are not C
    r"|[%&\u00b0\u20ac$\u00a3]"
)
_ITEMS = re.compile(r"\s*(?:[,;\n]|\b(?:and|or)\b)\s*", re.IGNORECASE)


def is_grounded(answer: str, passage: str) -> bool:
    """Whether the answer occurs in the passage: its words in a row, or each item of its list.

    Case, Unicode forms, articles, markup, punctuation and thousands separators do not count;
    numbers count as a whole (5 is neither 5.1 nor -5), and so do C, C# and C++. An answer of marks
    alone, such as an operator, must stand there between other things than marks. A true answer in
    words of its own is not grounded; neither is an empty one.
    """
    words = folded_words(answer)
    if not words:
        return _stands_alone(answer.strip(), passage)
    place = folded_words(passage)
    if _holds(place, words):
        return True
    items = [each for item in _ITEMS.split(answer) if (each := folded_words(item))]
    return len(items) > 1 and all(_holds(place, each) for each in items)


def folded_words(text: str) -> list[str]:
    """The words of a text as they are compared: numbers with their sign, C# and C++ whole."""
    folded = unicodedata.normalize("NFKC", text).casefold().replace("\u2212", "-")
    found = _WORD.findall(_THOUSANDS.sub("", folded))
    return [word for each in found if (word := each.strip("_"))]


def _holds(place: Sequence[str], words: Sequence[str]) -> bool:
    """Whether the words follow each other there, as they stand or without their articles."""
    content = _without_articles(words)
    return _has_run(place, words) or (bool(content) and _has_run(_without_articles(place), content))


def _without_articles(words: Sequence[str]) -> list[str]:
    return [word for word in words if word not in _ARTICLES]


def _has_run(place: Sequence[str], words: Sequence[str]) -> bool:
    return f" {' '.join(words)} " in f" {' '.join(place)} "


def _stands_alone(marks: str, passage: str) -> bool:
    """Whether the passage has these marks, and not as a part of a longer row of such marks."""
    other = r"[^\w\s`'\"()|,.;:]"
    bare = marks.strip("`'\" ") or marks
    whole = rf"(?<!{other}){re.escape(bare)}(?!{other})"
    return bool(bare) and re.search(whole, passage) is not None
