"""Counts the bytes in use, on host and device, and makes room when they run out."""

import gc
import resource
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

from adaptive_moe.errors import AdaptiveMoEError, BankFullError, InsufficientMemoryError

_MEMINFO, _CGROUP = Path("/proc/meminfo"), Path("/sys/fs/cgroup")
Item = TypeVar("Item")
Result = TypeVar("Result")

_SIGNS = (
    "out of memory",
    "not enough memory",
    "can't allocate memory",
    "cannot allocate memory",
    "alloc_failed",
)


@dataclass(frozen=True, slots=True)
class DeviceMemory:
    """Bytes on one accelerator: by live tensors, at their peak, held by torch, and on the card."""

    allocated_bytes: int
    peak_bytes: int
    reserved_bytes: int
    total_bytes: int


def resident_bytes(model: nn.Module) -> int:
    """Bytes of all parameters and buffers, with what quantised weights keep beside them.

    Tied weights, which share their storage, count once.
    """
    storages: dict[int, int] = {}
    for tensor in (*model.parameters(), *model.buffers()):
        state = getattr(tensor, "quant_state", None)
        beside = [getattr(state, "absmax", None), getattr(state, "code", None)]
        beside += [getattr(tensor, "CB", None), getattr(tensor, "SCB", None)]
        for part in (tensor, *beside):
            if isinstance(part, torch.Tensor) and part.device.type != "meta":
                storage = part.untyped_storage()
                storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


def peak_rss_bytes() -> int:
    """Largest resident set of this process since it began."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def free_bytes() -> int | None:
    """RAM that could be taken without swapping, by the kernel's word; None where it has none.

    A container's own limit is heeded (cgroup v2).
    """
    try:
        lines = _MEMINFO.read_text().splitlines()
        (free,) = (int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    except (OSError, ValueError):
        return None
    with suppress(OSError, ValueError):  # "max" is no number and no limit
        limit = int((_CGROUP / "memory.max").read_text())
        return min(free * 1024, limit - int((_CGROUP / "memory.current").read_text()))
    return free * 1024


def device_memory(device: torch.device) -> DeviceMemory | None:
    """What is in use on a CUDA device; None where memory is the host's."""
    if device.type != "cuda":
        return None
    _, total = torch.cuda.mem_get_info(device)
    return DeviceMemory(
        allocated_bytes=torch.cuda.memory_allocated(device),
        peak_bytes=torch.cuda.max_memory_allocated(device),
        reserved_bytes=torch.cuda.memory_reserved(device),
        total_bytes=total,
    )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that an allocation failed, on any device and by any allocator.

    A full bank is none: its budget is used up, not the memory.
    """
    if isinstance(error, BankFullError):
        return False
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(sign in text for sign in _SIGNS)


def retry_on_out_of_memory(
    work: Callable[[Sequence[Item]], Sequence[Result]],
    items: Sequence[Item],
    *,
    make_room: Callable[[], bool],
) -> list[Result]:
    """Do `work` on all items, one result each; when memory runs out, make room or halve.

    `make_room` gives back something idle and says whether it found anything; it is asked until it
    finds nothing, then the items are split in two and done one half after the other.
    Raises InsufficientMemoryError when a single item does not fit.
    """
    while True:
        results = _attempt(work, items)
        if results is not None:
            return results
        # Outside the except block: its traceback would keep the failed tensors alive.
        release_cached_memory()
        if not make_room():
            break
    if len(items) <= 1:
        raise InsufficientMemoryError(
            "not enough memory for a single prompt, even with every idle expert evicted; "
            "shorten the prompt, lower cache.device_bytes or quantise the base"
        )
    middle = len(items) // 2
    first = retry_on_out_of_memory(work, items[:middle], make_room=make_room)
    return first + retry_on_out_of_memory(work, items[middle:], make_room=make_room)


def within_memory(items: Iterator[Item]) -> Iterator[Item]:
    """The items as they come, for a consumer that has seen too much of them to start anew.

    Raises InsufficientMemoryError when memory runs out on the way.
    """
    while True:
        try:
            item = next(items)
        except StopIteration:
            return
        except (RuntimeError, MemoryError) as error:
            if isinstance(error, AdaptiveMoEError) or not is_out_of_memory(error):
                raise
            break
        yield item
    release_cached_memory()
    raise InsufficientMemoryError(
        "memory ran out in the middle of an answer; ask for fewer new tokens, lower "
        "cache.device_bytes or quantise the base"
    )


def release_cached_memory() -> None:
    """Collect dead tensors and hand torch's unused blocks back to the device."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _attempt(
    work: Callable[[Sequence[Item]], Sequence[Result]], items: Sequence[Item]
) -> list[Result] | None:
    try:
        return list(work(items))
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return None
