"""Retrieval by BM25: what material says about a prompt, and what that alone would have answered."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast, final

import numpy as np
from jaxtyping import Float

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


@final
class PassageIndex:
    """Scores texts against a question by BM25 (Robertson & Zaragoza 2009).

    Raises ImportError where bm25s, of adaptive_moe[training], is not installed; there is at least
    one text.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        import bm25s

        self._index = bm25s.BM25()
        self._index.index([_tokens(text) for text in texts], show_progress=False)
        self._count = len(texts)

    def scores(self, question: str) -> Float[np.ndarray, " text"]:
        """How well each text answers to the words of the question; 0 where none is in it."""
        known = [word for word in _tokens(question) if word in self._index.vocab_dict]
        if not known:
            return np.zeros(self._count, dtype=np.float32)
        return cast("Float[np.ndarray, ' text']", self._index.get_scores(known))


def measure_retrieval(
    passages: Sequence[Passage],
    train: Sequence[Example],
    held_out: Sequence[Example],
    *,
    answer: Answerer | None = None,
) -> RetrievalFigures:
    """Look the questions up in passages and table rows, else in training rows.

    `answer` is the base's, which is asked 100 of the questions at most.
    """
    texts = _texts(passages, train)
    if not texts or not held_out:
        return RetrievalFigures(None, len(held_out), "there is nothing to retrieve")
    try:
        index = PassageIndex(texts)
    except ImportError:
        note = "not measured: bm25s is not installed (adaptive_moe[training])"
        return RetrievalFigures(None, len(held_out), note)
    found = [texts[int(index.scores(_question(each)).argmax())] for each in held_out]
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


def _tokens(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())


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
