"""The prompts on which nothing may get worse: what the base is known to answer right."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from adaptive_moe.config.settings import RouterSettings, TrainingSettings
from adaptive_moe.engine.grading import BaseGrader, GradedQuestion, read_questions
from adaptive_moe.engine.references import sampled_questions
from adaptive_moe.engine.router_desk import GUARD_FILE, router_folder
from adaptive_moe.experts.bank import LoraBank
from adaptive_moe.models.language_model import LanguageModel
from adaptive_moe.router.domains import Domain, nearest_distances
from adaptive_moe.router.whitening import Whitening
from adaptive_moe.training.gate import GuardItem

_NEAR = 100  # guard prompts nearest to the new domain; the rest is drawn from everywhere


@dataclass(frozen=True, slots=True)
class GuardPool:
    """Questions the base answers right now, with where they lie in its state space.

    `background` are the states of all questions asked, the wrongly answered ones too.
    """

    questions: tuple[GradedQuestion, ...]
    states: Float[np.ndarray, "question state"]
    background: Float[np.ndarray, "prompt state"]

    def choose(
        self, domain: Domain, whitening: Whitening, *, count: int, seed: int
    ) -> tuple[GuardItem, ...]:
        """At most `count` of them: those nearest to the domain, marked near, and random others."""
        if not self.questions:
            return ()
        distances = nearest_distances(whitening.apply(self.states), domain.centroids)
        order = np.argsort(distances, kind="stable").tolist()
        near, rest = order[: min(_NEAR, count)], order[min(_NEAR, count) :]
        chance = random.Random(f"guard {seed}")  # noqa: S311  not for security
        others = chance.sample(rest, min(len(rest), count - len(near)))
        return tuple(
            GuardItem(
                (("user", self.questions[index].question),), self.questions[index].answer, is_near
            )
            for indexes, is_near in ((near, True), (others, False))
            for index in indexes
        )


def guard_pool(
    language_model: LanguageModel,
    bank: LoraBank,
    *,
    router: RouterSettings,
    training: TrainingSettings,
    folder: Path,
) -> GuardPool:
    """The configured guard file, else the one beside the router, else the base's own words.

    Questions from a file are asked first, and only those answered right are kept. For a base
    nobody has graded, its answers to its own samples stand in: they must not change.
    """
    if training.guard_prompts == 0:
        nothing = np.empty((0, 0), dtype=np.float32)
        return GuardPool((), nothing, nothing)
    file = training.guard or _shipped(language_model, router)
    if file is None:
        questions: Sequence[GradedQuestion] = sampled_questions(
            language_model, bank, folder=folder, count=training.guard_prompts
        )
    else:
        questions = read_questions([file])
    rows = BaseGrader(language_model, bank).rows(questions)
    right = [index for index, row in enumerate(rows) if row.correct]
    background = np.stack([row.evidence.states for row in rows])
    return GuardPool(tuple(questions[index] for index in right), background[right], background)


def _shipped(language_model: LanguageModel, settings: RouterSettings) -> Path | None:
    folder = router_folder(language_model, settings)
    file = None if folder is None else folder / GUARD_FILE
    return file if file is not None and file.is_file() else None
