"""One of the trainings that may share their passes: how far it is, and what was best so far."""

import dataclasses
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

from torch import Tensor

from adaptive_moe.config.settings import TrainingSettings
from adaptive_moe.errors import DivergedError
from adaptive_moe.experts.weights import LoraPair
from adaptive_moe.training.adapter import Adapter
from adaptive_moe.training.batching import step_examples
from adaptive_moe.training.divergence import check_convergence, steps_in_a_row
from adaptive_moe.training.events import TrainingProgress
from adaptive_moe.training.ranks import RankPlan
from adaptive_moe.training.results import HistoryPoint, TrainingResult
from adaptive_moe.training.splits import Metric
from adaptive_moe.training.steps import Evaluation

_FINAL_RATE = 0.05  # of the peak; a constant rate plateaus
_MAX_SKIPPED = 3  # non-finite steps in a row
_SOLVED = 1.0  # every held-out answer exactly right
_LESS = 1e-4  # nats per token; a smaller gain does not reset the patience

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Slot:
    """One training of a sweep: ranks, seed of factors and order, and a peak rate of its own."""

    plan: RankPlan
    seed: int
    learning_rate: float | None = None


def learning_rate(step: int, settings: TrainingSettings) -> float:
    """Rate of the step (from 0): linear warm-up, then linear decay to 5 % at the last step."""
    if step < settings.warmup_steps:
        return settings.learning_rate * (step + 1) / (settings.warmup_steps + 1)
    left = settings.max_steps - settings.warmup_steps
    share = (step - settings.warmup_steps) / left if left > 0 else 1.0
    return settings.learning_rate * (1 - (1 - _FINAL_RATE) * min(1.0, share))


@dataclass(slots=True)
class _State:
    """Everything but tensors that a resumed training needs."""

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    reading_seconds: float = 0.0
    skipped: int = 0
    skipped_in_a_row: int = 0
    first_loss: float | None = None  # of the first step: the base's on those examples
    peak_loss: float = 0.0  # the highest mean of a few steps in a row
    latest: list[float] = dataclasses.field(default_factory=list)  # losses of those steps
    stale: int = 0
    best_step: int = 0
    losses: list[float] = dataclasses.field(default_factory=list)
    last_loss: float | None = None  # None where the step was skipped
    history: list[HistoryPoint] = dataclasses.field(default_factory=list)
    failure: str | None = None  # why it was given up


@final
class SlotRun:
    """The course of one training, step by step, to its best weights or to the error it met."""

    def __init__(
        self, adapter: Adapter, slot: Slot, settings: TrainingSettings, *, metric: Metric
    ) -> None:
        if slot.learning_rate is not None:
            settings = settings.model_copy(update={"learning_rate": slot.learning_rate})
        self.adapter = adapter
        self._settings = settings
        self._seed = slot.seed
        self._metric = metric
        self._state = _State()
        self._best = adapter.tensors()

    @property
    def step(self) -> int:
        """How many were taken, skipped ones included."""
        return self._state.step

    @property
    def seconds(self) -> float:
        """Since its beginning, without those in which it was interrupted."""
        return self._state.seconds

    @property
    def has_begun(self) -> bool:
        """Whether the held-out side was asked before the first step."""
        return bool(self._state.history)

    @property
    def is_given_up(self) -> bool:
        """Whether it diverged."""
        return self._state.failure is not None

    @property
    def rate(self) -> float:
        """Of the coming step."""
        return learning_rate(self._state.step, self._settings)

    @property
    def is_done(self) -> bool:
        """Whether all steps are taken, or more would be in vain."""
        state, settings = self._state, self._settings
        if state.failure is not None:
            return True
        if not state.history:
            return False
        solved = state.history[-1].held_out.exact >= _SOLVED and state.step > 0
        return solved or state.stale >= settings.patience or state.step >= settings.max_steps

    @property
    def is_to_be_evaluated(self) -> bool:
        """Whether the held-out side is to be asked after this step."""
        state, settings = self._state, self._settings
        if state.failure is not None:
            return False
        return state.step % settings.evaluate_every == 0 or state.step == settings.max_steps

    def examples(self, count: int) -> list[int]:
        """Indexes of the coming step's examples, of so many."""
        return step_examples(
            self._state.step, count=count, batch_size=self._settings.batch_size, seed=self._seed
        )

    def note_reading(self, seconds: float) -> None:
        """Prompts were read ahead for so long."""
        self._state.reading_seconds += seconds

    def note_seconds(self, seconds: float) -> None:
        """So long it has taken by now."""
        self._state.seconds = seconds

    def note_step(self, outcome: tuple[float, int] | None) -> None:
        """One step more, or None where it was skipped; too many of those end the training."""
        state = self._state
        state.step += 1
        if outcome is None:
            state.last_loss = None
            self._note_skipped()
            return
        state.last_loss, tokens = outcome
        state.skipped_in_a_row = 0
        state.tokens += tokens
        self._watch(state.last_loss)
        state.losses.append(state.last_loss)

    def note_evaluation(self, found: Evaluation) -> None:
        """What the held-out side says by now; the best weights are kept."""
        state = self._state
        recent = sum(state.losses) / len(state.losses) if state.losses else None
        state.losses = []
        best = next((x.held_out for x in state.history if x.step == state.best_step), None)
        state.history.append(HistoryPoint(state.step, recent, found))
        if best is None or _is_better(found, best, self._metric):
            state.best_step, state.stale = state.step, 0
            self._best = self.adapter.tensors()
        else:
            state.stale += 1

    def progress(self) -> TrainingProgress:
        """What there is to tell after the latest step."""
        state, settings = self._state, self._settings
        latest, loss = state.history[-1], state.last_loss
        per_step = (state.seconds - state.reading_seconds) / state.step
        return TrainingProgress(
            step=state.step,
            steps=settings.max_steps,
            loss=float("nan") if loss is None else loss,
            tokens_per_second=state.tokens / max(state.seconds, 1e-9),
            eta_seconds=0.0 if self.is_done else per_step * (settings.max_steps - state.step),
            learning_rate=learning_rate(state.step - 1, settings),
            held_out_loss=latest.held_out.loss,
            held_out_exact=latest.held_out.exact,
        )

    def check(self) -> None:
        """Give the training up where it is over and did not converge."""
        state = self._state
        if state.failure is not None or state.first_loss is None:
            return
        try:
            check_convergence(
                state.history,
                best_step=state.best_step,
                first_loss=state.first_loss,
                peak_loss=state.peak_loss,
                settings=self._settings,
            )
        except DivergedError as error:
            state.failure = str(error)

    def outcome(self, *, prompt_cache_bytes: int) -> TrainingResult | DivergedError:
        """The best weights of the whole course, or why there are none."""
        state = self._state
        if state.failure is not None:
            return DivergedError(state.failure)
        self.adapter.restore(self._best)
        before = state.history[0].held_out
        after = next(x.held_out for x in state.history if x.step == state.best_step)
        return TrainingResult(
            weights={
                name: LoraPair(pair.a.detach().clone(), pair.b.detach().clone())
                for name, pair in self.adapter.weights().items()
            },
            steps=state.step,
            best_step=state.best_step,
            tokens=state.tokens,
            seconds=state.seconds,
            loss_before=before.loss,
            loss_after=after.loss,
            exact_before=before.exact,
            exact_after=after.exact,
            history=tuple(state.history),
            skipped_steps=state.skipped,
            prompt_cache_bytes=prompt_cache_bytes,
            reading_seconds=state.reading_seconds,
        )

    def tensors(self) -> dict[str, Tensor]:
        """The factors, and the best ones."""
        return self.adapter.tensors() | {f"best.{name}": each for name, each in self._best.items()}

    def state(self) -> dict[str, object]:
        """Everything else, as JSON values."""
        return dataclasses.asdict(self._state)

    def restore(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Take over what `tensors` and `state` returned earlier."""
        history = [
            HistoryPoint(point["step"], point["loss"], Evaluation(**point["held_out"]))
            for point in state["history"]
        ]
        self._state = _State(**{**state, "history": history})
        self.adapter.restore(tensors)
        self._best = {name: tensors[f"best.{name}"] for name in self._best}

    def _note_skipped(self) -> None:
        state = self._state
        state.skipped += 1
        state.skipped_in_a_row += 1
        _log.warning("step %d was not finite and is skipped", state.step)
        if state.skipped_in_a_row >= _MAX_SKIPPED:
            state.failure = (
                f"loss or gradients were not finite in {_MAX_SKIPPED} steps in a row, up to step "
                f"{state.step}; lower training.learning_rate ({self._settings.learning_rate})"
            )

    def _watch(self, loss: float) -> None:
        """Note what `check` needs to know of a step."""
        state, count = self._state, steps_in_a_row(self._settings)
        if state.first_loss is None:
            state.first_loss = loss
        state.latest = [*state.latest, loss][-count:]
        if len(state.latest) == count:
            state.peak_loss = max(state.peak_loss, sum(state.latest) / count)


def _is_better(found: Evaluation, best: Evaluation, metric: Metric) -> bool:
    if metric == "exact" and found.exact != best.exact:
        return found.exact > best.exact
    return found.loss < best.loss - _LESS
