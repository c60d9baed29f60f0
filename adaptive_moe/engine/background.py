"""The worker behind the answers: one thread that is woken to fill gaps, and the news it brings."""

import threading
from collections import deque
from collections.abc import Callable
from typing import final

from adaptive_moe.engine.events import TeacherStep, TrainingEvent, TrainingStep

_KEPT = 64  # events that nobody has taken yet


@final
class News:
    """Events on their way from a worker to whoever asks next; each is handed out once.

    Of steps that nobody took in time only a training's, or a teacher's, latest is kept.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._events: deque[TrainingEvent] = deque(maxlen=_KEPT)

    def tell(self, event: TrainingEvent) -> None:
        """The listener to hand to a training."""
        with self._lock:
            last = self._events[-1] if self._events else None
            if _goes_on_from(last, event):
                self._events.pop()
            self._events.append(event)

    def take(self) -> tuple[TrainingEvent, ...]:
        """What was told since the last call; never waits for more."""
        with self._lock:
            events = tuple(self._events)
            self._events.clear()
        return events


def _goes_on_from(last: TrainingEvent | None, event: TrainingEvent) -> bool:
    """Whether `event` says all that `last` did."""
    if isinstance(event, TrainingStep) and isinstance(last, TrainingStep):
        return event.expert == last.expert
    return isinstance(event, TeacherStep) and isinstance(last, TeacherStep)


@final
class Worker:
    """Runs `work` in a thread of its own, once more whenever it was woken meanwhile.

    `work` is to return soon once `is_stopping` says so.
    """

    def __init__(self, work: Callable[[], None]) -> None:
        self._work = work
        self._lock = threading.Lock()
        self._woken = False
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def wake(self) -> None:
        """There is work; nothing happens once the worker was stopped."""
        with self._lock:
            if self._stopping.is_set():
                return
            self._woken = True
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="gap-filling", daemon=True)
                self._thread.start()

    def is_stopping(self) -> bool:
        """Whether the work is to end."""
        return self._stopping.is_set()

    def rest(self, seconds: float) -> None:
        """Wait inside `work`; ends at once when the worker is stopped."""
        self._stopping.wait(seconds)

    def wait(self, timeout_seconds: float | None = None) -> bool:
        """Wait until there is no more work; false when there still is at the end."""
        with self._lock:
            thread = self._thread
        if thread is not None:
            thread.join(timeout_seconds)
        return thread is None or not thread.is_alive()

    def stop(self) -> None:
        """End the work at its next step and wait for that."""
        with self._lock:
            self._stopping.set()
        self.wait()

    def _run(self) -> None:
        try:
            while self._is_wanted():
                self._work()
        except BaseException:
            with self._lock:
                self._thread = None
            raise

    def _is_wanted(self) -> bool:
        """Whether somebody woke the worker since; if not, the next to wake it starts a thread."""
        with self._lock:
            wanted = self._woken and not self._stopping.is_set()
            self._woken = False
            if not wanted:
                self._thread = None
            return wanted
