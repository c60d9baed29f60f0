"""Lets long work far below stop between two batches when whoever started it wants to stop."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from adaptive_moe.errors import TrainingInterruptedError

_cancelled: ContextVar[Callable[[], bool] | None] = ContextVar("cancelled", default=None)


@contextmanager
def interruptible(cancelled: Callable[[], bool] | None) -> Iterator[None]:
    """In this block and this thread `stop_if_cancelled` heeds `cancelled`."""
    token = _cancelled.set(cancelled)
    try:
        yield
    finally:
        _cancelled.reset(token)


def stop_if_cancelled() -> None:
    """Raise TrainingInterruptedError if the gate is to stop; to be called before each batch."""
    cancelled = _cancelled.get()
    if cancelled is not None and cancelled():
        raise TrainingInterruptedError(
            "stopped at the gate, nothing is published; the same command goes on from here"
        )
