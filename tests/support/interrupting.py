"""Presses Ctrl-C at a chosen moment, the same one in every run.

Python hands a signal to the program where a function begins (among a few other places). So the
moments are counted in functions entered, in this package and in the libraries it holds state in.
"""

import sys
from collections.abc import Callable
from types import FrameType

WATCHED = ("/adaptive_moe/", "/cachetools/", "/collections/", "/contextlib.py", "/torch/utils/")


class CtrlC:
    """Raises KeyboardInterrupt in the calling thread at the given moment, counted from 0."""

    def __init__(self, *, at: int | None = None, watched: tuple[str, ...] = WATCHED) -> None:
        self._at, self._watched = at, watched
        self.moments = 0

    def press_during(self, work: Callable[[], object]) -> bool:
        """Do the work; whether it was interrupted."""
        tracer = sys.gettrace()
        sys.settrace(self._enter)
        try:
            work()
        except KeyboardInterrupt:
            return True
        finally:
            sys.settrace(tracer)
        return False

    def _enter(self, frame: FrameType, _event: str, _argument: object) -> None:
        if any(part in frame.f_code.co_filename for part in self._watched):
            self.moments += 1
            if self.moments - 1 == self._at:
                sys.settrace(None)
                raise KeyboardInterrupt


def moments(work: Callable[[], object], *, watched: tuple[str, ...] = WATCHED) -> int:
    """At how many moments the work could be interrupted."""
    counter = CtrlC(watched=watched)
    counter.press_during(work)
    return counter.moments
