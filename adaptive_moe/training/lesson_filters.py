"""Which of a teacher's questions may be learned from, and the reason against each of the others."""

import re

from adaptive_moe.measures.graders import normalise
from adaptive_moe.training.documents import Passage
from adaptive_moe.training.grounding import is_grounded
from adaptive_moe.training.replies import Pair
from adaptive_moe.training.rows import RowError, clean_text
from adaptive_moe.training.tables import plain

NOT_IN_PASSAGE = "the answer is not in the passage"
BEYOND_PASSAGE = "the answer goes beyond passage and question"

_LONGEST_QUESTION, _LONGEST_ANSWER = 300, 160  # characters
_REPLY_WORDS = 12  # beside the answer itself, in a reply that still counts as giving it
_PASSAGE_ITSELF = re.compile(
    r"\b(?:the|this|that) (?:above |given |following )?"
    r"(?:passage|text|document|article|paragraph|excerpt|context|author)\b",
    re.IGNORECASE,
)
# Words that carry no claim of their own. "Yes" and "no" do, so they are not among them.
_FUNCTION_WORDS = frozenset(
    re.findall(
        r"\w+",
        """a about after all also an and any are as at be been before between both but by can could
        did do does each every few for from give had has have he her his how i if in into is it its
        many me more most much name of on or other our she should so some such tell than that the
        their them then there these they this those through to under was we were what when where
        which who whose why will with would you your""",
    )
)


def cleaned(pair: Pair) -> Pair | None:
    """The pair without marks around its parts; None for what no file could have taught either."""
    try:
        question = clean_text(pair.question, "question")
        answer = clean_text(_tidy(pair.answer), "answer")
    except RowError:
        return None
    return Pair(" ".join(question.split()), " ".join(answer.split()))


def objection(pair: Pair, piece: Passage, *, implied: bool) -> str | None:
    """Why a pair says too little, too much, or what the passage does not say; None if nothing is.

    An implied answer need not stand in the passage, but each of its content words and numbers has
    to stand there or in the question.
    """
    text = known_text(piece)
    if len(pair.question) > _LONGEST_QUESTION or len(pair.answer) > _LONGEST_ANSWER:
        return "question or answer is too long"
    if _PASSAGE_ITSELF.search(pair.question) and not _PASSAGE_ITSELF.search(text):
        return "the question speaks of the passage itself"
    if not content_words(pair.question) & content_words(text):
        return "the question names nothing of the passage"
    if not implied and is_grounded(pair.answer, pair.question):
        return "the question holds its answer"
    if implied:
        claimed, given = content_words(pair.answer), content_words(f"{text} {pair.question}")
        return None if claimed and claimed <= given else BEYOND_PASSAGE
    return None if is_grounded(pair.answer, text) else NOT_IN_PASSAGE


def agrees(reply: str, answer: str) -> bool:
    """Whether a second reply gives the answer: as such, or in a short sentence.

    Round-trip filtering: Alberti et al. 2019, who asked for the same words alone.
    """
    extra = len(normalise(reply).split()) - len(normalise(answer).split())
    return is_grounded(answer, reply) and extra <= _REPLY_WORDS


def known_text(piece: Passage) -> str:
    """Everything that a passage states: its headings and its text, without Markdown."""
    return " ".join(plain(part) for part in (*piece.heading, piece.text))


def content_words(text: str) -> frozenset[str]:
    """Words and numbers that claim something, as `normalise` writes them."""
    return frozenset(normalise(text).split()) - _FUNCTION_WORDS


def _tidy(answer: str) -> str:
    answer = answer.strip().strip("\"'`*").strip()
    return answer[:-1] if answer.endswith(".") and answer.count(".") == 1 else answer
