"""Puts an expert on trial before the gate, with routing as it would be if the expert were live."""

from pathlib import Path
from typing import final

from transformers import GenerationConfig

from adaptive_moe.config.settings import RouterSettings, TrainingSettings
from adaptive_moe.engine.answering import Answerer
from adaptive_moe.engine.batches import in_batches
from adaptive_moe.engine.expert_folder import as_messages
from adaptive_moe.engine.guard import GuardPool, guard_pool
from adaptive_moe.engine.orders import Prepared
from adaptive_moe.engine.question_files import read_questions
from adaptive_moe.engine.request import Forced, Request
from adaptive_moe.engine.shelf import Trial
from adaptive_moe.errors import CorruptExpertError
from adaptive_moe.router.boundary import Outside
from adaptive_moe.router.router import ExpertArm
from adaptive_moe.training.gate import GateReport, Predecessor, Prompts, run_gate
from adaptive_moe.training.rows import Turn

_ANSWER_TOKENS = 32  # longest guard answer


@final
class Judge:
    """The gate of one runtime; it asks the guard questions once and remembers them."""

    def __init__(self, answerer: Answerer, router: RouterSettings, *, folder: Path) -> None:
        self._answerer = answerer
        self._router = router
        self._folder = folder
        self._pools: dict[tuple[Path | None, int], GuardPool] = {}

    def judge(self, trial: Trial, prepared: Prepared, settings: TrainingSettings) -> GateReport:
        """The verdict on a trained expert; see `training.gate`."""
        answerer = self._answerer
        guard = self._guard_pool(settings).choose(
            trial.domain,
            answerer.shelf.whitening,
            count=settings.guard_prompts,
            seed=settings.seed,
        )
        predecessor = self._predecessor(trial.name)
        with answerer.shelf.on_trial(trial) as arm:
            # A new version takes its old one's place; without it the old one would answer on.
            present = answerer.shelf.arms()
            arms = (*(each for each in present if each.name != trial.name), arm)
            return run_gate(
                answerer.language_model,
                answerer.bank,
                trial.weights,
                prepared.split,
                passages=prepared.material.passages,
                guard=guard,
                answer_automatic=lambda prompts: self._ask(prompts, "auto", arms),
                answer_before=lambda prompts: self._ask(prompts, "auto", present),
                answer_forced=lambda prompts: self._ask(prompts, [arm.name], arms),
                predecessor=predecessor,
                settings=settings,
                seed=settings.seed,
            )

    def _predecessor(self, name: str) -> Predecessor | None:
        shelf = self._answerer.shelf
        if name not in shelf:
            return None
        serving = shelf[name]
        try:
            weights = shelf.weights(serving.expert_id)
        except CorruptExpertError as error:
            shelf.quarantine(serving.expert_id, str(error))
            return None
        return Predecessor(
            version=serving.version,
            weights=weights,
            activation=serving.activation,
            taught=frozenset(shelf.questions(serving)),
        )

    def check(self, settings: TrainingSettings) -> None:
        """Read the configured guard file, so that a mistake in it is told before a training.

        Raises DataError.
        """
        if settings.guard is not None and settings.guard_prompts > 0:
            read_questions([settings.guard])

    def background(self, settings: TrainingSettings) -> Outside:
        """The base's own questions, rightly answered or not, that boundaries are drawn against."""
        return self._guard_pool(settings).background

    def _ask(self, prompts: Prompts, experts: Forced, arms: tuple[ExpertArm, ...]) -> list[str]:
        """Short greedy answers in batches."""
        request = Request(
            generation=GenerationConfig(max_new_tokens=_ANSWER_TOKENS),
            experts=experts,
            attribution=False,
            arms=arms,
        )

        def answers(batch: list[tuple[Turn, ...]]) -> list[str]:
            asked = [as_messages(prompt) for prompt in batch]
            return [each.answer.text for each in self._answerer.finished(asked, request)]

        return in_batches(prompts, answers, length=_characters)

    def _guard_pool(self, settings: TrainingSettings) -> GuardPool:
        key = (settings.guard, settings.guard_prompts)
        if key not in self._pools:
            self._pools[key] = guard_pool(
                self._answerer.language_model,
                self._answerer.bank,
                router=self._router,
                training=settings,
                folder=self._folder,
            )
        return self._pools[key]


def _characters(prompt: tuple[Turn, ...]) -> int:
    return sum(len(text) for _, text in prompt)
