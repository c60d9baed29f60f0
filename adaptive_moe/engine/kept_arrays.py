"""Arrays that are kept in files because they took long to compute; lost ones are computed anew."""

import hashlib
import logging
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

_LOGGER = logging.getLogger(__name__)


def keep_arrays(file: Path, arrays: Mapping[str, np.ndarray], *, of: str = "") -> None:
    """Write them for `read_arrays`; `of` says what they were computed from."""
    about = {"digest": _digest(arrays)} | ({"of": of} if of else {})
    keep_file(file, lambda path: save_file(dict(arrays), path, metadata=about))


def read_arrays(file: Path, *, of: str = "") -> dict[str, np.ndarray] | None:
    """What `keep_arrays` wrote; None where there is nothing of that, or it is damaged."""
    try:
        with safe_open(file, framework="numpy") as kept:
            about = kept.metadata() or {}
            if about.get("of", "") != of:
                return None
            arrays = {name: kept.get_tensor(name) for name in kept.keys()}  # noqa: SIM118  no mapping
        if about.get("digest") == _digest(arrays):
            return arrays
        reason = "it is not what was written"
    except FileNotFoundError:
        return None
    # The last two: dtypes that numpy does not have.
    except (OSError, SafetensorError, ValueError, TypeError, AttributeError) as error:
        reason = str(error)
    _LOGGER.warning("%s is made anew: %s", file, reason)
    return None


def keep_file(file: Path, write: Callable[[Path], None]) -> None:
    """Write a file whole or not at all; where nothing can be kept it is made anew next time."""
    part = file.with_name(f"{file.name}.{os.getpid()}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write(part)
        part.replace(file)
    except (OSError, SafetensorError) as error:
        _LOGGER.warning("%s cannot be kept: %s", file, error)
        with suppress(OSError):
            part.unlink()


def _digest(arrays: Mapping[str, np.ndarray]) -> str:
    content = hashlib.sha256()
    for name in sorted(arrays):
        content.update(f"{name} {arrays[name].dtype} {arrays[name].shape} ".encode())
        content.update(np.ascontiguousarray(arrays[name]).tobytes())
    return content.hexdigest()
