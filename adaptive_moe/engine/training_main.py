"""The process that trains one expert for a runtime, and ends: `main` is all of it.

It reads its job from stdin, tells of it on stdout, and stops at its next step, a checkpoint
written, when stdin ends: because the runtime closed it, or is no more.
"""

import logging
import os
import threading
from contextlib import suppress
from io import FileIO
from pathlib import Path
from typing import TextIO

import torch
from filelock import FileLock

from adaptive_moe.engine.runtime import AdaptiveMoE
from adaptive_moe.engine.training_lines import (
    Evaluating,
    Failed,
    Job,
    Message,
    Unfit,
    write_line,
)
from adaptive_moe.errors import AdaptiveMoEError

_NICENESS = 5  # where both want a core, the conversation gets three quarters of it
_EXPENDABLE = "500"  # of 1000: when memory runs out the kernel takes this before the conversation
_BRIEFLY_SECONDS = 60.0  # for an earlier process, whose runtime died, to write its checkpoint

logger = logging.getLogger(__name__)


def main() -> None:
    """Read a job, do it, and say what came of it."""
    out, orders = _take_pipes()
    job = Job.model_validate_json(orders.readline())
    _step_aside(job)
    stop = threading.Event()
    threading.Thread(target=_stop_at_the_end, args=(orders, stop), daemon=True).start()

    def tell(message: Message) -> None:
        try:
            out.write(write_line(message))
            out.flush()
        except BrokenPipeError:  # nobody listens any more
            stop.set()

    try:
        with FileLock(job.lock, timeout=_BRIEFLY_SECONDS), _open(job) as moe:
            moe.train_expert(
                job.name,
                job.data,
                listener=tell,
                cancelled=stop.is_set,
                evaluating=lambda: tell(Evaluating()),
            )
    except _UnfitError as error:
        tell(Unfit(str(error)))
    except Exception as error:  # noqa: BLE001  the runtime takes it from here
        tell(_failed(error))


class _UnfitError(Exception):
    """This process cannot train what is wanted."""


def _open(job: Job) -> AdaptiveMoE:
    """A runtime of the very base that the other one holds."""
    try:
        moe = AdaptiveMoE.from_settings(job.settings, background=False)
    except AdaptiveMoEError as error:
        raise _UnfitError(str(error)) from error
    found = moe.language_model.base_id
    if found != job.base_id:
        moe.close()
        raise _UnfitError(
            f"base.id {job.settings.base.id} is {found[:19]} by now, and the one in memory "
            f"{job.base_id[:19]}"
        )
    return moe


def _failed(error: Exception) -> Failed:
    """What to say of an error; one that is none of ours is a bug, and its traceback is logged."""
    kind = type(error).__name__
    if isinstance(error, AdaptiveMoEError):
        return Failed(kind, str(error))
    logger.error("the training failed", exc_info=error)
    return Failed(kind, f"{kind}: {error}")


def _take_pipes() -> tuple[TextIO, FileIO]:
    """Where to tell, and where to hear; what libraries print goes to stderr from now on.

    Nothing is buffered on the way in: a thread that waits inside a buffer would hold its lock when
    the process ends.
    """
    out = os.fdopen(os.dup(1), "w", encoding="ascii")
    os.dup2(2, 1)
    return out, FileIO(0, "rb", closefd=False)


def _step_aside(job: Job) -> None:
    """Leave processor and memory to the conversation wherever both want them."""
    logging.basicConfig(
        level=job.settings.logging.level, format="%(levelname)s %(name)s: %(message)s"
    )
    torch.set_num_threads(job.threads)
    if hasattr(os, "nice"):
        os.nice(_NICENESS)
    with suppress(OSError):  # Linux alone has it
        Path("/proc/self/oom_score_adj").write_text(_EXPENDABLE)


def _stop_at_the_end(orders: FileIO, stop: threading.Event) -> None:
    while orders.read(1):
        pass
    stop.set()
