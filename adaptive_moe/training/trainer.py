"""Trains LoRA experts on a frozen base, in plain torch, to the best held-out answers."""

import dataclasses
import hashlib
import json
import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

from torch import Tensor

from adaptive_moe.config.settings import (
    OF_THE_GATE,
    OF_THE_MACHINE,
    TeacherSettings,
    TrainingSettings,
)
from adaptive_moe.errors import DivergedError, TooFewExamplesError, TrainingInterruptedError
from adaptive_moe.experts.bank import LoraBank
from adaptive_moe.models.language_model import LanguageModel
from adaptive_moe.training.adapter import Adapter
from adaptive_moe.training.answer_loss import AnswerLoss
from adaptive_moe.training.checkpoints import Checkpoint, read_checkpoint, write_checkpoint
from adaptive_moe.training.encoding import EncodedSet, encode_examples
from adaptive_moe.training.events import TrainingProgress
from adaptive_moe.training.ranks import RankPlan
from adaptive_moe.training.results import HistoryPoint, TrainingResult
from adaptive_moe.training.slots import Slot, SlotRun, learning_rate
from adaptive_moe.training.splits import Metric
from adaptive_moe.training.steps import Stepper
from adaptive_moe.training.synthesis import Example

__all__ = ["HistoryPoint", "Slot", "TrainingResult", "learning_rate", "train_lora", "train_sweep"]

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

    def tell(_slot: int, progress: TrainingProgress) -> None:
        if listener is not None:
            listener(progress)

    (outcome,) = train_sweep(
        language_model,
        bank,
        [Slot(plan, seed)],
        examples,
        held_out=held_out,
        settings=settings,
        metric=metric,
        listener=tell,
        checkpoint=checkpoint,
        cancelled=cancelled,
    )
    if isinstance(outcome, DivergedError):
        raise outcome
    return outcome


def train_sweep(  # noqa: PLR0913  as above
    language_model: LanguageModel,
    bank: LoraBank,
    slots: Sequence[Slot],
    examples: Sequence[Example],
    *,
    held_out: Sequence[Example],
    settings: TrainingSettings,
    metric: Metric = "exact",
    listener: Callable[[int, TrainingProgress], None] | None = None,
    checkpoint: Path | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> tuple[TrainingResult | DivergedError, ...]:
    """Several trainings on the same examples, with forward passes that they share.

    Each comes to what `train_lora` would give it alone, up to rounding, in the order of `slots`;
    one that diverges gives its error and leaves the others alone. A GPU that is not filled by one
    training takes little longer for several, the base's part of a pass being one large product;
    the batching of distinct adapters is that of Ye et al. 2024 (mLoRA). A pass holds
    `micro_batch_size` examples of every slot, fewer where memory is short. Everything else, and
    what is raised, is as for `train_lora`; `seconds` are of the sweep up to the slot's end.
    """
    encoded = encode_examples(language_model, examples)
    tests = encode_examples(language_model, held_out)
    if len(encoded.examples) < settings.min_examples or not tests.examples:
        raise TooFewExamplesError(
            f"{len(encoded.examples)} usable examples and {len(tests.examples)} held out; at least "
            f"{settings.min_examples} and 1 are needed"
        )
    if not slots:
        return ()
    run = _Sweep(language_model, bank, slots, encoded, tests, settings=settings, metric=metric)
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
    return run.outcomes()


class _Sweep:
    """Trainings from their first step, or their checkpoint, to their best weights."""

    def __init__(
        self,
        language_model: LanguageModel,
        bank: LoraBank,
        slots: Sequence[Slot],
        encoded: EncodedSet,
        tests: EncodedSet,
        *,
        settings: TrainingSettings,
        metric: Metric,
    ) -> None:
        self._settings = settings
        self._examples = len(encoded.examples)
        adapters = [
            Adapter(slot.plan, language_model.layers, seed=slot.seed, device=language_model.device)
            for slot in slots
        ]
        planned = {name for slot in slots for name in slot.plan.ranks}
        lowest = min(layer.depth for layer in language_model.layers if layer.name in planned)
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
        self._stepper = Stepper(adapters, self._loss, settings)
        self._runs = [
            SlotRun(adapter, slot, settings, metric=metric)
            for adapter, slot in zip(adapters, slots, strict=True)
        ]
        trained = [dataclasses.asdict(slot) for slot in slots]
        # Which prompts are read in whose company shows in the last bit of their key-values.
        besides = (OF_THE_MACHINE | OF_THE_GATE) - {"prompt_cache_bytes"}
        shaping = settings.model_dump(
            mode="json", exclude={*besides, *TeacherSettings.model_fields}
        )
        content = [
            language_model.base_id, trained, metric, shaping, encoded.examples, tests.examples,
        ]  # fmt: skip
        text = json.dumps(content, default=dataclasses.asdict, sort_keys=True)
        self._fingerprint = hashlib.sha256(text.encode()).hexdigest()

    def train(
        self,
        *,
        listener: Callable[[int, TrainingProgress], None] | None,
        checkpoint: Path | None,
        cancelled: Callable[[], bool] | None,
    ) -> None:
        """All steps that are left, slots side by side until each is done."""
        if all(run.is_done for run in self._runs):
            self._tell(range(len(self._runs)), listener)
            return
        begun = time.perf_counter() - max(run.seconds for run in self._runs)
        self._read_ahead(cancelled)
        self._evaluate([slot for slot, run in enumerate(self._runs) if not run.has_begun])
        while going := [slot for slot, run in enumerate(self._runs) if not run.is_done]:
            self._stop_if(cancelled)
            self._step(going)
            self._evaluate([slot for slot in going if self._runs[slot].is_to_be_evaluated])
            for slot in going:
                self._runs[slot].note_seconds(time.perf_counter() - begun)
            if checkpoint is not None and self._steps % self._settings.checkpoint_every == 0:
                self.save(checkpoint)
            self._tell(going, listener)

    def check(self) -> None:
        """Give those up that are done and did not converge."""
        for run in self._runs:
            run.check()

    def outcomes(self) -> tuple[TrainingResult | DivergedError, ...]:
        """What the slots came to."""
        held = self._loss.cached_bytes
        return tuple(run.outcome(prompt_cache_bytes=held) for run in self._runs)

    def save(self, folder: Path) -> None:
        """Write everything needed to go on exactly from here; nothing once all are given up."""
        if all(run.is_given_up for run in self._runs):
            return
        tensors: dict[str, Tensor] = {}
        for slot, run in enumerate(self._runs):
            own = run.tensors() | self._stepper.optimizer_tensors(slot)
            tensors |= {f"{slot}.{name}": tensor for name, tensor in own.items()}
        state = {"slots": [run.state() for run in self._runs]}
        write_checkpoint(folder, Checkpoint(tensors, state), fingerprint=self._fingerprint)

    def resume(self, folder: Path) -> None:
        """Go on from the folder's checkpoint where it belongs to these very trainings."""
        found = read_checkpoint(folder, fingerprint=self._fingerprint)
        if found is None:
            return
        states = cast("list[dict[str, Any]]", found.state["slots"])  # our own JSON
        for slot, (run, state) in enumerate(zip(self._runs, states, strict=True)):
            start = f"{slot}."
            own = {
                name.removeprefix(start): tensor
                for name, tensor in found.tensors.items()
                if name.startswith(start)
            }
            run.restore(own, state)
            self._stepper.restore_optimizer(slot, own)
        _log.info("resuming at step %d of %d", self._steps, self._settings.max_steps)

    @property
    def _steps(self) -> int:
        return max(run.step for run in self._runs)

    def _read_ahead(self, cancelled: Callable[[], bool] | None) -> None:
        started = time.perf_counter()
        self._loss.read_ahead(before_block=lambda: self._stop_if(cancelled))
        for run in self._runs:
            if not run.is_done:
                run.note_reading(time.perf_counter() - started)

    def _stop_if(self, cancelled: Callable[[], bool] | None) -> None:
        if cancelled is not None and cancelled():
            raise TrainingInterruptedError(
                f"stopped after step {self._steps} of {self._settings.max_steps}; "
                "the same command goes on from here"
            )

    def _step(self, slots: Sequence[int]) -> None:
        """One optimiser step of each."""
        runs = {slot: self._runs[slot] for slot in slots}
        outcomes = self._stepper.step(
            {slot: run.examples(self._examples) for slot, run in runs.items()},
            {slot: run.rate for slot, run in runs.items()},
        )
        for slot, run in runs.items():
            run.note_step(outcomes[slot])

    def _evaluate(self, slots: Sequence[int]) -> None:
        for slot, found in self._stepper.evaluate(slots, self._test_loss).items():
            self._runs[slot].note_evaluation(found)

    def _tell(
        self, slots: Sequence[int], listener: Callable[[int, TrainingProgress], None] | None
    ) -> None:
        for slot in slots:
            if listener is not None and self._runs[slot].has_begun:
                listener(slot, self._runs[slot].progress())
