"""Graders say how right an answer is, given the reference answer."""

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping

_ARTICLES = frozenset({"a", "an", "the"})
_NUMBER = re.compile(
    r"(?<![\w.])[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)?(?:\.\d+)?(?:e[-+]?\d+)?(?![\d])", re.IGNORECASE
)
# Marks that carry meaning inside a word: C#, 50%, R&D, max_steps.
_MEANINGFUL_MARKS = frozenset("#%&_")
_RELATIVE_TOLERANCE = 1e-6
_CHOICE_FORMS = (
    re.compile(r"^\W*([a-z])\W*$", re.IGNORECASE),
    re.compile(r"^\W*([a-z])[.):]", re.IGNORECASE),
    re.compile(r"\b(?i:answer|option|choice)(?:\s+is)?\s*:?\s*\W?([A-Z])\b(?!['])"),
    re.compile(r"\(([a-z])\)", re.IGNORECASE),
)


def normalise(text: str) -> str:
    """Fold case, Unicode forms, punctuation, articles and white space, as SQuAD's script does.

    Unlike there, signs and decimal points of numbers and the marks # % & _ stay, so that -5, 3.5
    and C# keep their meaning; hyphens inside words become spaces; thousands separators go.
    An article stays when nothing else is left.
    """
    folded = unicodedata.normalize("NFKC", text).casefold().replace("\u2212", "-")
    kept = "".join(_fold_mark(folded, position) for position in range(len(folded)))
    words = kept.split()
    content = [word for word in words if word not in _ARTICLES]
    return " ".join(content or words)


def exact(answer: str, reference: str) -> bool:
    """Whether both are the same text but for surrounding white space."""
    return answer.strip() == reference.strip()


def normalised(answer: str, reference: str) -> bool:
    """Whether both are the same after `normalise`."""
    return normalise(answer) == normalise(reference)


def numeric(answer: str, reference: str) -> bool:
    """Whether the last number of the answer is the last number of the reference.

    Equal means within a relative 1e-6; 1,000 and 1e3 are equal, 5 and 5.01 are not. A text
    without a number is never right.
    """
    found, expected = _last_number(answer), _last_number(reference)
    if found is None or expected is None:
        return False
    return abs(found - expected) <= _RELATIVE_TOLERANCE * max(abs(found), abs(expected))


def token_f1(answer: str, reference: str) -> float:
    """Harmonic mean of word precision and recall after `normalise`, Rajpurkar et al. 2016.

    0 to 1; two empty texts agree, an empty one and another do not.
    """
    words, expected = normalise(answer).split(), normalise(reference).split()
    if not words or not expected:
        return float(words == expected)
    common = (Counter(words) & Counter(expected)).total()
    return 2 * common / (len(words) + len(expected))


def choice(answer: str, reference: str) -> bool:
    """Whether both name the same letter of a multiple choice: B, b), (B), "the answer is B: ...".

    A bare word such as the article in "A cat" names no letter. An answer without one is wrong.
    """
    letter = _chosen_letter(answer)
    return letter is not None and letter == _chosen_letter(reference)


GRADERS: Mapping[str, Callable[[str, str], float]] = {
    "exact": lambda answer, reference: float(exact(answer, reference)),
    "normalised": lambda answer, reference: float(normalised(answer, reference)),
    "numeric": lambda answer, reference: float(numeric(answer, reference)),
    "token_f1": token_f1,
    "choice": lambda answer, reference: float(choice(answer, reference)),
}
"""Grader names of the configuration; each gives 0 (wrong) to 1 (right) for (answer, reference)."""


def _fold_mark(text: str, position: int) -> str:
    """What is left of the character at this position: itself, a space or nothing."""
    mark = text[position]
    if mark in _MEANINGFUL_MARKS or not unicodedata.category(mark).startswith("P"):
        return mark
    before = text[position - 1] if position else " "
    after = text[position + 1] if position + 1 < len(text) else " "
    if mark == "." and after.isdigit():
        return mark
    if mark == "-" and after.isdigit() and not before.isalnum():
        return mark
    return " " if mark in "-/\u2013\u2014" else ""


def _last_number(text: str) -> float | None:
    plain = unicodedata.normalize("NFKC", text).replace("\u2212", "-")
    found = [match for match in _NUMBER.findall(plain) if any(sign.isdigit() for sign in match)]
    return float(found[-1].replace(",", "")) if found else None


def _chosen_letter(text: str) -> str | None:
    for form in _CHOICE_FORMS:
        match = form.search(text.strip())
        if match:
            return match.group(1).upper()
    return None
