"""One training at a time for a gap ledger, every step of which the ledger follows."""

import re
import threading
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import final

from filelock import FileLock, Timeout

from adaptive_moe.engine.evidence import relevant_files
from adaptive_moe.errors import (
    AdaptiveMoEError,
    GapError,
    GapStateError,
    TrainingInterruptedError,
    TrainingProcessError,
)
from adaptive_moe.experts.store import RESERVED_NAMES
from adaptive_moe.gaps.detector import GapDetector
from adaptive_moe.gaps.ledger import Gap, Transition
from adaptive_moe.gaps.states import IN_TRAINING, GapState

_NAME_LENGTH = 40
_ONCE_MORE = "it is tried once more from its checkpoint"  # how a crash's reason ends


class BusyError(GapError):
    """Another process trains."""


@final
class GapTraining:
    """Who may train for a ledger, on what, under which name, and what the ledger keeps of it.

    `lock` is a file that every process training for this ledger holds meanwhile, `process_lock`
    one that a process of a training's own holds, which may outlive whoever started it by a step.
    """

    def __init__(
        self,
        detector: GapDetector,
        sources: Sequence[Path],
        *,
        experts: Collection[str],
        lock: Path,
        process_lock: Path,
    ) -> None:
        self._detector = detector
        self._sources = sources
        self._experts = experts
        self._filling = threading.Lock()
        self._lock = FileLock(lock, thread_local=False)
        self._process_lock = FileLock(process_lock, thread_local=False)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Be the only one who trains for this ledger, in any thread or process; BusyError."""
        with self._filling:
            try:
                self._acquire()
            except Timeout as error:
                raise BusyError(
                    "another process is training for this gap ledger; wait until it is done"
                ) from error
            try:
                yield
            finally:
                self._lock.release()

    def is_busy(self) -> bool:
        """Whether somebody trains for this ledger now, in any thread or process."""
        if not self._filling.acquire(blocking=False):
            return True
        try:
            self._acquire()
        except Timeout:
            return True
        else:
            self._lock.release()
            return False
        finally:
            self._filling.release()

    def material(self, gap: Gap, data: Sequence[Path | str] | None = None) -> tuple[Path, ...]:
        """The files of `data`, else of the sources, that speak about the gap.

        Raises GapError where there are none, MissingSourcesError where some do not exist.
        """
        sources = tuple(Path(path) for path in data or self._sources)
        if not sources:
            raise GapError(
                f"gap {gap.id} has no material: name files with --data, or set gaps.sources"
            )
        return relevant_files(gap.prompts, sources)

    def name_for(self, gap: Gap) -> str:
        """The expert that filled the gap before, else a free name from its label."""
        if gap.expert is not None:
            return gap.expert
        words = re.findall(r"[a-z0-9]+", gap.label.lower())
        stem = "-".join(words)[:_NAME_LENGTH].strip("-") or "gap"
        taken = set(self._experts)
        return next(
            name
            for name in (stem, *(f"{stem}-{number}" for number in range(2, len(taken) + 3)))
            if name not in taken and name not in RESERVED_NAMES
        )

    @contextmanager
    def following(self, gap: Gap, expert: str) -> Iterator[None]:
        """A queued gap is in training inside; what is raised there queues or rejects it.

        A process that ended without a word costs a gap its place in the queue only if that is what
        became of it before, too: it is tried again from its checkpoint, once. What somebody else
        made of the gap meanwhile stands, and is a GapStateError.
        """
        self._step(gap, GapState.TRAINING, f"training expert {expert}")
        try:
            yield
        except GapStateError:
            raise
        except TrainingInterruptedError as error:
            self._step(gap, GapState.QUEUED, str(error))
            raise
        except TrainingProcessError as error:
            follows, then = GapState.QUEUED, _ONCE_MORE
            if has_crashed(gap.history):
                follows, then = GapState.REJECTED, f"`gaps fill {gap.id}` goes on from there"
            reason = f"{error}; {then}"
            self._step(gap, follows, reason)
            raise TrainingProcessError(reason) from error
        except Exception as error:
            self._step(gap, GapState.REJECTED, reason_of(error))
            raise

    def evaluating(self, gap: Gap) -> None:
        """The training is over, and the gate begins."""
        self._step(gap, GapState.EVALUATING, "the trained expert is measured")

    def conclude(self, gap: Gap, expert: str, *, is_live: bool, reason: str) -> None:
        """Write the gate's verdict down."""
        if is_live:
            reason = f"expert {expert} passed the gate"
            self._step(gap, GapState.FILLED, reason, expert=expert)
        else:
            self._step(gap, GapState.REJECTED, reason)

    def _step(self, gap: Gap, after: GapState, reason: str, *, expert: str | None = None) -> None:
        """Take the step; GapStateError in plain words where somebody else took another one."""
        try:
            self._detector.transition(gap.id, after, reason, expert=expert)
        except GapStateError as error:
            found = self._detector.show(gap.id)
            told = (
                f"gap {gap.id} was changed by somebody else while an expert was trained for it, "
                f"and stays {found.state} ({found.reason})"
            )
            if found.state is not GapState.DISMISSED:
                told += f"; `gaps fill {gap.id}` trains for it anew"
            raise GapStateError(told) from error

    def _acquire(self) -> None:
        """Hold the lock, once nobody holds the other one any more either. Raises Timeout."""
        self._lock.acquire(timeout=0.0)
        try:
            with self._process_lock.acquire(timeout=0.0):
                pass
        except Timeout:
            self._lock.release()
            raise


def has_crashed(history: Sequence[Transition]) -> bool:
    """Whether the gap's latest training ended so, and it was queued again for that reason."""
    ends = [
        step for step in history if step.before in IN_TRAINING and step.after not in IN_TRAINING
    ]
    return bool(ends) and ends[-1].after is GapState.QUEUED and ends[-1].reason.endswith(_ONCE_MORE)


def reason_of(error: Exception) -> str:
    """What the ledger keeps of an error; only our own messages speak for themselves."""
    return str(error) if isinstance(error, AdaptiveMoEError) else f"{type(error).__name__}: {error}"
