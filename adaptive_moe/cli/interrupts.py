"""Ctrl-C while something long runs: the first asks it to stop, the second breaks it off."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def stopping_on_interrupt(told: Callable[[], None] | None = None) -> Iterator[Callable[[], bool]]:
    """Gives a function that turns true at the first Ctrl-C, when `told` is called as well.

    The second Ctrl-C raises KeyboardInterrupt. Outside the main thread Ctrl-C stays as it was.
    """
    stop = threading.Event()

    def interrupted(_number: int, _frame: FrameType | None) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()
        if told is not None:
            told()

    if threading.current_thread() is not threading.main_thread():
        yield stop.is_set
        return
    before = signal.signal(signal.SIGINT, interrupted)
    try:
        yield stop.is_set
    finally:
        signal.signal(signal.SIGINT, before)
