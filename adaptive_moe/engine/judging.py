"""Puts an expert on trial before the gate, with routing as it would be if the expert were live."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import final

import numpy as np
from transformers import GenerationConfig

from adaptive_moe.config.settings import RouterSettings, TrainingSettings
from adaptive_moe.engine.answering import Answerer
from adaptive_moe.engine.batches import in_batches
from adaptive_moe.engine.events import Answer, Answered
from adaptive_moe.engine.expert_folder import as_messages
from adaptive_moe.engine.guard import GuardPool, guard_pool, guard_questions, known_exchanges
from adaptive_moe.engine.orders import Prepared
from adaptive_moe.engine.question_files import GradedQuestion, read_questions
from adaptive_moe.engine.references import sampled_questions
from adaptive_moe.engine.rehearsal import rehearsed
from adaptive_moe.engine.request import Forced, Request
from adaptive_moe.engine.shelf import Trial
from adaptive_moe.errors import CorruptExpertError, DataError, PromptTooLongError
from adaptive_moe.router.boundary import Outside
from adaptive_moe.router.domains import nearest_distances
from adaptive_moe.router.router import ExpertArm
from adaptive_moe.training.gate import GateReport, Respondents, run_gate
from adaptive_moe.training.guarding import Answerer as Asked
from adaptive_moe.training.guarding import Prompts, Reply
from adaptive_moe.training.held_out import HeldOutFigures, Measure, Predecessor
from adaptive_moe.training.rows import Turn
from adaptive_moe.training.side_effects import general_texts
from adaptive_moe.training.synthesis import Example

_ANSWER_TOKENS = 32  # longest guard answer
_GENERAL_SAMPLES, _REHEARSED_SAMPLES = 64, 256


@final
class Judge:
    """The gate of one runtime; it reads what boundaries are drawn against only once."""

    def __init__(self, answerer: Answerer, router: RouterSettings, *, folder: Path) -> None:
        self._answerer = answerer
        self._router = router
        self._folder = folder
        self._pools: dict[tuple[Path | None, int], GuardPool] = {}

    def judge(self, trial: Trial, prepared: Prepared, settings: TrainingSettings) -> GateReport:
        """The verdict on a trained expert; see `training.gate`."""
        answerer = self._answerer
        predecessor = self._predecessor(trial.name)
        with answerer.shelf.on_trial(trial) as arm:
            return run_gate(
                Measure(
                    answerer.language_model, answerer.bank, trial.weights, settings, settings.seed
                ),
                prepared.split,
                passages=prepared.material.passages,
                guard=self._guard_pool(settings).items,
                general=self._general(settings),
                respondents=self._respondents(trial, arm),
                predecessor=predecessor,
            )

    def _general(self, settings: TrainingSettings) -> Sequence[Example]:
        """Text on which forgetting is measured: a file's, else what the base says unprompted."""
        if settings.general_text is not None:
            return general_texts(settings.general_text)
        said = self._said(_GENERAL_SAMPLES)
        return [
            Example((("user", each.question),), each.answer, each.question, "said", "base", line)
            for line, each in enumerate(said, start=1)
        ]

    def _respondents(self, trial: Trial, arm: ExpertArm) -> Respondents:
        def ask(experts: Forced, arms: tuple[ExpertArm, ...]) -> Asked:
            return lambda prompts: self._ask(prompts, experts, arms, trial)

        present = self._answerer.shelf.arms()
        # A new version takes its old one's place, and is not excused for what that one spoils.
        others = tuple(each for each in present if each.name != trial.name)

        def live(record: HeldOutFigures) -> Asked:
            serving = replace(
                arm,
                successes=record.right,
                trials=record.examples,
                base_successes=record.base_right,
            )
            return ask("auto", (*others, serving))

        return Respondents(
            live=live,
            before=ask("auto", others),
            forced=ask([arm.name], (*others, arm)),
            base=ask(None, ()),
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
        """Read the configured files, so that a mistake in them is told before a training.

        Raises DataError.
        """
        if settings.general_text is not None:
            general_texts(settings.general_text)
        if settings.guard is not None and settings.guard_prompts > 0:
            self._check_guard(settings.guard)

    def _check_guard(self, guard: Path) -> None:
        for each in read_questions([guard]):
            if not self._fits((("user", each.question),)):
                raise DataError(
                    f"{each.where}: this question and an answer exceed the model's context of "
                    f"{self._answerer.language_model.context_length} tokens; leave it out of "
                    "training.guard"
                )

    def guarding(self, settings: TrainingSettings) -> tuple[str, ...]:
        """The guard's questions as far as files hold them; no training may contain them."""
        model = self._answerer.language_model
        return guard_questions(model, router=self._router, training=settings)

    def exchanges(self, settings: TrainingSettings) -> tuple[tuple[str, str], ...]:
        """Questions with answers from a file beside the router, for chats that new ones come up in.

        They are none of the guard's.
        """
        model = self._answerer.language_model
        if settings.in_conversation == 0:
            return ()
        return known_exchanges(model, router=self._router)

    def background(self, settings: TrainingSettings) -> Outside:
        """The base's own questions, rightly answered or not, that boundaries are drawn against."""
        return self._guard_pool(settings).background

    def rehearsal(self, settings: TrainingSettings, *, new: int) -> tuple[Example, ...]:
        """Known and general rows beside so many new ones, in the proportion of `training.mix`.

        The guard and the measure of forgetting ask others.
        """
        share, *others = settings.mix
        known, general = (round(new * part / share) for part in others)
        if not known + general:
            return ()
        measured = [each.question for each in self._said(_GENERAL_SAMPLES)]
        prompts = self.background(settings).prompts.texts if known else ()
        return rehearsed(
            self._answerer.language_model,
            self._answerer.bank,
            # An ungraded base's background is what it says unprompted, in a loose wording too.
            known=[each for each in prompts if not any(text in each for text in measured)],
            general=self._said(_REHEARSED_SAMPLES)[_GENERAL_SAMPLES:] if general else (),
            counts=(known, general),
        )

    def _said(self, count: int) -> Sequence[GradedQuestion]:
        """Texts that the base says unprompted; fewer are the first of more."""
        model, bank = self._answerer.language_model, self._answerer.bank
        return sampled_questions(model, bank, folder=self._folder, count=count)

    def _ask(
        self, prompts: Prompts, experts: Forced, arms: tuple[ExpertArm, ...], trial: Trial
    ) -> list[Reply]:
        """Short greedy answers in batches; nothing is said to what exceeds the context."""
        request = Request(
            generation=GenerationConfig(max_new_tokens=_ANSWER_TOKENS),
            experts=experts,
            attribution=False,
            arms=arms,
        )
        replies = [Reply("", was_asked=False) for _ in prompts]
        fitting = [place for place, prompt in enumerate(prompts) if self._fits(prompt)]
        found = in_batches(
            [prompts[place] for place in fitting],
            lambda batch: self._answerer.finished([as_messages(each) for each in batch], request),
            length=_characters,
        )
        # All at once, not batch by batch: numpy's threads and torch's slow each other down.
        distances = self._distances(found, trial)
        for place, answered, distance in zip(fitting, found, distances, strict=True):
            replies[place] = _reply(answered.answer, distance, trial.expert.name)
        return replies

    def _distances(self, found: Sequence[Answered], trial: Trial) -> list[float]:
        """How far each prompt lies from what the trial's expert was taught."""
        if not found:
            return []
        states = np.stack([each.states for each in found])
        points = self._answerer.shelf.whitening.apply(states)
        return list(map(float, nearest_distances(points, trial.domain.centroids)))

    def _fits(self, prompt: tuple[Turn, ...]) -> bool:
        try:
            self._answerer.language_model.encode(as_messages(prompt), max_new_tokens=_ANSWER_TOKENS)
        except PromptTooLongError:
            return False
        return True

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


def _reply(answer: Answer, distance: float, on_trial: str) -> Reply:
    experts = answer.route.experts
    return Reply(
        answer.text,
        answer.confidence.p_correct,
        distance,
        is_experts=any(each.name == on_trial for each in experts),
        is_bases=not experts,
    )


def _characters(prompt: tuple[Turn, ...]) -> int:
    return sum(len(text) for _, text in prompt)
