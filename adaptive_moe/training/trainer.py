"""Trains one LoRA expert on a frozen base, in plain torch, to the best held-out answers."""

import dataclasses
import hashlib
import json
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from adaptive_moe.config.settings import (
    OF_THE_GATE,
    OF_THE_MACHINE,
    TeacherSettings,
    TrainingSettings,
)
from adaptive_moe.errors import DivergedError, TooFewExamplesError, TrainingInterruptedError
from adaptive_moe.experts.bank import LoraBank
from adaptive_moe.experts.weights import LoraPair
from adaptive_moe.models.language_model import LanguageModel
from adaptive_moe.training.adapter import Adapter
from adaptive_moe.training.answer_loss import AnswerLoss
from adaptive_moe.training.batching import step_examples
from adaptive_moe.training.checkpoints import Checkpoint, read_checkpoint, write_checkpoint
from adaptive_moe.training.divergence import check_convergence, steps_in_a_row
from adaptive_moe.training.encoding import EncodedSet, encode_examples
from adaptive_moe.training.events import TrainingProgress
from adaptive_moe.training.ranks import RankPlan
from adaptive_moe.training.results import HistoryPoint, TrainingResult
from adaptive_moe.training.splits import Metric
from adaptive_moe.training.steps import Evaluation, Stepper, evaluate
from adaptive_moe.training.synthesis import Example

__all__ = ["HistoryPoint", "TrainingResult", "learning_rate", "train_lora"]

_FINAL_RATE = 0.05  # of the peak; a constant rate plateaus
_MAX_SKIPPED = 3  # non-finite steps in a row
_SOLVED = 1.0  # every held-out answer exactly right
_LESS = 1e-4  # nats per token; a smaller gain does not reset the patience

_log = logging.getLogger(__name__)


def train_lora(  # noqa: PLR0913  its inputs, nothing bundled to look like fewer
    language_model: LanguageModel,
    bank: LoraBank,
    plan: RankPlan,
    examples: Sequence[Example],
    *,
    held_out: Sequence[Example],
    settings: TrainingSettings,
    seed: int,
    metric: Metric = "exact",
    listener: Callable[[TrainingProgress], None] | None = None,
    checkpoint: Path | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> TrainingResult:
    """Train to the plan and give back the weights that were best on `held_out` by `metric`.

    "exact" means the most answers exactly right, then the least loss; "loss" the least loss.
    `checkpoint` is a folder: a training of the same inputs found there goes on where it stopped
    and, with as many threads, ends in the same weights; a finished one is kept as well, until
    whoever uses the result calls `remove_checkpoint`. Raises TooFewExamplesError, DivergedError
    after three non-finite steps in a row or where the loss rose instead of falling
    (`check_convergence`), TrainingInterruptedError when `cancelled()` says so (the
    checkpoint is written first), and InsufficientMemoryError when not even one example fits.
    """
    encoded = encode_examples(language_model, examples)
    tests = encode_examples(language_model, held_out)
    if len(encoded.examples) < settings.min_examples or not tests.examples:
        raise TooFewExamplesError(
            f"{len(encoded.examples)} usable examples and {len(tests.examples)} held out; at least "
            f"{settings.min_examples} and 1 are needed"
        )
    run = _Run(
        language_model, bank, plan, encoded, tests, settings=settings, seed=seed, metric=metric
    )
    if checkpoint is not None:
        run.resume(checkpoint)
    try:
        run.train(listener=listener, checkpoint=checkpoint, cancelled=cancelled)
    except TrainingInterruptedError:
        if checkpoint is not None:
            run.save(checkpoint)
        raise
    run.check()
    if checkpoint is not None:
        run.save(checkpoint)
    return run.result()


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
    history: list[HistoryPoint] = dataclasses.field(default_factory=list)


class _Run:
    """One training from its first step, or its checkpoint, to its best weights."""

    def __init__(
        self,
        language_model: LanguageModel,
        bank: LoraBank,
        plan: RankPlan,
        encoded: EncodedSet,
        tests: EncodedSet,
        *,
        settings: TrainingSettings,
        seed: int,
        metric: Metric,
    ) -> None:
        self._settings = settings
        self._seed = seed
        self._metric = metric
        self._encoded = encoded
        self._adapter = Adapter(
            plan, language_model.layers, seed=seed, device=language_model.device
        )
        lowest = min(layer.depth for layer in language_model.layers if layer.name in plan.ranks)
        self._loss, self._test_loss = (
            AnswerLoss(
                language_model,
                bank,
                side.examples,
                activation=settings.activation,
                prompt_cache_bytes=settings.prompt_cache_bytes,
                lower_blocks=lowest,
                recompute=settings.gradient_checkpointing,
            )
            for side in (encoded, tests)
        )
        self._stepper = Stepper(self._adapter, self._loss, settings)
        self._state = _State()
        self._best = self._adapter.tensors()
        content = [language_model.base_id, dataclasses.asdict(plan), seed, metric]
        # Which prompts are read in whose company shows in the last bit of their key-values.
        besides = (OF_THE_MACHINE | OF_THE_GATE) - {"prompt_cache_bytes"}
        shaping = settings.model_dump(
            mode="json", exclude={*besides, *TeacherSettings.model_fields}
        )
        content += [shaping, encoded.examples, tests.examples]
        text = json.dumps(content, default=dataclasses.asdict, sort_keys=True)
        self._fingerprint = hashlib.sha256(text.encode()).hexdigest()

    def train(
        self,
        *,
        listener: Callable[[TrainingProgress], None] | None,
        checkpoint: Path | None,
        cancelled: Callable[[], bool] | None,
    ) -> None:
        state, settings = self._state, self._settings
        if state.history and self._is_done():
            self._tell(listener, state.history[-1].loss, learning_rate(state.step - 1, settings))
            return
        started = time.perf_counter() - state.seconds
        self._loss.read_ahead(before_block=lambda: self._stop_if(cancelled))
        state.reading_seconds += time.perf_counter() - started - state.seconds
        if not state.history:
            self._evaluate()
        while not self._is_done():
            self._stop_if(cancelled)
            rate = learning_rate(state.step, settings)
            loss = self._step(rate)
            state.seconds = time.perf_counter() - started
            if state.step % settings.evaluate_every == 0 or state.step == settings.max_steps:
                self._evaluate()
            if checkpoint is not None and state.step % settings.checkpoint_every == 0:
                self.save(checkpoint)
            self._tell(listener, loss, rate)
        state.seconds = time.perf_counter() - started

    def check(self) -> None:
        """Raise DivergedError where the finished training did not converge."""
        state = self._state
        if state.first_loss is not None:
            check_convergence(
                state.history,
                best_step=state.best_step,
                first_loss=state.first_loss,
                peak_loss=state.peak_loss,
                settings=self._settings,
            )

    def result(self) -> TrainingResult:
        state = self._state
        self._adapter.restore(self._best)
        before = state.history[0].held_out
        after = next(x.held_out for x in state.history if x.step == state.best_step)
        return TrainingResult(
            weights={
                name: LoraPair(pair.a.detach().clone(), pair.b.detach().clone())
                for name, pair in self._adapter.weights().items()
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
            prompt_cache_bytes=self._loss.cached_bytes,
            reading_seconds=state.reading_seconds,
        )

    def save(self, folder: Path) -> None:
        """Write everything needed to go on exactly from here."""
        tensors = self._adapter.tensors() | self._stepper.optimizer_tensors()
        tensors |= {f"best.{name}": tensor for name, tensor in self._best.items()}
        state = dataclasses.asdict(self._state)
        write_checkpoint(folder, Checkpoint(tensors, state), fingerprint=self._fingerprint)

    def resume(self, folder: Path) -> None:
        """Go on from the folder's checkpoint where it belongs to this very training."""
        found = read_checkpoint(folder, fingerprint=self._fingerprint)
        if found is None:
            return
        values: dict[str, object] = dict(found.state)
        values["history"] = [
            HistoryPoint(point["step"], point["loss"], Evaluation(**point["held_out"]))
            for point in found.state["history"]  # type: ignore[attr-defined]  # our own JSON
        ]
        self._state = _State(**values)  # type: ignore[arg-type]  # our own JSON
        self._adapter.restore(found.tensors)
        self._stepper.restore_optimizer(found.tensors)
        self._best = {name: found.tensors[f"best.{name}"] for name in self._best}
        _log.info("resuming at step %d of %d", self._state.step, self._settings.max_steps)

    def _stop_if(self, cancelled: Callable[[], bool] | None) -> None:
        if cancelled is not None and cancelled():
            raise TrainingInterruptedError(
                f"stopped after step {self._state.step} of {self._settings.max_steps}; "
                "the same command goes on from here"
            )

    def _step(self, rate: float) -> float | None:
        """One optimiser step; the mean loss, or None where it was skipped."""
        state, settings = self._state, self._settings
        chosen = step_examples(
            state.step,
            count=len(self._encoded.examples),
            batch_size=settings.batch_size,
            seed=self._seed,
        )
        outcome = self._stepper.step(chosen, rate)
        state.step += 1
        if outcome is None:
            state.skipped += 1
            state.skipped_in_a_row += 1
            _log.warning("step %d was not finite and is skipped", state.step)
            if state.skipped_in_a_row >= _MAX_SKIPPED:
                raise DivergedError(
                    f"loss or gradients were not finite in {_MAX_SKIPPED} steps in a row, up to "
                    f"step {state.step}; lower training.learning_rate ({settings.learning_rate})"
                )
            return None
        loss, tokens = outcome
        state.skipped_in_a_row = 0
        state.tokens += tokens
        self._watch(loss)
        state.losses.append(loss)
        return loss

    def _watch(self, loss: float) -> None:
        """Note what `check` needs to know of a step."""
        state, count = self._state, steps_in_a_row(self._settings)
        if state.first_loss is None:
            state.first_loss = loss
        state.latest = [*state.latest, loss][-count:]
        if len(state.latest) == count:
            state.peak_loss = max(state.peak_loss, sum(state.latest) / count)

    def _evaluate(self) -> None:
        state = self._state
        found = evaluate(self._adapter.weights(), self._test_loss, self._settings)
        recent = sum(state.losses) / len(state.losses) if state.losses else None
        state.losses = []
        best = next((x.held_out for x in state.history if x.step == state.best_step), None)
        state.history.append(HistoryPoint(state.step, recent, found))
        if best is None or _is_better(found, best, self._metric):
            state.best_step, state.stale = state.step, 0
            self._best = self._adapter.tensors()
        else:
            state.stale += 1

    def _is_done(self) -> bool:
        state, settings = self._state, self._settings
        solved = state.history[-1].held_out.exact >= _SOLVED and state.step > 0
        return solved or state.stale >= settings.patience or state.step >= settings.max_steps

    def _tell(
        self, listener: Callable[[TrainingProgress], None] | None, loss: float | None, rate: float
    ) -> None:
        if listener is not None:
            listener(self._progress(loss, rate))

    def _progress(self, loss: float | None, rate: float) -> TrainingProgress:
        state = self._state
        latest = state.history[-1].held_out
        left = self._settings.max_steps - state.step
        per_step = (state.seconds - state.reading_seconds) / state.step
        return TrainingProgress(
            step=state.step,
            steps=self._settings.max_steps,
            loss=loss if loss is not None else float("nan"),
            tokens_per_second=state.tokens / max(state.seconds, 1e-9),
            eta_seconds=0.0 if self._is_done() else per_step * left,
            learning_rate=rate,
            held_out_loss=latest.loss,
            held_out_exact=latest.exact,
        )


def _is_better(found: Evaluation, best: Evaluation, metric: Metric) -> bool:
    if metric == "exact" and found.exact != best.exact:
        return found.exact > best.exact
    return found.loss < best.loss - _LESS
