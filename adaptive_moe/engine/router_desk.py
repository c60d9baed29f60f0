"""The router as a user sees it: start with one, fit it, measure it, choose its threshold."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import final

from adaptive_moe.config.settings import RouterSettings
from adaptive_moe.engine.answering import Answerer
from adaptive_moe.engine.grading import (
    BaseGrader,
    GradedQuestion,
    Grader,
    read_questions,
    write_questions,
)
from adaptive_moe.engine.orders import Paths, as_paths
from adaptive_moe.engine.references import references
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
from adaptive_moe.router.fitting import split_by_source
from adaptive_moe.router.plots import check_plots, write_plots
from adaptive_moe.router.router import Router
from adaptive_moe.router.thresholds import Threshold

GUARD_FILE = "guard.jsonl"
BACKGROUND_FILE = "background.jsonl"
ROUTER_FOLDER = "router"

_GUARD_QUESTIONS = 1600
_BACKGROUND_QUESTIONS = 3000


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

        `output` keeps the router with two sets of questions for later trainings: those that new
        experts must not spoil, which neither probes nor boundaries have seen, and a background.
        Raises DataError for unusable files and RouterError for too few or one-sided labels.
        """
        questions = read_questions(as_paths(data))
        rows = self._grader.rows(questions, grader=grader)
        language_model = self._answerer.language_model
        keep = self.current.whitening if len(self._answerer.shelf) else None
        router = Router.fit(
            rows,
            base_id=language_model.base_id,
            numerics=language_model.numerics,
            settings=self._settings,
            whitening=keep,
            seed=seed,
        )
        if output is not None:
            router.save(Path(output))
            _write_guard(Path(output), dict(zip(map(id, rows), questions, strict=True)), rows, seed)
        self._answerer.use(router)
        return router

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

        `training` are the questions it was fitted on; with them it is fitted anew without each
        domain and on permuted labels, which takes as many trainings. `plots` names a folder for
        three SVG files (see `router.plots`). Raises DataError for unusable files, RouterError for
        an untrained router and for questions that share a source with the training.
        """
        questions = read_questions(as_paths(data))
        learned = read_questions(as_paths(training)) if training else ()
        check_trained(self.current)
        check_sources([each.source for each in questions], [each.source for each in learned])
        if plots is not None:
            check_plots(Path(plots))
        tell("grading the base's answers")
        report = evaluate_router(
            self.current,
            self._grader.rows(questions, grader=grader),
            training=self._grader.rows(learned, grader=grader),
            fit=lambda rows: self._refit(rows, seed),
            seed=seed,
            tell=tell,
        )
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

    def _refit(self, rows: Sequence[RouterRow], seed: int) -> Router:
        """A router for this base that learned from these rows and from nothing else."""
        language_model = self._answerer.language_model
        return Router.fit(
            rows,
            base_id=language_model.base_id,
            numerics=language_model.numerics,
            settings=self._settings,
            seed=seed,
        )


def starting_router(
    language_model: LanguageModel, bank: LoraBank, settings: RouterSettings, *, folder: Path
) -> Router:
    """The configured router, else the one that came with the pocket model, else an untrained one.

    The untrained one measures itself against the base's own samples, kept in `folder`.
    """
    found = router_folder(language_model, settings)
    if found is not None:
        return Router.load(
            found,
            base_id=language_model.base_id,
            numerics=language_model.numerics,
            settings=settings,
        )
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


def _write_guard(
    folder: Path, questions: Mapping[int, GradedQuestion], rows: Sequence[RouterRow], seed: int
) -> None:
    """From the calibration part what the base gets right, from the training part everything."""
    training, calibration = split_by_source(rows, seed=seed)
    right = [questions[id(row)] for row in calibration if row.correct]
    write_questions(folder / GUARD_FILE, evenly(right, _GUARD_QUESTIONS))
    background = [questions[id(row)] for row in training]
    write_questions(folder / BACKGROUND_FILE, evenly(background, _BACKGROUND_QUESTIONS))
