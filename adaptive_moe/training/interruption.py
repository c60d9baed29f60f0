"""Lets long work far below stop between two batches when whoever started it wants to stop."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from adaptive_moe.errors import TrainingInterruptedError

_cancelled: ContextVar[tuple[Callable[[], bool] | None, str]] = ContextVar(
    "cancelled", default=(None, "")
)


@contextmanager
def interruptible(
    cancelled: Callable[[], bool] | None, *, at: str = "at the gate"
) -> Iterator[None]:
    """In this block and this thread `stop_if_cancelled` heeds `cancelled`; `at` says where."""
    token = _cancelled.set((cancelled, at))
    try:
        yield
    finally:
        _cancelled.reset(token)


def stop_if_cancelled() -> None:
    """Raise TrainingInterruptedError if the work is to stop; to be called before each batch."""
    cancelled, at = _cancelled.get()
    if cancelled is not None and cancelled():
        raise TrainingInterruptedError(
            f"stopped {at}, nothing is published; the same command goes on from here"
        )
