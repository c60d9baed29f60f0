"""What the base says already, trained along with the new so that it is not forgotten."""

import itertools
from collections import Counter
from collections.abc import Sequence

from adaptive_moe.engine.grading import BaseGrader
from adaptive_moe.engine.question_files import GradedQuestion
from adaptive_moe.experts.bank import LoraBank
from adaptive_moe.measures.sampling import evenly
from adaptive_moe.models.language_model import LanguageModel
from adaptive_moe.training.stages import Stage
from adaptive_moe.training.synthesis import Example, examples_hash

_MOST = 2000  # prompts that the base is asked; beyond, they are repeated


def rehearsed(
    language_model: LanguageModel,
    bank: LoraBank,
    *,
    known: Sequence[str],
    general: Sequence[GradedQuestion],
    counts: tuple[int, int],
) -> tuple[Example, ...]:
    """As many known prompts and general texts as `counts` say, each with the base's own answer.

    The base's answers are their targets, right or wrong: an expert is to leave them as they are
    (self-synthesised rehearsal, Huang et al. 2024). `general` brings its answers along.
    """
    prompts = evenly(known, min(counts[0], _MOST))
    answers = BaseGrader(language_model, bank).answers(prompts)
    rows = [
        _example(prompt, answer, "known")
        for prompt, answer in zip(prompts, answers, strict=True)
        if answer
    ]
    said = [_example(each.question, each.answer, "general") for each in general if each.answer]
    return (*_as_many(rows, counts[0]), *_as_many(said, counts[1]))


def rehearsal_stage(rows: Sequence[Example]) -> Stage:
    """The record of what is trained along."""
    counts = Counter(each.form for each in rows)
    return Stage("rehearsal", dict(counts), {"train": len(rows)}, examples_hash(rows))


def _as_many(rows: Sequence[Example], count: int) -> list[Example]:
    return list(itertools.islice(itertools.cycle(rows), count)) if rows else []


def _example(prompt: str, answer: str, form: str) -> Example:
    return Example((("user", prompt),), answer, f"{form}: {prompt}", form, "the base", 0)
