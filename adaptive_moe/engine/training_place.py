"""Where a training in the background runs: in a process of its own, or in the worker's thread."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import final

import torch

from adaptive_moe.config.settings import MIB, Settings
from adaptive_moe.engine.events import ExpertReady
from adaptive_moe.engine.growing import Grower
from adaptive_moe.engine.orders import Listener, TrainingOrder
from adaptive_moe.engine.training_apart import UnfitProcessError, can_start, train_apart
from adaptive_moe.engine.training_lines import Job
from adaptive_moe.models.language_model import LanguageModel
from adaptive_moe.models.memory import free_bytes, resident_bytes

_MEMORY_SHARE = 0.5  # of what is free, for the process; the training itself needs the rest
_PROCESS_BYTES = 512 * MIB  # of interpreter and libraries, beside the second copy of the base
_THREAD_SHARE = 2  # a process takes one of so many of our threads, and leaves the others

logger = logging.getLogger(__name__)


@final
class TrainingPlace:
    """Trains for the worker where `training.worker` says, until that proves impossible."""

    def __init__(
        self,
        grower: Grower,
        language_model: LanguageModel,
        settings: Settings,
        *,
        store: Path,
        lock: Path,
    ) -> None:
        self._grower = grower
        self._language_model = language_model
        self._settings = settings.model_copy(
            update={
                "store": store.absolute(),
                # Compiled steps would cost it a minute, and the gate alone decodes.
                "base": settings.base.model_copy(update={"compile": False}),
            }
        )
        self._lock = lock
        self._is_apart: bool | None = None

    def train(
        self,
        name: str,
        data: Sequence[Path],
        *,
        listener: Listener,
        cancelled: Callable[[], bool],
        evaluating: Callable[[], None],
    ) -> ExpertReady:
        """Train, ask the gate and publish; the verdict. Raises what either place raises."""
        if self._is_apart is None:
            self._is_apart = can_start() and _is_wanted_apart(
                self._settings.training.worker, self._language_model
            )
        if self._is_apart:
            try:
                return train_apart(
                    self._job(name, data),
                    listener=listener,
                    cancelled=cancelled,
                    evaluating=evaluating,
                )
            except UnfitProcessError as error:
                logger.warning("trainings run in a thread from now on: %s", error)
                self._is_apart = False
        outcome = self._grower.grow(
            TrainingOrder(name, tuple(data)),
            self._settings.training,
            listener=listener,
            cancelled=cancelled,
            evaluating=evaluating,
        )
        return ExpertReady(outcome.name, outcome.version, outcome.status, outcome.record.reason)

    def _job(self, name: str, data: Sequence[Path]) -> Job:
        return Job(
            name=name,
            data=tuple(data),
            settings=self._settings,
            base_id=self._language_model.base_id,
            lock=self._lock,
            threads=max(1, torch.get_num_threads() // _THREAD_SHARE),
        )


def _is_wanted_apart(worker: str | None, language_model: LanguageModel) -> bool:
    """Where nothing is set: on the CPU, if there is room for the base once more."""
    if worker is not None:
        return worker == "process"
    if language_model.device.type != "cpu":
        return False
    free = free_bytes()
    needed = resident_bytes(language_model.model) + _PROCESS_BYTES
    return free is None or needed <= _MEMORY_SHARE * free
