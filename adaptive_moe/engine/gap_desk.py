"""Gaps as a user sees them: list, explain, fill, dismiss, tell right from wrong; and the worker."""

import logging
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import final

from adaptive_moe.config.settings import GapSettings, TrainingSettings
from adaptive_moe.engine.events import Answer
from adaptive_moe.engine.evidence import relevant_files
from adaptive_moe.engine.growing import Grower
from adaptive_moe.engine.orders import Listener, TrainingOrder, TrainingOutcome
from adaptive_moe.engine.shelf import Expert
from adaptive_moe.errors import AdaptiveMoEError, GapError, TrainingInterruptedError
from adaptive_moe.experts.store import RESERVED_NAMES
from adaptive_moe.gaps.detector import GapDetector
from adaptive_moe.gaps.ledger import Gap
from adaptive_moe.gaps.states import GapState

logger = logging.getLogger(__name__)

_NAME_LENGTH = 40


@final
class GapDesk:
    """The gap ledger of one runtime, and the one training at a time that fills it."""

    def __init__(
        self,
        detector: GapDetector,
        grower: Grower,
        settings: GapSettings,
        training: TrainingSettings,
        *,
        experts: Mapping[str, Expert],
    ) -> None:
        self._detector = detector
        self._grower = grower
        self._settings = settings
        self._training = training
        self._experts = experts
        self._stopping = threading.Event()
        self._filling = threading.Lock()
        self._worker: threading.Thread | None = None

    def list(self) -> tuple[Gap, ...]:
        """All gaps of this base, newest change first."""
        return self._detector.list()

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
        later sessions too. Raises GapError for an answer that this base's ledger does not know.
        """
        if answer.observation is None:
            raise GapError("this answer was never noted in the gap ledger; judge one of generate's")
        observation_id = self._detector.find(answer.observation)
        return self._detector.outcome(observation_id, correct=correct, origin="feedback")

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

        Raises GapError when there is no material or it says nothing about the gap's prompts;
        then nothing is trained and the gap stays where it was.
        """
        gap = self.show(gap_id)
        sources = tuple(Path(path) for path in data or self._settings.sources)
        if not sources:
            raise GapError(
                f"gap {gap_id} has no material: name files with --data, or set gaps.sources"
            )
        with self._filling:
            files = relevant_files(gap.prompts, sources)
            if gap.state is not GapState.QUEUED:
                self._detector.transition(
                    gap_id, GapState.QUEUED, "a person asked to fill it", by_person=True
                )
            return self._train(gap, files, name=name, listener=listener, cancelled=cancelled)

    def react(self, gap: Gap) -> None:
        """A gap changed: with `on_verified: train` a verified one is queued for the worker."""
        if gap.state is GapState.VERIFIED and self._settings.on_verified == "train":
            self._detector.transition(gap.id, GapState.QUEUED, "gaps.on_verified is train")
            self._start_worker()

    def wait(self, timeout_seconds: float | None = None) -> bool:
        """Wait for a background training; false when it is still running at the end."""
        worker = self._worker
        if worker is not None:
            worker.join(timeout_seconds)
        return worker is None or not worker.is_alive()

    def close(self) -> None:
        """Stop a background training at its next step and wait for it."""
        self._stopping.set()
        self.wait()

    def _start_worker(self) -> None:
        if self._worker is None or not self._worker.is_alive():
            self._worker = threading.Thread(target=self._work, name="gap-filling", daemon=True)
            self._worker.start()

    def _work(self) -> None:
        """Fill queued gaps one after the other until none may start."""
        self._detector.requeue_interrupted()
        while not self._stopping.is_set():
            following = self._detector.next_to_train(experts=len(self._experts))
            logger.info("next training: %s", following.reason)
            if following.gap is None:
                return
            with self._filling:
                self._fill_by_itself(following.gap)

    def _fill_by_itself(self, gap: Gap) -> None:
        try:
            files = relevant_files(gap.prompts, self._settings.sources)
            self._train(gap, files, cancelled=self._stopping.is_set)
        except GapError as error:
            logger.warning("gap %d is not filled: %s", gap.id, error)
            self._detector.transition(gap.id, GapState.REJECTED, str(error))
        except AdaptiveMoEError as error:
            logger.warning("gap %d is not filled: %s", gap.id, error)

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
        except AdaptiveMoEError as error:
            self._detector.transition(gap.id, GapState.REJECTED, str(error))
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
