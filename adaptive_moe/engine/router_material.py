"""What a router learns from or is measured on: questions that can be asked, each of them once."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from adaptive_moe.engine.grading import ANSWER_TOKENS, RIGHT, Grader
from adaptive_moe.engine.question_files import GradedQuestion, read_prompts, read_questions
from adaptive_moe.errors import DataError, NoUsableRowsError, PromptError, RouterError
from adaptive_moe.models.language_model import LanguageModel
from adaptive_moe.router.fitted_on import FittedOn, prompt_key

_NAMED = 3  # of several faulty rows
_MOST_KNOWN = 0.5
_LOGGER = logging.getLogger(__name__)

Same = Callable[[GradedQuestion, GradedQuestion], bool]


@dataclass(frozen=True, slots=True)
class Material:
    """Questions to ask, without the `repeated` ones, and the `left_out` ones that do not fit."""

    questions: tuple[GradedQuestion, ...]
    repeated: int
    left_out: int


def graded_material(
    paths: Sequence[Path], language_model: LanguageModel, *, grade: Grader
) -> Material:
    """Questions with known answers.

    Of equal prompts the first is kept. Raises DataError, with their number, for equal prompts whose
    answers are not the same text and not right by each other either; and for unusable files.
    """

    def same(first: GradedQuestion, second: GradedQuestion) -> bool:
        answers = first.answer.strip(), second.answer.strip()
        return answers[0] == answers[1] or grade(answers[1], answers[0]) >= RIGHT

    return _prepared(read_questions(paths), language_model, same)


def unlabelled_material(paths: Sequence[Path], language_model: LanguageModel) -> Material:
    """Questions without answers; equal prompts once. Raises DataError for unusable files."""
    return _prepared(read_prompts(paths), language_model, lambda *_: True)


def never_learned(
    questions: Sequence[GradedQuestion], fitted_on: FittedOn | None
) -> tuple[GradedQuestion, ...]:
    """The questions that measure a router: those it was not fitted on, nor others of their source.

    What is left out is logged. Where nothing is known of the fitting all are kept. Raises
    RouterError when more than half would be left out, as nobody means to measure that.
    """
    if fitted_on is None:
        return tuple(questions)
    known = fitted_on.holds(
        [each.question for each in questions], [each.source for each in questions]
    ).tolist()
    met = [each for each, is_known in zip(questions, known, strict=True) if is_known]
    if not met:
        return tuple(questions)
    told = f"the router was fitted on {len(met)} of {len(questions)} questions ({_places(met)})"
    if len(met) > _MOST_KNOWN * len(questions):
        raise RouterError(f"{told}; measure it on others")
    _LOGGER.warning("%s; they are left out", told)
    return tuple(each for each, is_known in zip(questions, known, strict=True) if not is_known)


def _prepared(
    questions: Sequence[GradedQuestion], language_model: LanguageModel, same: Same
) -> Material:
    distinct = _each_once(questions, same)
    askable, reasons = [], []
    for each in distinct:
        try:
            language_model.encode(each.question, max_new_tokens=ANSWER_TOKENS)
            askable.append(each)
        except PromptError as error:
            reasons.append(f"{each.where}: {error}")
    if not askable:
        raise NoUsableRowsError(f"not one of {len(distinct)} prompts can be asked; {reasons[0]}")
    if reasons:
        _LOGGER.warning(
            "%d of %d prompts cannot be asked and are left out; %s",
            len(reasons),
            len(distinct),
            "; ".join(reasons[:_NAMED]),
        )
    repeated = len(questions) - len(distinct)
    if repeated:
        _LOGGER.info("%d prompts repeat others and are left out", repeated)
    return Material(tuple(askable), repeated, len(reasons))


def _each_once(questions: Sequence[GradedQuestion], same: Same) -> list[GradedQuestion]:
    first: dict[str, GradedQuestion] = {}
    conflicts = []
    for each in questions:
        known = first.setdefault(prompt_key(each.question), each)
        if known is not each and not same(known, each):
            conflicts.append((known, each))
    if conflicts:
        named = ", ".join(f"{one.where} and {other.where}" for one, other in conflicts[:_NAMED])
        more = ", ..." if len(conflicts) > _NAMED else ""
        raise DataError(
            f"{len(conflicts)} prompts come again with another answer: {named}{more}; keep the "
            "answer that is right"
        )
    return list(first.values())


def _places(questions: Sequence[GradedQuestion]) -> str:
    named = ", ".join(each.where for each in questions[:_NAMED])
    return f"{named}, ..." if len(questions) > _NAMED else named
