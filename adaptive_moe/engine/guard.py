"""The prompts on which nothing may get worse: what the base is known to answer right."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from adaptive_moe.config.settings import RouterSettings, TrainingSettings
from adaptive_moe.engine.background_places import outside_of, worded
from adaptive_moe.engine.question_files import GradedQuestion, read_questions
from adaptive_moe.engine.references import sampled_questions
from adaptive_moe.engine.router_desk import BACKGROUND_FILE, GUARD_FILE, router_folder
from adaptive_moe.experts.bank import LoraBank
from adaptive_moe.measures.sampling import evenly
from adaptive_moe.models.language_model import LanguageModel
from adaptive_moe.router.boundary import Outside, Placed
from adaptive_moe.training.guarding import GuardItem

_BACKGROUND_SAMPLES, _GUARD_SAMPLES = 256, 800  # at most, of an ungraded base's own words
_SPARE = 2  # times as many guard questions are kept as are wanted: the base may know half
_EXCHANGES = 400  # for conversations


@dataclass(frozen=True, slots=True)
class GuardPool:
    """What the base may be known to answer right, and `background`: other questions.

    These are rightly answered or not, as they stand and every other one in a loose wording too.
    Boundaries are drawn against them; no source of theirs is among the guarded, which measure what
    the boundaries cost.
    """

    items: tuple[GuardItem, ...]
    background: Outside


def guard_pool(
    language_model: LanguageModel,
    bank: LoraBank,
    *,
    router: RouterSettings,
    training: TrainingSettings,
    folder: Path,
) -> GuardPool:
    """The configured guard file, else the one beside the router, else the base's own words.

    Of a base that nobody has graded, its answers to its own samples stand in: they must not change.
    """
    if training.guard_prompts == 0:
        nothing = np.empty((0, 0), dtype=np.float32)
        return GuardPool((), Outside(Placed(nothing, ())))
    shipped = router_folder(language_model, router)
    file = _guard_file(language_model, router, training)
    if file is None:
        count = _BACKGROUND_SAMPLES + min(_GUARD_SAMPLES, training.guard_prompts)
        samples = sampled_questions(language_model, bank, folder=folder, count=count)
        questions, others = samples[_BACKGROUND_SAMPLES:], samples[:_BACKGROUND_SAMPLES]
    else:
        others_file = _existing(shipped, BACKGROUND_FILE)
        questions = read_questions([file])
        if others_file is None:
            questions, others = _in_two(questions)
        else:
            others = read_questions([others_file])
    chosen = evenly(questions, _SPARE * training.guard_prompts)
    items = [GuardItem((("user", each.question),), each.answer) for each in chosen]
    background = outside_of(worded(others), language_model, bank, folder=shipped)
    return GuardPool(tuple(dict.fromkeys(items)), background)


def guard_questions(
    language_model: LanguageModel, *, router: RouterSettings, training: TrainingSettings
) -> tuple[str, ...]:
    """The questions of the guard file; none where there is no such file or no guard is wanted.

    Raises DataError.
    """
    file = _guard_file(language_model, router, training)
    if file is None or training.guard_prompts == 0:
        return ()
    return tuple(each.question for each in read_questions([file]))


def known_exchanges(
    language_model: LanguageModel, *, router: RouterSettings
) -> tuple[tuple[str, str], ...]:
    """Questions of the background file with their answers; none where there is no such file.

    Raises DataError.
    """
    file = _existing(router_folder(language_model, router), BACKGROUND_FILE)
    found = () if file is None else evenly(read_questions([file]), _EXCHANGES)
    return tuple((each.question, each.answer) for each in found)


def _guard_file(
    language_model: LanguageModel, router: RouterSettings, training: TrainingSettings
) -> Path | None:
    return training.guard or _existing(router_folder(language_model, router), GUARD_FILE)


def _in_two(
    questions: Sequence[GradedQuestion],
) -> tuple[tuple[GradedQuestion, ...], tuple[GradedQuestion, ...]]:
    """Every other source to guard with, the rest to draw boundaries against."""
    place = {source: i for i, source in enumerate(sorted({each.source for each in questions}))}
    guard = tuple(each for each in questions if place[each.source] % 2 == 0)
    return guard, tuple(each for each in questions if place[each.source] % 2)


def _existing(folder: Path | None, name: str) -> Path | None:
    file = None if folder is None else folder / name
    return file if file is not None and file.is_file() else None
