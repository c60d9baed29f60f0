"""What plain retrieval over the same material would have found, beside the expert's figures."""

from collections.abc import Sequence
from dataclasses import dataclass

from adaptive_moe.measures.graders import normalise, normalised
from adaptive_moe.measures.sampling import evenly
from adaptive_moe.training.documents import Passage
from adaptive_moe.training.guarding import Answerer
from adaptive_moe.training.synthesis import Example

_ASKED = 100


@dataclass(frozen=True, slots=True)
class RetrievalFigures:
    """Of `questions` held-out ones, how many have their answer in the best passage (BM25).

    `hits` is None, with the reason in `note`, where nothing could be measured. `answered` counts
    what the base answers right with that passage in front of the question, of `asked`.
    """

    hits: int | None
    questions: int
    note: str
    answered: int = 0
    asked: int = 0


def measure_retrieval(
    passages: Sequence[Passage],
    train: Sequence[Example],
    held_out: Sequence[Example],
    *,
    answer: Answerer | None = None,
) -> RetrievalFigures:
    """Rank passages, table rows and training rows by BM25 (Robertson & Zaragoza 2009).

    `answer` is the base's, which is asked 100 of the questions at most.
    """
    texts = _texts(passages, train)
    if not texts or not held_out:
        return RetrievalFigures(None, len(held_out), "there is nothing to retrieve")
    try:
        import bm25s
    except ImportError:
        note = "not measured: bm25s is not installed (adaptive_moe[training])"
        return RetrievalFigures(None, len(held_out), note)
    questions = [_question(example) for example in held_out]
    index = bm25s.BM25()
    index.index(bm25s.tokenize(texts, stopwords=None, show_progress=False), show_progress=False)
    queries = bm25s.tokenize(questions, stopwords=None, show_progress=False)
    best, _ = index.retrieve(queries, k=1, show_progress=False)
    found = [texts[int(place[0])] for place in best]
    hits = sum(map(_holds, found, (example.answer for example in held_out)))
    note = "answer string inside the best passage, BM25"
    if answer is None:
        return RetrievalFigures(hits, len(held_out), note)
    asked = evenly(list(zip(found, held_out, strict=True)), _ASKED)
    replies = answer([(("user", f"{text}\n\n{_question(each)}"),) for text, each in asked])
    right = sum(
        normalised(reply.text, example.answer)
        for reply, (_, example) in zip(replies, asked, strict=True)
    )
    return RetrievalFigures(hits, len(held_out), note, right, len(asked))


def _question(example: Example) -> str:
    return example.prompt[-1][1]


def _texts(passages: Sequence[Passage], train: Sequence[Example]) -> list[str]:
    """A table is one text per row, with its titles and header; otherwise it would hold all."""
    texts = []
    for passage in passages:
        titles = " ".join(passage.heading)
        lines = passage.text.splitlines()
        if passage.text.startswith("|"):
            texts += [f"{titles} {lines[0]} {line}" for line in lines[2:]]
        else:
            texts.append(f"{titles} {passage.text}")
    if not passages:
        texts += [f"{example.prompt[-1][1]} {example.answer}" for example in train]
    return texts


def _holds(text: str, answer: str) -> bool:
    return f" {normalise(answer)} " in f" {normalise(text)} "
