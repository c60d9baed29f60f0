"""Gaps as a user sees them: list, explain, fill, cancel, dismiss, tell right from wrong."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import final

from adaptive_moe.config.settings import GapSettings, Settings, TrainingSettings
from adaptive_moe.engine.events import Answer, TrainingEvent
from adaptive_moe.engine.gap_training import GapTraining
from adaptive_moe.engine.gap_worker import GapWorker, InTraining
from adaptive_moe.engine.growing import Grower
from adaptive_moe.engine.orders import (
    Listener,
    TrainingEstimate,
    TrainingOrder,
    TrainingOutcome,
)
from adaptive_moe.engine.shelf import ExpertShelf
from adaptive_moe.engine.training_place import TrainingPlace
from adaptive_moe.errors import GapError, GapStateError, TrainingError
from adaptive_moe.experts.store import Store
from adaptive_moe.gaps.detector import GapDetector
from adaptive_moe.gaps.ledger import Gap
from adaptive_moe.gaps.states import IN_TRAINING, GapState
from adaptive_moe.models.language_model import LanguageModel


@final
class GapDesk:
    """The gap ledger of one runtime, and the one training at a time that fills it.

    Without a `worker` gaps are queued all the same, for a runtime that has one. `judged` is called
    when the ledger holds what somebody said of an answer.
    """

    def __init__(
        self,
        detector: GapDetector,
        grower: Grower,
        settings: GapSettings,
        training: TrainingSettings,
        *,
        orders: GapTraining,
        worker: GapWorker | None,
        judged: Callable[[], None],
    ) -> None:
        self._detector = detector
        self._grower = grower
        self._settings = settings
        self._training = training
        self._orders = orders
        self._worker = worker
        self._judged = judged

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
        files = self._orders.material(self.show(gap_id), data)
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
        with self._orders.alone():
            gap = self.show(gap_id)
            files = self._orders.material(gap, data)
            chosen = name or self._orders.name_for(gap)
            if gap.state is not GapState.QUEUED:
                self._detector.transition(
                    gap_id, GapState.QUEUED, "a person asked to fill it", by_person=True
                )
            with self._orders.following(gap, chosen):
                outcome = self._grower.grow(
                    TrainingOrder(chosen, files),
                    self._training,
                    listener=listener,
                    cancelled=cancelled,
                    evaluating=lambda: self._orders.evaluating(gap),
                )
            reason = outcome.record.reason
            self._orders.conclude(gap, chosen, is_live=outcome.is_live, reason=reason)
        return outcome

    def start(self, gap_id: int, data: Sequence[Path | str] | None = None) -> Gap:
        """Have the worker `fill` a gap behind the answers, and return at once; `events` tell of it.

        Raises GapError where `fill` would find no material, in a runtime without a worker, and for
        a gap that is in training or waits for its turn already.
        """
        if self._worker is None:
            raise GapError(f"this runtime trains nothing in the background; fill gap {gap_id}")
        gap = self._startable(gap_id, self._worker)
        files = self._orders.material(gap, data)
        with self._detector.together():
            gap = self._startable(gap_id, self._worker)  # reading the material took a while
            if gap.state is not GapState.QUEUED:
                reason = "a person asked to fill it"
                gap = self._detector.transition(gap_id, GapState.QUEUED, reason, by_person=True)
            self._worker.order(gap, files)
        return gap

    def train(self, order: TrainingOrder) -> None:
        """Have the worker train for no gap; see `AdaptiveMoE.start_expert`."""
        if self._worker is None:
            raise TrainingError(
                f"this runtime trains nothing in the background; train {order.name}"
            )
        self._worker.train(order)

    def check_free(self, name: str) -> None:
        """Raise TrainingError where the worker trains this expert, or is about to."""
        if self._worker is not None:
            self._worker.check_free(name)

    @property
    def in_training(self) -> InTraining | None:
        """What the worker trains now, for a gap or for none."""
        return None if self._worker is None else self._worker.running

    @property
    def waiting(self) -> tuple[InTraining, ...]:
        """Experts that were named to the worker and wait for their turn."""
        return () if self._worker is None else self._worker.waiting

    def cancel(self) -> InTraining | None:
        """Stop the background training that runs at its next step; None if none runs.

        Its checkpoint stays, and the same order, or `fill`, goes on from there; by itself this
        runtime does not take it up again.
        """
        return None if self._worker is None else self._worker.cancel()

    def react(self, gap: Gap) -> None:
        """With `on_verified: train` a verified gap is queued, and a queued one wakes the worker.

        One whose training was cancelled, or found files missing that still are, is not.
        """
        if self._settings.on_verified != "train":
            return
        if self._worker is not None and not self._worker.may_queue(gap):
            return
        if gap.state is GapState.VERIFIED:
            with suppress(GapStateError):  # another thread was faster
                self._detector.transition(gap.id, GapState.QUEUED, "gaps.on_verified is train")
        if gap.state in (GapState.VERIFIED, GapState.QUEUED) and self._worker is not None:
            self._worker.wake()

    def resume(self) -> None:
        """Go on with what an earlier runtime left queued or in training; for the start of one."""
        waiting = {GapState.QUEUED, *IN_TRAINING}
        if (
            self._worker is not None
            and self._settings.on_verified == "train"
            and any(gap.state in waiting for gap in self._detector.list())
        ):
            self._worker.wake()

    def events(self) -> tuple[TrainingEvent, ...]:
        """What the worker did since the last call, as `AdaptiveMoE.stream` tells it; no waiting.

        Each event is handed out once, and of steps that nobody took in time only the latest.
        """
        return () if self._worker is None else self._worker.events()

    def wait(self, timeout_seconds: float | None = None) -> bool:
        """Wait for a background training; false when it is still running at the end."""
        return self._worker is None or self._worker.wait(timeout_seconds)

    def close(self) -> None:
        """Stop a background training at its next step and wait for it; its gap stays queued."""
        if self._worker is not None:
            self._worker.close()

    def _startable(self, gap_id: int, worker: GapWorker) -> Gap:
        """The gap, if nobody is about to fill it; what a dead process left in training is free."""
        gap = self.show(gap_id)
        if gap.state in IN_TRAINING and self._orders.is_busy():
            raise GapError(
                f"gap {gap.id} is in training already; wait until that is done, or cancel it first"
            )
        if gap.state is GapState.QUEUED and worker.has(gap.id):
            raise GapError(
                f"gap {gap.id} is queued already; wait for its turn, or dismiss it if nobody wants "
                "it filled"
            )
        return gap


def open_gap_desk(
    detector: GapDetector,
    grower: Grower,
    settings: Settings,
    *,
    ledger: Path,
    language_model: LanguageModel,
    store: Store,
    shelf: ExpertShelf,
    judged: Callable[[], None],
    background: bool,
) -> GapDesk:
    """The desk of one runtime, with a worker if `background`; its locks lie beside the ledger."""
    process_lock = Path(f"{ledger}.training.process.lock")
    orders = GapTraining(
        detector,
        settings.gaps.sources,
        experts=shelf,
        lock=Path(f"{ledger}.training.lock"),
        process_lock=process_lock,
    )
    worker = None
    if background:
        place = TrainingPlace(grower, language_model, settings, store=store.root, lock=process_lock)
        worker = GapWorker(
            detector,
            orders,
            place,
            experts=shelf,
            stored_bytes=store.stored_bytes,
            by_itself=settings.gaps.on_verified == "train",
        )
    return GapDesk(
        detector,
        grower,
        settings.gaps,
        settings.training,
        orders=orders,
        worker=worker,
        judged=judged,
    )
