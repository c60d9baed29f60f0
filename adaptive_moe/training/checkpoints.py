"""Half-finished trainings on disk: written in one piece, read back or ignored, never believed."""

import json
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from adaptive_moe.experts.objects import disk_errors

_FILE = "training.safetensors"
_KEY = "training"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """All tensors of a training after some step, and the JSON values beside them."""

    tensors: Mapping[str, Tensor]
    state: Mapping[str, object]


def write_checkpoint(folder: Path, checkpoint: Checkpoint, *, fingerprint: str) -> None:
    """Replace the folder's checkpoint in one step; StoreError when the disk refuses."""
    temporary = folder / f"{_FILE}.partial"
    content = {"fingerprint": fingerprint, "state": checkpoint.state}
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            # The JSON travels in the header, so that no crash can part it from the tensors.
            save_file(
                {name: tensor.contiguous() for name, tensor in checkpoint.tensors.items()},
                temporary,
                metadata={_KEY: json.dumps(content)},
            )
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            temporary.replace(folder / _FILE)
        finally:
            temporary.unlink(missing_ok=True)


def read_checkpoint(folder: Path, *, fingerprint: str) -> Checkpoint | None:
    """The folder's checkpoint; None where there is none, it is broken, or of another training."""
    path = folder / _FILE
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            content = json.loads((file.metadata() or {})[_KEY])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        _log.warning("%s: unreadable checkpoint, starting anew: %s", path, error)
        return None
    if content.get("fingerprint") != fingerprint:
        _log.warning("%s: a checkpoint of another training, starting anew", path)
        return None
    return Checkpoint(tensors, content["state"])


def remove_checkpoint(folder: Path) -> None:
    """Delete the folder's checkpoint, and the folder if nothing else is in it; StoreError."""
    with disk_errors(folder):
        for name in (_FILE, f"{_FILE}.partial"):
            (folder / name).unlink(missing_ok=True)
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
