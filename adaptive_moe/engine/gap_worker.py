"""Trains behind the answers, one after another: queued gaps, and experts that somebody named."""

import logging
import threading
from collections import deque
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import final

from adaptive_moe.engine.background import News, Worker
from adaptive_moe.engine.events import TeacherStep, TrainingEvent, TrainingFailed, TrainingStep
from adaptive_moe.engine.evidence import MissingSourcesError
from adaptive_moe.engine.gap_training import BusyError, GapTraining, reason_of
from adaptive_moe.engine.orders import Prepared, TrainingOrder
from adaptive_moe.engine.training_place import TrainingPlace
from adaptive_moe.errors import (
    AdaptiveMoEError,
    GapStateError,
    TrainingError,
    TrainingInterruptedError,
    TrainingProcessError,
)
from adaptive_moe.gaps.detector import GapDetector
from adaptive_moe.gaps.ledger import Gap
from adaptive_moe.gaps.states import GapState
from adaptive_moe.training.files import hub_name

_PATIENCE_SECONDS = 5.0  # before it asks again whether another process has finished
_CANCELLED = "its training was cancelled"

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class InTraining:
    """The expert that is trained, and the gap that it is to fill, or the files of one named."""

    expert: str
    gap: Gap | None
    files: tuple[Path, ...] = ()


@final
class GapWorker:
    """The worker of one runtime; the training itself is done by `place`.

    Unless it works `by_itself` it fills only what a person orders.
    """

    def __init__(
        self,
        detector: GapDetector,
        training: GapTraining,
        place: TrainingPlace,
        *,
        experts: Collection[str],
        stored_bytes: Callable[[], int],
        by_itself: bool,
    ) -> None:
        self._detector = detector
        self._training = training
        self._place = place
        self._experts = experts
        self._stored_bytes = stored_bytes
        self._by_itself = by_itself
        self._news = News()
        self._worker = Worker(self._fill_queued)
        self._running: InTraining | None = None
        self._named: deque[TrainingOrder] = deque()
        self._cancel = threading.Event()
        self._ordered: dict[int, tuple[Path, ...]] = {}  # by gap, what a person wants it to learn
        self._cancelled: set[int] = set()  # gaps that are a person's to order again
        self._missing: dict[int, tuple[Path, ...]] = {}  # by gap, files a filling looked for

    def wake(self) -> None:
        """There may be a queued gap."""
        self._worker.wake()

    def order(self, gap: Gap, files: tuple[Path, ...]) -> None:
        """Fill this queued gap next, from these files, whatever the budget says."""
        self._ordered[gap.id] = files
        self._worker.wake()

    def train(self, order: TrainingOrder) -> None:
        """Train this expert next, for no gap. Raises TrainingError where that goes on already."""
        self.check_free(order.name)
        self._named.append(order)
        self._worker.wake()

    def check_free(self, name: str) -> None:
        """Raise TrainingError where this expert is in training, or waits for its turn."""
        taken = [each.expert for each in self.waiting]  # first: what begins leaves these last
        running = self._running
        if name in (taken if running is None else [*taken, running.expert]):
            raise TrainingError(
                f"{name} is in training already; wait until that is done, or cancel it first"
            )

    def has(self, gap_id: int) -> bool:
        """Whether it was ordered to fill this gap, or has begun to, and is not done with it."""
        running = self._running
        gap = None if running is None else running.gap
        return gap_id in self._ordered or (gap is not None and gap.id == gap_id)

    def events(self) -> tuple[TrainingEvent, ...]:
        """What it did since the last call."""
        return self._news.take()

    def wait(self, timeout_seconds: float | None = None) -> bool:
        """Wait until it has nothing to do; false when it still has at the end."""
        return self._worker.wait(timeout_seconds)

    def close(self) -> None:
        """Stop at the next step, and wait for that; the gap in training stays queued."""
        self._worker.stop()

    @property
    def running(self) -> InTraining | None:
        """What is in training now."""
        return self._running

    @property
    def waiting(self) -> tuple[InTraining, ...]:
        """What was named and has not begun."""
        return tuple(_of(order) for order in tuple(self._named))

    def cancel(self) -> InTraining | None:
        """Stop the training that runs, if one does, at its next step."""
        running = self._running
        if running is not None:
            self._cancel.set()
        return running

    def may_queue(self, gap: Gap) -> bool:
        """Whether a verified gap may be queued without a person.

        Not one whose training was cancelled in this runtime, nor one whose filling found files
        missing, unless one of them is there now.
        """
        if gap.state is not GapState.VERIFIED:
            return True
        paths = self._missing.get(gap.id, ())
        is_lacking = paths and not any(hub_name(path) or path.exists() for path in paths)
        return gap.id not in self._cancelled and not is_lacking

    def _fill_queued(self) -> None:
        """Fill queued gaps one after the other until none may start."""
        goes_on = True
        while goes_on and not self._worker.is_stopping():
            try:
                with self._training.alone():
                    goes_on = self._fill_next()
            except BusyError as error:
                logger.info("%s", error)
                self._worker.rest(_PATIENCE_SECONDS)

    def _fill_next(self) -> bool:
        """Train what was named, else fill the next queued gap; false when nothing may start."""
        self._detector.requeue_interrupted()
        self._cancel.clear()
        if self._named:
            self._train_named(self._named[0])
            return True
        gap = self._next()
        if gap is None:
            return False
        self._running = InTraining(self._training.name_for(gap), gap)
        try:
            self._fill(gap, self._running.expert)
        finally:
            self._running = None
        with self._detector.together():  # an order that comes in meanwhile is kept
            if self._detector.show(gap.id).state is not GapState.QUEUED:
                self._ordered.pop(gap.id, None)
        return True

    def _next(self) -> Gap | None:
        """What a person ordered comes first; then what the budget allows."""
        ordered = [gap for gap in self._detector.queued() if gap.id in self._ordered]
        if ordered or not self._by_itself:
            return ordered[0] if ordered else None
        following = self._detector.next_to_train(
            experts=len(self._experts), stored_bytes=self._stored_bytes()
        )
        logger.info("next training: %s", following.reason)
        return following.gap

    def _train_named(self, order: TrainingOrder) -> None:
        self._running = begun = _of(order)
        self._named.popleft()
        try:
            self._place.train(
                begun.expert,
                begun.files,
                listener=self._tell,
                cancelled=self._is_to_stop,
                evaluating=lambda: None,
            )
        except TrainingInterruptedError as error:
            logger.info("the training of %s was stopped: %s", order.name, error)
        except Exception as error:  # noqa: BLE001  nobody else is there to take it; see _told
            self._told(f"{order.name} was not trained", order.name, error)
        finally:
            self._running = None

    def _tell(self, event: TrainingEvent) -> None:
        """Tell it, unless it is a step of what has been told to stop."""
        if not (isinstance(event, TeacherStep | TrainingStep) and self._is_to_stop()):
            self._news.tell(event)

    def _is_to_stop(self) -> bool:
        return self._worker.is_stopping() or self._cancel.is_set()

    def _fill(self, gap: Gap, expert: str) -> None:
        try:
            self._train(gap, expert)
        except TrainingInterruptedError as error:
            self._interrupted(gap, error)
        except GapStateError as error:
            logger.warning("%s", error)
            self._news.tell(TrainingFailed(expert, str(error)))
        except MissingSourcesError as error:
            logger.warning("gap %d is not filled: %s", gap.id, error)
            self._missing[gap.id] = error.paths
            self._set_back(gap, str(error))
        except TrainingProcessError as error:
            logger.warning("the training for gap %d ended: %s", gap.id, error)
            self._news.tell(TrainingFailed(expert, str(error)))
        except Exception as error:  # noqa: BLE001  nobody else is there to take it; see _give_up
            self._give_up(gap, expert, error)

    def _train(self, gap: Gap, expert: str) -> None:
        files = self._ordered.get(gap.id) or self._training.material(gap)
        with self._training.following(gap, expert):
            verdict = self._place.train(
                expert,
                files,
                listener=self._tell,
                cancelled=self._is_to_stop,
                evaluating=lambda: self._training.evaluating(gap),
            )
        is_live = verdict.status == "active"
        self._training.conclude(gap, expert, is_live=is_live, reason=verdict.reason)

    def _interrupted(self, gap: Gap, error: TrainingInterruptedError) -> None:
        if self._worker.is_stopping():
            logger.info("gap %d stays queued: %s", gap.id, error)
            return
        self._cancelled.add(gap.id)
        self._set_back(gap, _CANCELLED)

    def _set_back(self, gap: Gap, reason: str) -> None:
        """Nothing was learned about the gap: VERIFIED again, without a proof OBSERVED."""
        for state in (GapState.VERIFIED, GapState.OBSERVED):
            with suppress(GapStateError):  # it was never proven, or somebody dismissed it
                self._detector.transition(gap.id, state, reason)
                return

    def _give_up(self, gap: Gap, expert: str, error: Exception) -> None:
        """Reject the gap, unless that has happened; the worker goes on with the next one."""
        reason = self._told(f"gap {gap.id} is not filled", expert, error)
        with suppress(GapStateError):  # the training has already rejected it
            self._detector.transition(gap.id, GapState.REJECTED, reason)

    def _told(self, what: str, expert: str, error: Exception) -> str:
        """Say so; the reason. The traceback of a bug, here or in a library, is logged with it."""
        bug = None if isinstance(error, AdaptiveMoEError) else error
        reason = reason_of(error)
        logger.warning("%s: %s", what, reason, exc_info=bug)
        self._news.tell(TrainingFailed(expert, reason))
        return reason


def _of(order: TrainingOrder) -> InTraining:
    assert not isinstance(order.data, Prepared)
    return InTraining(order.name, None, order.data)
