"""The router as a user sees it: start with one, fit it, measure it, choose its threshold."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import final

from adaptive_moe.config.settings import RouterSettings
from adaptive_moe.engine.answering import Answerer
from adaptive_moe.engine.background_places import MOST_QUESTIONS, keep_places, worded
from adaptive_moe.engine.grading import BaseGrader, Grader, as_grader
from adaptive_moe.engine.orders import Paths, as_paths
from adaptive_moe.engine.question_files import GradedQuestion, write_questions
from adaptive_moe.engine.references import references
from adaptive_moe.engine.router_material import (
    Material,
    graded_material,
    never_learned,
    unlabelled_material,
)
from adaptive_moe.engine.states import state_size
from adaptive_moe.errors import RouterError
from adaptive_moe.experts.bank import LoraBank
from adaptive_moe.measures.sampling import evenly
from adaptive_moe.models.language_model import LanguageModel
from adaptive_moe.pocket import model_path
from adaptive_moe.router.controls import Tell
from adaptive_moe.router.evaluation import (
    RouterReport,
    check_sources,
    check_trained,
    evaluate_router,
)
from adaptive_moe.router.evidence import RouterRow
from adaptive_moe.router.fitted_on import FittedOn
from adaptive_moe.router.fitting import split_by_source
from adaptive_moe.router.plots import check_plots, write_plots
from adaptive_moe.router.router import Router
from adaptive_moe.router.thresholds import Threshold
from adaptive_moe.router.whitening import Whitening

GUARD_FILE = "guard.jsonl"
BACKGROUND_FILE = "background.jsonl"
ROUTER_FOLDER = "router"

_GUARD_QUESTIONS = 1600


@final
class RouterDesk:
    """Training and measuring of one runtime's router; the new router serves at once."""

    def __init__(self, answerer: Answerer, settings: RouterSettings) -> None:
        self._answerer = answerer
        self._settings = settings
        self._grader = BaseGrader(answerer.language_model, answerer.bank)

    @property
    def current(self) -> Router:
        """The router in service."""
        return self._answerer.router

    def fit(
        self,
        data: Paths,
        *,
        output: Path | str | None = None,
        grader: str | Grader = "normalised",
        seed: int = 0,
    ) -> Router:
        """Grade the base on questions with known answers and learn when it is right.

        `grader` is a name of `measures.graders`, or a function of answer and known answer that
        gives 0 (wrong) to 1. Prompts that come again are asked once, those that exceed the context
        are left out; `router.model.learned.fitted_on` has the counts. `output` keeps the router
        with two sets of questions for later trainings: those that new experts must not spoil, which
        neither probes nor boundaries have seen, and a background, with where it lies. Raises
        DataError for unusable files, among them those that give two answers to a prompt, and
        RouterError for too few or one-sided labels.
        """
        grade = as_grader(grader)
        material = graded_material(as_paths(data), self._answerer.language_model, grade=grade)
        rows = self._grader.rows(material.questions, grader=grade)
        fitted_on = FittedOn.of(rows, repeated=material.repeated, left_out=material.left_out)
        return self._learn(rows, material.questions, fitted_on, output=output, seed=seed)

    def fit_unlabelled(
        self, data: Paths, *, output: Path | str | None = None, seed: int = 0
    ) -> Router:
        """Learn from prompts alone when the base would give its answer again.

        Its greedy answer counts as right as far as `router.consistency_samples` answers drawn at
        temperature 1 agree with it. The router calls itself uncalibrated and knows no risk, as
        nobody graded anything; `evaluate` on questions with known answers tells what it is worth.
        `output` keeps it with the same two sets, where what it said again stands for the right
        answer. Raises as `fit` does.
        """
        material = unlabelled_material(as_paths(data), self._answerer.language_model)
        samples = self._settings.consistency_samples
        rows, questions = self._grader.agreements(material.questions, samples=samples)
        fitted_on = FittedOn.of(
            rows,
            target="agreement",
            samples=samples,
            repeated=material.repeated,
            left_out=material.left_out,
        )
        return self._learn(rows, questions, fitted_on, output=output, seed=seed)

    def evaluate(
        self,
        data: Paths,
        *,
        training: Paths = (),
        plots: Path | str | None = None,
        grader: str | Grader = "normalised",
        seed: int = 0,
        tell: Tell = lambda _: None,
    ) -> RouterReport:
        """How well the router tells right from wrong on questions with known answers.

        Those that it was fitted on are left out, with others of their source, as far as it
        remembers; `left_out` of the report counts them, and those that cannot be asked. `training`
        are the questions it was fitted on; with them it is fitted anew without each domain and on
        permuted labels, which takes as many trainings. `plots` names a folder for three SVG files
        (see `router.plots`). Raises DataError for unusable files, RouterError for an untrained
        router, where more than half are left out, and for a source shared with the training.
        """
        check_trained(self.current)
        grade, language_model = as_grader(grader), self._answerer.language_model
        material = graded_material(as_paths(data), language_model, grade=grade)
        questions, left_out = self._unknown(material)
        learned: tuple[GradedQuestion, ...] = ()
        if training:
            learned = graded_material(as_paths(training), language_model, grade=grade).questions
        check_sources([each.source for each in questions], [each.source for each in learned])
        if plots is not None:
            check_plots(Path(plots))
        tell("grading the base's answers")
        report = evaluate_router(
            self.current,
            self._grader.rows(questions, grader=grade),
            training=self._grader.rows(learned, grader=grade),
            fit=partial(self._fit, seed=seed),
            seed=seed,
            tell=tell,
        )
        report = replace(report, left_out=left_out, target=self.current.target)
        if plots is not None:
            write_plots(report, Path(plots))
        return report

    def threshold(
        self,
        *,
        target_risk: float | None = None,
        coverage: float | None = None,
        error_cost: float | None = None,
    ) -> Threshold:
        """The threshold for one aim; without one, that in force.

        `target_risk` is the share of errors among trusted answers, `coverage` the share of answers
        that are trusted, `error_cost` what a trusted wrong answer costs where one that is not
        trusted costs 1. Raises RouterError for several, and for an untrained router.
        """
        return self.current.threshold(
            target_risk=target_risk, coverage=coverage, error_cost=error_cost
        )

    def _fit(
        self,
        rows: Sequence[RouterRow],
        *,
        seed: int,
        whitening: Whitening | None = None,
        fitted_on: FittedOn | None = None,
    ) -> Router:
        """A router for this base and these settings, not in service."""
        language_model = self._answerer.language_model
        return Router.fit(
            rows,
            base_id=language_model.base_id,
            numerics=language_model.numerics,
            settings=self._settings,
            whitening=whitening,
            seed=seed,
            fitted_on=fitted_on,
        )

    def _unknown(self, material: Material) -> tuple[tuple[GradedQuestion, ...], int]:
        """The questions that the router was not fitted on, and how many are left out in all."""
        learned = self.current.model.learned
        fitted_on = None if learned is None else learned.fitted_on
        questions = never_learned(material.questions, fitted_on)
        return questions, material.left_out + len(material.questions) - len(questions)

    def _learn(
        self,
        rows: Sequence[RouterRow],
        questions: Sequence[GradedQuestion],
        fitted_on: FittedOn,
        *,
        output: Path | str | None,
        seed: int,
    ) -> Router:
        """A router from labelled rows, in service, and kept where it was asked for."""
        keep = self.current.whitening if len(self._answerer.shelf) else None
        router = self._fit(rows, seed=seed, whitening=keep, fitted_on=fitted_on)
        if output is not None:
            router.save(Path(output))
            by_row = dict(zip(map(id, rows), questions, strict=True))
            background = _write_guard(Path(output), by_row, rows, seed)
            model, bank = self._answerer.language_model, self._answerer.bank
            keep_places(Path(output), worded(background), model, bank)
        self._answerer.use(router)
        return router


def starting_router(
    language_model: LanguageModel, bank: LoraBank, settings: RouterSettings, *, folder: Path
) -> Router:
    """The configured router, else the one that came with the pocket model, else an untrained one.

    The untrained one measures itself against the base's own samples, kept in `folder`. Raises
    RouterError for a router of another base, unless it is forced and looks at states of this size.
    """
    found = router_folder(language_model, settings)
    if found is not None:
        return _loaded(found, language_model, settings)
    made = references(language_model, bank, folder=folder)
    scores = {
        "first_token_entropy": made.first_token_entropy,
        "mean_entropy": made.mean_entropy,
    }
    return Router.untrained(
        scores,
        background=made.states,
        base_id=language_model.base_id,
        numerics=language_model.numerics,
        settings=settings,
    )


def router_folder(language_model: LanguageModel, settings: RouterSettings) -> Path | None:
    """Where the router of this base lies, if there is one."""
    if settings.folder is not None:
        return settings.folder
    shipped = model_path() / ROUTER_FOLDER
    is_pocket = language_model.name == "pocket"
    return shipped if is_pocket and shipped.is_dir() else None


def _loaded(folder: Path, language_model: LanguageModel, settings: RouterSettings) -> Router:
    router = Router.load(
        folder,
        base_id=language_model.base_id,
        numerics=language_model.numerics,
        settings=settings,
        force_uncalibrated=settings.force_uncalibrated,
    )
    theirs, ours = router.whitening.mean.size, state_size(language_model)
    if theirs != ours:
        raise RouterError(
            f"the router in {folder} looks at {theirs} numbers of the base's states, this model "
            f"has {ours}, so it cannot be used, by force either; fit one for it (router train)"
        )
    return router


def _write_guard(
    folder: Path, questions: Mapping[int, GradedQuestion], rows: Sequence[RouterRow], seed: int
) -> Sequence[GradedQuestion]:
    """From the calibration part what the base gets right, from the training part everything.

    Of prompts without known answers that is what has one of the base's own. The background is
    given back.
    """
    training, calibration = split_by_source(rows, seed=seed)
    right = [questions[id(row)] for row in calibration if row.correct]
    write_questions(folder / GUARD_FILE, evenly(right, _GUARD_QUESTIONS))
    answered = [questions[id(row)] for row in training if questions[id(row)].answer.strip()]
    background = evenly(answered, MOST_QUESTIONS)
    write_questions(folder / BACKGROUND_FILE, background)
    return background
