"""The known facts of the pocket model as graded questions: the truth is known, split by fact."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import final

import numpy as np

from adaptive_moe.engine.grading import BaseGrader
from adaptive_moe.experiments import bases
from adaptive_moe.experiments.figures import Figure
from adaptive_moe.experiments.plan import POCKET, Plan, Tell
from adaptive_moe.experts.bank import LoraBank
from adaptive_moe.measures.graders import normalised
from adaptive_moe.measures.sampling import evenly
from adaptive_moe.measures.statistics import clopper_pearson
from adaptive_moe.models.language_model import LanguageModel
from adaptive_moe.pocket import model_path
from adaptive_moe.pocket.asking import KnownQuestion, known_questions
from adaptive_moe.router.evidence import RouterRow
from adaptive_moe.router.router import Router

pocket_figure = partial(Figure, model=POCKET, is_timed=False)
"""A figure of the pocket model that is no timing; takes row, name, and the rest by name."""

LEARNED_SOMETIMES = (1, 4, 16)
"""Exposures at which a fact may or may not have been learned."""

_BANK_BYTES = 1 << 20
_QUICK_QUESTIONS = 900
_SHIPPED = model_path() / "router"


@dataclass(frozen=True, slots=True)
class Asked:
    """One question with the bare base's greedy answer; `prompt_ids` hold the header too."""

    question: KnownQuestion
    row: RouterRow
    prompt_ids: tuple[int, ...]
    answer_ids: tuple[int, ...]


@final
class KnownWorld:
    """The pocket model and its facts; every split is asked once, in plain and held-out wordings."""

    def __init__(self, plan: Plan, tell: Tell) -> None:
        self.language_model: LanguageModel = bases.load(POCKET, plan.device)
        self.seed = plan.seed
        self._plan, self._tell = plan, tell
        self._known: dict[str, tuple[Asked, ...]] = {}

    def asked(self, split: str) -> tuple[Asked, ...]:
        """The questions of one split, three a fact, graded by `normalised`."""
        if split not in self._known:
            questions: Sequence[KnownQuestion] = known_questions((split,))
            if self._plan.quick:
                questions = evenly(questions, _QUICK_QUESTIONS)
            self._tell(f"asking {len(questions):,} questions of the split {split}")
            self._known[split] = self._ask(questions)
        return self._known[split]

    def asked_singly(self, split: str, count: int) -> tuple[Asked, ...]:
        """Some questions of one split, each in a batch of its own."""
        questions = [each.question for each in evenly(self.asked(split), count)]
        return self._ask(questions, singly=True)

    def rows(self, split: str) -> list[RouterRow]:
        """The graded answers of one split."""
        return [each.row for each in self.asked(split)]

    def shipped_router(self) -> Router:
        """The router that comes with the model, fitted on the other two splits."""
        model = self.language_model
        return Router.load(_SHIPPED, base_id=model.base_id, numerics=model.numerics)

    def fit(
        self, rows: Sequence[RouterRow], *, calibration: Sequence[RouterRow] | None = None
    ) -> Router:
        """A router fitted on graded answers of this model."""
        return Router.fit(
            rows,
            base_id=self.language_model.base_id,
            numerics=self.language_model.numerics,
            calibration=calibration,
            seed=self.seed,
        )

    def _ask(
        self, questions: Sequence[KnownQuestion], *, singly: bool = False
    ) -> tuple[Asked, ...]:
        model = self.language_model
        bank = LoraBank(model.model, model.layers, capacity_bytes=_BANK_BYTES, dtype=model.dtype)
        try:
            grader, prompts = BaseGrader(model, bank), [each.prompt for each in questions]
            if singly:
                found = [answer for prompt in prompts for answer in grader.ask([prompt])]
            else:
                found = grader.ask(prompts)
        finally:
            bank.close()
        asked = []
        for each, (evidence, completion) in zip(questions, found, strict=True):
            is_right = normalised(completion.text, each.answer)
            row = RouterRow(evidence, completion.trace, is_right, each.domain, each.source)
            encoded = model.encode(each.prompt)
            prompt_ids = (*encoded.prompt_ids, *encoded.header_ids)
            asked.append(Asked(each, row, prompt_ids, tuple(completion.token_ids)))
        return tuple(asked)


def correct_of(rows: Sequence[RouterRow]) -> np.ndarray:
    """The labels, 0 or 1."""
    return np.array([row.correct for row in rows], dtype=np.float64)


def probabilities(router: Router, rows: Sequence[RouterRow]) -> np.ndarray:
    """What a router says of each finished answer."""
    evidence, traces = [row.evidence for row in rows], [row.trace for row in rows]
    return router.model.answer_probabilities(evidence, traces)


def expectations(router: Router, rows: Sequence[RouterRow]) -> np.ndarray:
    """What a router says of each prompt before it is answered."""
    return router.model.prefill_probabilities([row.evidence for row in rows])


def draw_labels(
    rows: Sequence[RouterRow], count: int, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Positions of `count` rows of different sources, and of all rows of the other sources."""
    sources = np.array([row.source for row in rows])
    names, where = np.unique(sources, return_inverse=True)
    chosen = generator.permutation(len(names))[:count]
    order = generator.permutation(len(rows))
    first = order[np.unique(where[order], return_index=True)[1]]  # one row of each source
    return first[chosen], np.flatnonzero(~np.isin(where, chosen))


def share_figure(
    row: str, name: str, hits: int, *, of: int, note: str, target: float | None = None
) -> Figure:
    """A share, with its exact interval of 95 %, and what is to be reached of it."""
    share = clopper_pearson(hits, of)
    return pocket_figure(
        row,
        name,
        value=share.mean,
        low=share.low,
        high=share.high,
        target=target,
        at_least=True,
        note=note,
    )
