"""A training in a process of its own, as the thread that waits for it sees it."""

import json
import logging
import os
import queue
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, final

from adaptive_moe import errors
from adaptive_moe.engine.events import ExpertReady, TeacherStep, TrainingStep
from adaptive_moe.engine.orders import Listener
from adaptive_moe.engine.training_lines import Evaluating, Failed, Job, Unfit, read_line
from adaptive_moe.errors import (
    AdaptiveMoEError,
    TrainingError,
    TrainingInterruptedError,
    TrainingProcessError,
)

_GLANCE_SECONDS = 0.1  # between two looks at whether it is to stop
_PATIENCE_SECONDS = 60.0  # for its step and its checkpoint, once it was told to stop
_LAST_LINES = 5  # of stderr in an error
# Its modules are to be found where this process found them, and in no working directory.
_START: Final = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from adaptive_moe.engine.training_main import main; main()"
)

_LEVELS = logging.getLevelNamesMapping()

logger = logging.getLogger(__name__)


class UnfitProcessError(TrainingError):
    """A process of its own cannot hold the base that this one holds."""


def can_start() -> bool:
    """Whether there is an interpreter to start: a program frozen into one file has none."""
    return bool(sys.executable) and not getattr(sys, "frozen", False)


def train_apart(
    job: Job,
    *,
    listener: Listener,
    cancelled: Callable[[], bool],
    evaluating: Callable[[], None],
) -> ExpertReady:
    """Have a process train, and tell what it tells; its verdict.

    Raises what the process failed with, UnfitProcessError when it has not begun,
    TrainingInterruptedError once `cancelled` is heeded, and TrainingProcessError when it ended
    without a word: its checkpoint stays.
    """
    with _watched(job) as watched:
        for line in watched.lines(cancelled):
            message = read_line(line)
            if isinstance(message, TeacherStep | TrainingStep):
                watched.step = message if isinstance(message, TrainingStep) else None
                listener(message)
            elif isinstance(message, Evaluating):
                evaluating()
            elif isinstance(message, ExpertReady):
                listener(message)
                return message
            elif isinstance(message, Unfit):
                raise UnfitProcessError(message.reason)
            else:
                raise _error_of(message)
        if watched.was_stopped:
            raise TrainingInterruptedError("stopped on request, the checkpoint is kept")
        raise TrainingProcessError(watched.obituary())


@contextmanager
def _watched(job: Job) -> "Iterator[_Watched]":
    """The process at work on the job; whatever is raised inside ends it."""
    places = json.dumps([str(Path(place).absolute()) for place in sys.path])
    with subprocess.Popen(  # noqa: S603  our own interpreter, our own words
        [sys.executable, "-P", "-c", _START, places],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        errors="replace",
        env=os.environ | {"OMP_NUM_THREADS": str(job.threads)},
        process_group=0,  # Ctrl-C at the terminal is for the conversation alone
    ) as process:
        watched = _Watched(process)
        try:
            assert process.stdin is not None
            with suppress(BrokenPipeError):  # it is dead already, and says why on stderr
                os.write(process.stdin.fileno(), f"{job.model_dump_json()}\n".encode())
            yield watched
        except BaseException:
            process.kill()
            raise
        finally:
            watched.join()


@final
class _Watched:
    """A process with two threads that read what it says, so that it never waits for a reader."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process
        self._told: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._last: deque[str] = deque(maxlen=_LAST_LINES)
        self._patient_until: float | None = None
        self.step: TrainingStep | None = None
        self._readers = [
            threading.Thread(target=read, name="training-process", daemon=True)
            for read in (self._read_messages, self._read_log)
        ]
        for reader in self._readers:
            reader.start()

    @property
    def was_stopped(self) -> bool:
        """Whether it was told to stop."""
        return self._patient_until is not None

    def lines(self, cancelled: Callable[[], bool]) -> Iterator[str]:
        """What the process says until it has ended; it is made to once `cancelled` says so."""
        while True:
            line: str | None = ""
            with suppress(queue.Empty):
                line = self._told.get(timeout=_GLANCE_SECONDS)
            if line is None:
                return
            if line:
                yield line
            if cancelled():
                self._stop()

    def obituary(self) -> str:
        """How the process ended, how far it had come, and what it said last."""
        self.join()
        status = self._process.returncode
        how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
        where = "before its first step"
        if self.step is not None:
            progress = self.step.progress
            where = f"after step {progress.step} of {progress.steps}"
        said = "".join(f"; {line}" for line in self._last)
        return f"its process {how} {where}{said}"

    def join(self) -> None:
        """Wait until the process is gone and everything it said was read."""
        try:
            self._process.wait(_PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for reader in self._readers:
            reader.join()

    def _stop(self) -> None:
        """The end of its stdin stops it; before its first step there is nothing to wait for."""
        now = time.monotonic()
        if self._patient_until is None:
            self._patient_until = now + _PATIENCE_SECONDS
            assert self._process.stdin is not None
            self._process.stdin.close()
        if self.step is None or now > self._patient_until:
            self._process.kill()

    def _read_messages(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._told.put(line)
        self._told.put(None)

    def _read_log(self) -> None:
        """Lines of its log keep their level, and those without one that of the line before."""
        assert self._process.stderr is not None
        level = logging.INFO
        for line in self._process.stderr:
            level = _LEVELS.get(line.partition(" ")[0], level)
            logger.log(level, "training process: %s", line.rstrip())
            self._last.append(line.strip())


def _error_of(failed: Failed) -> TrainingError | AdaptiveMoEError:
    """The error that the process failed with, as if it had been raised here."""
    kind = getattr(errors, failed.error, None)
    if isinstance(kind, type) and issubclass(kind, AdaptiveMoEError):
        return kind(failed.message)
    return TrainingError(failed.message)
