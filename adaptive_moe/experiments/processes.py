"""Memory of whole processes, as the system counts it: this one, and commands of ours beside it."""

import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from adaptive_moe.errors import AdaptiveMoEError

_POLL_SECONDS = 0.05
_SETTLING_SECONDS = 1.0
_PATIENCE_SECONDS = 1800.0
_SETTINGS = "ADAPTIVE_MOE"
_PLACES = ("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME")
_UNTOLD = "this system does not tell a process's memory in /proc"


@dataclass(frozen=True, slots=True)
class ProcessMemory:
    """Bytes of one process that lie in memory: now, and at most since it began."""

    resident: int
    peak: int


def memory_of(process: int | str = "self") -> ProcessMemory | None:
    """Memory of a running process; None where /proc does not tell, or it has ended.

    Other ways to ask for the peak would count a parent's memory too, from before the program
    was exchanged.
    """
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return None
    table = dict(line.split(":", 1) for line in lines if line.startswith("Vm"))
    if "VmRSS" not in table:
        return None
    resident, peak = (int(table[key].split()[0]) * 1024 for key in ("VmRSS", "VmHWM"))
    return ProcessMemory(resident, peak)


def resident_bytes_now() -> int | None:
    """Bytes of this process that lie in memory; None where the system does not tell."""
    memory = memory_of()
    return None if memory is None else memory.resident


def peak_of_command(words: Sequence[str], *, threads: int, accepts: Collection[int] = (0,)) -> int:
    """Largest memory of an adaptive-moe command, run to its end.

    Raises AdaptiveMoEError when it ends with another status than it `accepts`, and where /proc
    does not tell.
    """
    with _started(words, threads) as process:
        peak = 0
        while process.poll() is None:
            memory = memory_of(process.pid)
            peak = max(peak, memory.peak if memory else 0)
            time.sleep(_POLL_SECONDS)
    if process.returncode not in accepts:
        raise AdaptiveMoEError(f"adaptive-moe {' '.join(words)} ended with {process.returncode}")
    if not peak:
        raise AdaptiveMoEError(_UNTOLD)
    return peak


def output_of_command(words: Sequence[str], *, threads: int) -> str:
    """What an adaptive-moe command says on stdout. Raises AdaptiveMoEError when it fails."""
    with _started(words, threads, stdout=subprocess.PIPE) as process:
        said, _ = process.communicate()
    if process.returncode:
        raise AdaptiveMoEError(f"adaptive-moe {' '.join(words)} ended with {process.returncode}")
    return said


def resident_of_chat(*, threads: int) -> int:
    """Memory of a chat on the pocket model that has answered once and waits for the next line.

    Raises AdaptiveMoEError when it does not answer, and where /proc does not tell.
    """
    with _started(["chat"], threads, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write("What is the capital of France?\n")
        process.stdin.flush()
        answer = process.stdout.readline()
        time.sleep(_SETTLING_SECONDS)
        memory = memory_of(process.pid)
        process.stdin.close()
        process.wait()
    if not answer.strip():
        raise AdaptiveMoEError("the chat ended without an answer")
    if memory is None:
        raise AdaptiveMoEError(_UNTOLD)
    return memory.resident


@contextmanager
def _started(
    words: Sequence[str], threads: int, *, stdout: int = subprocess.DEVNULL
) -> Iterator[subprocess.Popen[str]]:
    """The program in a process and a home of its own."""
    with tempfile.TemporaryDirectory() as home:
        own = {key: value for key, value in os.environ.items() if not key.startswith(_SETTINGS)}
        environment = {**own, **dict.fromkeys(_PLACES, home), "OMP_NUM_THREADS": str(threads)}
        with subprocess.Popen(  # noqa: S603 - our own program
            [sys.executable, "-m", "adaptive_moe", *words],
            stdin=subprocess.PIPE,
            stdout=stdout,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
            cwd=home,
        ) as process:
            guard = threading.Timer(_PATIENCE_SECONDS, process.kill)
            guard.start()
            try:
                yield process
            finally:
                guard.cancel()
