"""The machine that figures were measured on: versions, device, and how busy others kept it."""

import logging
import os
import platform
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

CONTENDED_LOAD = 0.3

_PACKAGES = ("torch", "transformers", "peft", "bitsandbytes", "numpy")
_IDLE = slice(3, 5)  # idle and waiting for disks, among the counters of /proc/stat


def describe(device: torch.device) -> dict[str, object]:
    """Device, processors, threads and versions."""
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "processor": platform.machine(),
        "processors": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in _PACKAGES},
    }


class Bystanders:
    """How many processors others kept busy since this was made, where Linux tells."""

    def __init__(self) -> None:
        self._started = time.perf_counter()
        self._busy, self._own = _busy_seconds(), _own_seconds()

    def load(self) -> float | None:
        """Mean number of processors, over the time since; None where it is not known."""
        busy, own = _busy_seconds(), _own_seconds()
        if busy is None or self._busy is None:
            return None
        others = (busy - self._busy) - (own - self._own)
        return round(max(0.0, others / (time.perf_counter() - self._started)), 2)


def is_contended(load: Mapping[str, float | None]) -> bool:
    """Whether others disturbed a run: by what they used meanwhile, if that is known.

    Else by the load average before, which lags a minute behind what has ended.
    """
    meanwhile = load["of_others_meanwhile"]
    return ((load["before"] or 0.0) if meanwhile is None else meanwhile) >= CONTENDED_LOAD


@contextmanager
def working_conditions(threads: int) -> Iterator[None]:
    """So many threads for torch, and no warnings of libraries among the progress."""
    from transformers.utils import logging as transformers_logging

    before, verbosity = torch.get_num_threads(), transformers_logging.get_verbosity()
    had_bars = transformers_logging.is_progress_bar_enabled()
    bits, level = logging.getLogger("bitsandbytes"), logging.getLogger("bitsandbytes").level
    torch.set_num_threads(threads)
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    bits.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.set_num_threads(before)
        transformers_logging.set_verbosity(verbosity)
        bits.setLevel(level)
        if had_bars:
            transformers_logging.enable_progress_bar()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _busy_seconds() -> float | None:
    """Seconds that all processors together have worked since the machine started."""
    try:
        line = Path("/proc/stat").read_text().split("\n", 1)[0]
        ticks = [int(each) for each in line.split()[1:9]]
    except (OSError, ValueError):
        return None
    return (sum(ticks) - sum(ticks[_IDLE])) / os.sysconf("SC_CLK_TCK")


def _own_seconds() -> float:
    """Seconds of this process and of those it has waited for."""
    used = os.times()
    return used.user + used.system + used.children_user + used.children_system
