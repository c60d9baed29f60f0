"""Gaps as a user sees them: list, explain, fill, dismiss, tell right from wrong; and the worker."""

import logging
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import final

from filelock import FileLock, Timeout

from adaptive_moe.config.settings import GapSettings, TrainingSettings
from adaptive_moe.engine.background import News, Worker
from adaptive_moe.engine.events import Answer, ExpertReady, TeacherStep, TrainingStep
from adaptive_moe.engine.evidence import MissingSourcesError, relevant_files
from adaptive_moe.engine.growing import Grower
from adaptive_moe.engine.orders import (
    Listener,
    TrainingEstimate,
    TrainingOrder,
    TrainingOutcome,
)
from adaptive_moe.engine.shelf import Expert
from adaptive_moe.errors import (
    AdaptiveMoEError,
    GapError,
    GapStateError,
    TrainingInterruptedError,
)
from adaptive_moe.experts.store import RESERVED_NAMES
from adaptive_moe.gaps.detector import GapDetector
from adaptive_moe.gaps.ledger import Gap
from adaptive_moe.gaps.states import IN_TRAINING, GapState
from adaptive_moe.training.files import hub_name

logger = logging.getLogger(__name__)

_NAME_LENGTH = 40
_PATIENCE_SECONDS = 5.0  # before the worker asks again whether another process has finished


@final
class GapDesk:
    """The gap ledger of one runtime, and the one training at a time that fills it.

    `lock` is a file that every process training for this ledger holds meanwhile. Without
    `background` gaps are queued all the same, for a runtime that has it. `judged` is called when
    the ledger holds what somebody said of an answer.
    """

    def __init__(
        self,
        detector: GapDetector,
        grower: Grower,
        settings: GapSettings,
        training: TrainingSettings,
        *,
        experts: Mapping[str, Expert],
        stored_bytes: Callable[[], int],
        lock: Path,
        background: bool,
        judged: Callable[[], None],
    ) -> None:
        self._detector = detector
        self._grower = grower
        self._settings = settings
        self._training = training
        self._experts = experts
        self._stored_bytes = stored_bytes
        self._is_background = background
        self._judged = judged
        self._filling = threading.Lock()
        self._file_lock = FileLock(lock, thread_local=False)
        self._news = News()
        self._worker = Worker(self._fill_queued)
        self._missing: dict[int, tuple[Path, ...]] = {}  # by gap, files a filling looked for

    def list(self) -> tuple[Gap, ...]:
        """All gaps of this base, newest change first."""
        gaps = self._detector.list()
        return tuple(sorted(gaps, key=lambda gap: (gap.changed, gap.id), reverse=True))

    def queued(self) -> tuple[Gap, ...]:
        """The gaps that wait for a training, oldest first."""
        return self._detector.queued()

    def show(self, gap_id: int) -> Gap:
        """One gap with its evidence. Raises UnknownGapError."""
        return self._detector.show(gap_id)

    def explain(self, gap_id: int) -> tuple[str, ...]:
        """Why the gap stands where it stands and what would change that, in plain sentences."""
        return self._detector.explain(self.show(gap_id))

    def dismiss(self, gap_id: int) -> Gap:
        """Close a gap that nobody wants filled."""
        return self._detector.dismiss(gap_id)

    def feedback(self, answer: Answer, *, correct: bool) -> Gap | None:
        """Tell whether an answer was right; the gap that this is evidence for, if any.

        A copy of an answer, as long as it keeps `observation`, stands for the answer itself, in
        later sessions too. It also tells the record of the expert that answered, and whether a
        certified threshold keeps its word. Raises GapError for an answer that this base's ledger
        does not know.
        """
        if answer.observation is None:
            raise GapError("this answer was never noted in the gap ledger; judge one of generate's")
        observation_id = self._detector.find(answer.observation)
        gap = self._detector.outcome(observation_id, correct=correct, origin="feedback")
        self._judged()
        if gap is not None:
            self.react(gap)
        return gap

    def estimate(self, gap_id: int, data: Sequence[Path | str] | None = None) -> TrainingEstimate:
        """What filling a gap would take, from a few steps that are thrown away.

        Raises GapError where `fill` would find no material.
        """
        files = relevant_files(self.show(gap_id).prompts, self._material(gap_id, data))
        return self._grower.estimate(files, self._training, limit=None)

    def fill(
        self,
        gap_id: int,
        data: Sequence[Path | str] | None = None,
        *,
        name: str | None = None,
        listener: Listener | None = None,
        cancelled: Callable[[], bool] | None = None,
    ) -> TrainingOutcome:
        """Train an expert for a gap from `data`, else from the configured `gaps.sources`.

        Raises GapError when there is no material, when it says nothing about the gap's prompts,
        or while another process trains; then nothing is trained and the gap stays where it was.
        """
        sources = self._material(self.show(gap_id).id, data)
        with self._alone():
            gap = self.show(gap_id)
            files = relevant_files(gap.prompts, sources)
            if gap.state is not GapState.QUEUED:
                self._detector.transition(
                    gap_id, GapState.QUEUED, "a person asked to fill it", by_person=True
                )
            return self._train(gap, files, name=name, listener=listener, cancelled=cancelled)

    def react(self, gap: Gap) -> None:
        """With `on_verified: train` a verified gap is queued, and a queued one wakes the worker.

        One whose filling found files missing is not queued again before one of them is there.
        """
        if self._settings.on_verified != "train" or self._lacks_material(gap):
            return
        if gap.state is GapState.VERIFIED:
            with suppress(GapStateError):  # another thread was faster
                self._detector.transition(gap.id, GapState.QUEUED, "gaps.on_verified is train")
        if gap.state in (GapState.VERIFIED, GapState.QUEUED) and self._is_background:
            self._worker.wake()

    def resume(self) -> None:
        """Go on with what an earlier runtime left queued or in training; for the start of one."""
        waiting = {GapState.QUEUED, *IN_TRAINING}
        if (
            self._is_background
            and self._settings.on_verified == "train"
            and any(gap.state in waiting for gap in self._detector.list())
        ):
            self._worker.wake()

    def events(self) -> tuple[TeacherStep | TrainingStep | ExpertReady, ...]:
        """What the worker did since the last call, as `AdaptiveMoE.stream` tells it; no waiting.

        Each event is handed out once, and of steps that nobody took in time only the latest.
        """
        return self._news.take()

    def wait(self, timeout_seconds: float | None = None) -> bool:
        """Wait for a background training; false when it is still running at the end."""
        return self._worker.wait(timeout_seconds)

    def close(self) -> None:
        """Stop a background training at its next step and wait for it; its gap stays queued."""
        self._worker.stop()

    def _material(self, gap_id: int, data: Sequence[Path | str] | None) -> tuple[Path, ...]:
        sources = tuple(Path(path) for path in data or self._settings.sources)
        if not sources:
            raise GapError(
                f"gap {gap_id} has no material: name files with --data, or set gaps.sources"
            )
        return sources

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Be the only one who trains for this ledger, in any thread or process; GapError."""
        with self._filling:
            try:
                self._file_lock.acquire(timeout=0.0)
            except Timeout as error:
                raise _BusyError(
                    "another process is training for this gap ledger; wait until it is done"
                ) from error
            try:
                yield
            finally:
                self._file_lock.release()

    def _fill_queued(self) -> None:
        """Fill queued gaps one after the other until none may start."""
        goes_on = True
        while goes_on and not self._worker.is_stopping():
            try:
                with self._alone():
                    goes_on = self._fill_next()
            except _BusyError as error:
                logger.info("%s", error)
                self._worker.rest(_PATIENCE_SECONDS)

    def _fill_next(self) -> bool:
        """Fill the next queued gap; false when none may start."""
        self._detector.requeue_interrupted()
        following = self._detector.next_to_train(
            experts=len(self._experts), stored_bytes=self._stored_bytes()
        )
        logger.info("next training: %s", following.reason)
        if following.gap is not None:
            self._fill_by_itself(following.gap)
        return following.gap is not None

    def _fill_by_itself(self, gap: Gap) -> None:
        try:
            files = relevant_files(gap.prompts, self._material(gap.id, None))
            self._train(gap, files, listener=self._news.tell, cancelled=self._worker.is_stopping)
        except TrainingInterruptedError as error:
            logger.info("gap %d stays queued: %s", gap.id, error)
        except GapStateError as error:
            logger.warning("gap %d was changed by somebody else: %s", gap.id, error)
        except MissingSourcesError as error:
            self._set_back(gap, error)
        except Exception as error:  # noqa: BLE001  nobody else is there to take it; see _give_up
            self._give_up(gap, error)

    def _set_back(self, gap: Gap, error: MissingSourcesError) -> None:
        """A misspelt path does not cost a gap its proof: VERIFIED again, without any OBSERVED."""
        logger.warning("gap %d is not filled: %s", gap.id, error)
        self._missing[gap.id] = error.paths
        for state in (GapState.VERIFIED, GapState.OBSERVED):
            with suppress(GapStateError):  # it was never proven, or somebody dismissed it
                self._detector.transition(gap.id, state, str(error))
                return

    def _lacks_material(self, gap: Gap) -> bool:
        """Whether its filling found files missing, and not one of them is there now."""
        paths = self._missing.get(gap.id, ())
        return (
            gap.state is GapState.VERIFIED
            and bool(paths)
            and not any(hub_name(path) or path.exists() for path in paths)
        )

    def _give_up(self, gap: Gap, error: Exception) -> None:
        """Reject the gap, unless that has happened, so that the worker goes on with the next one.

        An error that is none of ours is a bug, here or in a library, and its traceback is logged.
        """
        bug = None if isinstance(error, AdaptiveMoEError) else error
        reason = _reason(error)
        logger.warning("gap %d is not filled: %s", gap.id, reason, exc_info=bug)
        with suppress(GapStateError):  # the training has already rejected it
            self._detector.transition(gap.id, GapState.REJECTED, reason)

    def _train(
        self,
        gap: Gap,
        files: Sequence[Path],
        *,
        name: str | None = None,
        listener: Listener | None = None,
        cancelled: Callable[[], bool] | None = None,
    ) -> TrainingOutcome:
        """Train and judge one queued gap; the ledger follows every step."""
        chosen = name or gap.expert or self._free_name(gap.label)
        self._detector.transition(gap.id, GapState.TRAINING, f"training expert {chosen}")
        try:
            outcome = self._grower.grow(
                TrainingOrder(chosen, tuple(files)),
                self._training,
                listener=listener,
                cancelled=cancelled,
                evaluating=lambda: self._evaluating(gap.id),
            )
        except TrainingInterruptedError as error:
            self._detector.transition(gap.id, GapState.QUEUED, str(error))
            raise
        except Exception as error:
            self._detector.transition(gap.id, GapState.REJECTED, _reason(error))
            raise
        if outcome.is_live:
            reason = f"expert {chosen} passed the gate"
            self._detector.transition(gap.id, GapState.FILLED, reason, expert=chosen)
        else:
            self._detector.transition(gap.id, GapState.REJECTED, outcome.record.reason)
        return outcome

    def _evaluating(self, gap_id: int) -> None:
        self._detector.transition(gap_id, GapState.EVALUATING, "the trained expert is measured")

    def _free_name(self, label: str) -> str:
        """A name for the expert from the gap's label, with a number when it is taken."""
        words = re.findall(r"[a-z0-9]+", label.lower())
        stem = "-".join(words)[:_NAME_LENGTH].strip("-") or "gap"
        taken = set(self._experts)
        return next(
            name
            for name in (stem, *(f"{stem}-{number}" for number in range(2, len(taken) + 3)))
            if name not in taken and name not in RESERVED_NAMES
        )


def _reason(error: Exception) -> str:
    """What the ledger keeps of an error; only our own messages speak for themselves."""
    return str(error) if isinstance(error, AdaptiveMoEError) else f"{type(error).__name__}: {error}"


class _BusyError(GapError):
    """Another process trains."""
