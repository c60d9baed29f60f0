"""What in rows and passages is no material: each filter by name, with its reason."""

import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import get_args

from adaptive_moe.config.settings import FilterName
from adaptive_moe.training.scripts import main_script
from adaptive_moe.training.secrets import secret_in

_LONGEST = 32_000  # characters of a question or an answer: about 8,000 tokens
_SHORTEST_LOOP = 12  # words or, without spaces, repetitions
_LOOPED = 0.5  # share of a text that repeats what stood before
_LONGEST_TURN = 12  # words that one turn of a loop has
_FEWEST_DISTINCT = 1.5  # times the root of the number of words; prose has 5 times as many and more
_ENOUGH_WORDS = 30  # to count distinct ones
_SCARCE = 200  # characters; one unreadable sign in as many is an accident
_BLOB_SHARE = 0.5  # of a text
_OPENING = 300  # characters of an answer in which it would refuse

_LOOP = re.compile(r"(\S.{1,11}?)\1{11,}", re.DOTALL)
_ONE_SIGN = re.compile(r"([^\W\d_])\1{19,}")
_REFUSALS = re.compile(
    r"\bas an? (?:\w+ )?(?:ai|artificial intelligence|(?:large )?language model)\b"
    r"|\bi(?:'m| am) (?:just )?an? (?:ai\b|artificial intelligence|(?:large )?language model)"
    r"|\b(?:i(?:'m| am) (?:\w+ )?sorry|sorry|unfortunately|i apologi[sz]e)\b[^.!?]{0,60}"
    r"\bi(?: am|'m)? ?(?:can ?not|can't|unable to|not able to|won't|will not|don't have)\b"
    r"|^i(?: am|'m)? ?(?:can ?not|can't|unable to|not able to|won't|will not) (?:\w+ )?"
    r"(?:help|assist|answer|provide|fulfil|comply|generate|create|engage|do that|discuss|browse)"
    r"|\bi (?:do not|don't) have (?:any )?(?:access to|personal (?:opinions|experiences|feelings))"
    r"|\bmy (?:knowledge cut-?off|training data)\b",
    re.IGNORECASE,
)  # fmt: skip
_BOILERPLATE = re.compile(
    r"\[(?:deleted|removed|redacted)\]|n/a|t\.?b\.?[ad]\.?|to ?do|no (?:answer|response)"
    r"|\.{2,}|\u2026|lorem ipsum.*|.*\b(?:we use cookies|accept all cookies)\b.*"
    r"|.*\b(?:all rights reserved|subscribe to our newsletter|enable javascript to)\b.*"
    r"|(?:error:? )?(?:404 not found|403 forbidden|500 internal server error)\W*",
    re.IGNORECASE | re.DOTALL,
)
_LONGEST_BOILERPLATE = 300  # characters; a longer text may quote it
_CONTROL = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x9f\ufffd\ufffe\uffff]")
# UTF-8 that was read as Windows' Latin: a lead byte, and continuation bytes behind it.
_TAIL = "[\x80-\xbf\u20ac\u201a\u0192\u201e\u2026\u2020\u2021\u02c6\u2030\u0160\u2039\u0152\u017d"
_TAIL += "\u2018\u2019\u201c\u201d\u2022\u2013\u2014\u02dc\u2122\u0161\u203a\u0153\u017e\u0178]"
_MISREAD = re.compile(
    f"[\u00c2\u00c3\u00d0\u00d1\u00ce\u00cf]{_TAIL}|[\u00e2-\u00e9]{_TAIL}{{2}}|\u00f0{_TAIL}{{3}}"
)
_HEX = re.compile(r"(?:\b|\\x|0x)(?:(?:\\x|0x)?[0-9a-fA-F]{2}[\s:,]?){40,}")
_BASE64 = re.compile(r"(?:[A-Za-z0-9+/_-]{40,}\s?)+={0,2}")


@dataclass(frozen=True, slots=True)
class Candidate:
    """A row's question and answer, or a passage as an answer to nothing.

    `earlier` are the turns before the question, `home_scripts` those of the whole material.
    """

    question: str
    answer: str
    home_scripts: frozenset[str]
    earlier: tuple[str, ...] = ()

    @property
    def texts(self) -> tuple[str, ...]:
        """All that there is to read."""
        own = (self.question, self.answer) if self.question else (self.answer,)
        return (*self.earlier, *own)


Filter = Callable[[Candidate], str | None]
"""The reason to drop the candidate; None to keep it."""


def names_of(chosen: str | Collection[FilterName]) -> tuple[FilterName, ...]:
    """The filters that `training.filters` names, in the order in which they are tried."""
    if chosen == "none":
        return ()
    return tuple(name for name in FILTERS if chosen == "all" or name in chosen)


def _length(candidate: Candidate) -> str | None:
    question, answer = candidate.question, candidate.answer
    if question and not any(map(str.isalnum, question)):
        return "the question holds no word"
    if not answer.strip():
        return "the answer is empty"
    if max(map(len, candidate.texts)) > _LONGEST:
        return f"a text is longer than {_LONGEST:,} characters"
    return None


def _repetition(candidate: Candidate) -> str | None:
    return "it repeats itself over and over" if any(map(_repeats, candidate.texts)) else None


def _refusal(candidate: Candidate) -> str | None:
    opening = candidate.answer[:_OPENING].replace("\u2019", "'").strip()
    if _REFUSALS.search(opening):
        return "the answer refuses"
    is_short = len(candidate.answer) <= _LONGEST_BOILERPLATE
    if is_short and _BOILERPLATE.fullmatch(candidate.answer.strip()):
        return "the answer says nothing"
    return None


def _secrets(candidate: Candidate) -> str | None:
    kinds = filter(None, map(secret_in, candidate.texts))
    kind = next(kinds, None)
    return None if kind is None else f"it holds {kind}"


def _encoding(candidate: Candidate) -> str | None:
    return next(filter(None, map(_misencoded, candidate.texts)), None)


def _language(candidate: Candidate) -> str | None:
    """By the shares of scripts alone: French among English passes, Russian does not."""
    script = main_script(f"{candidate.question} {candidate.answer}")
    if script is None or not candidate.home_scripts or script in candidate.home_scripts:
        return None
    return "it is written in another script than the rest"


FILTERS: dict[FilterName, Filter] = {
    "length": _length,
    "encoding": _encoding,
    "repetition": _repetition,
    "refusal": _refusal,
    "secrets": _secrets,
    "language": _language,
}
"""By the names of `training.filters`."""

PASSAGE_FILTERS: frozenset[FilterName] = frozenset(
    {"encoding", "repetition", "secrets", "language"}
)
"""Those that judge passages too; a heading alone is short, and a document may tell of refusals."""

assert set(FILTERS) == set(get_args(FilterName))


def _repeats(text: str) -> bool:
    loops = (*_LOOP.finditer(text), *_ONE_SIGN.finditer(text))
    looped = sum(len(each.group()) for each in loops if any(map(str.isalpha, each.group())))
    if looped >= max(_SHORTEST_LOOP, _LOOPED * len(text)):
        return True
    words = text.casefold().split()
    distinct = len(set(words))
    if len(words) >= _ENOUGH_WORDS and distinct < _FEWEST_DISTINCT * len(words) ** 0.5:
        return any(map(str.isalpha, text))
    may_loop = len(words) >= _SHORTEST_LOOP and distinct <= (1 - _LOOPED) * len(words) + 1
    return may_loop and max(_loops(words)) >= max(_SHORTEST_LOOP / 2, _LOOPED * len(words))


def _loops(words: list[str]) -> Iterator[int]:
    """For every length of a turn, how many words in a row equal the one a turn before."""
    for turn in range(1, _LONGEST_TURN + 1):
        longest = run = 0
        for word, before in zip(words[turn:], words, strict=False):
            run = run + 1 if word == before and any(map(str.isalpha, word)) else 0
            longest = max(longest, run)
        yield longest


def _misencoded(text: str) -> str | None:
    if len(_CONTROL.findall(text)) * _SCARCE > len(text):
        return "it holds signs that cannot be read"
    if not text.isascii() and len(_MISREAD.findall(text)) * _SCARCE > len(text):
        return "its letters were read in the wrong encoding"
    if _blob_length(text) > _BLOB_SHARE * len(text):
        return "it is encoded data and no text"
    return None


def _blob_length(text: str) -> int:
    encoded = sum(len(match.group()) for match in _HEX.finditer(text))
    for match in _BASE64.finditer(text):
        signs = match.group()
        is_mixed = any(map(str.isdigit, signs)) and any(map(str.isupper, signs))
        if len(signs) >= 2 * 40 and is_mixed and any(map(str.islower, signs)):
            encoded += len(signs)
    return encoded
