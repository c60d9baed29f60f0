"""Is the memory of a quantised base, and of the bank on it, what we say it is?

Run in a fresh process: what a process held before would hide what is added.
"""

import ctypes
import gc
import sys
from pathlib import Path

import torch
from torch import nn

from adaptive_moe.experiments import bases
from adaptive_moe.experiments.machine import working_conditions
from adaptive_moe.experiments.plan import RANDOM_BILLION
from adaptive_moe.experiments.processes import memory_of
from adaptive_moe.experiments.workload import bank_with, random_experts
from adaptive_moe.experts.bank import LoraBank
from adaptive_moe.experts.weights import LoraPair
from adaptive_moe.models.language_model import LanguageModel
from adaptive_moe.models.loading import load_language_model
from adaptive_moe.models.memory import device_memory, resident_bytes
from adaptive_moe.pocket import model_path

_HALF_BYTES = 2


def account(folder: str, *, device: str, rank: int, seed: int) -> dict[str, float]:
    """Load a checkpoint as nf4, put eight experts on it, and compare bytes told and taken.

    `linear_share` is of the linear layers' fp16 bytes; `bank_error` and `total_error` are the
    relative differences of what is allocated from what is accounted for. Raises OSError where
    the system does not tell a process's memory.
    """
    with working_conditions(threads=1):
        return _account(folder, device=device, rank=rank, seed=seed)


def write_checkpoint(folder: str) -> None:
    """Write the model of a billion random parameters that `account` is to load."""
    with working_conditions(threads=1):
        bases.write_checkpoint(RANDOM_BILLION, Path(folder))


def _account(folder: str, *, device: str, rank: int, seed: int) -> dict[str, float]:
    _warm_up(device)
    before = _taken_bytes(device)
    language_model = load_language_model(folder, quantization="nf4", device=device)
    bank = bank_with(language_model, random_experts(language_model, rank=rank, seed=seed))
    _read_something(language_model)
    taken = _taken_bytes(device) - before
    base_bytes = resident_bytes(language_model.model)
    told = base_bytes + bank.allocated_bytes
    return {
        "parameters": sum(
            layer.in_features * layer.out_features for layer in language_model.layers
        ),
        "base_bytes": base_bytes,
        "bank_bytes": bank.allocated_bytes,
        "taken_bytes": taken,
        "linear_share": _linear_bytes(language_model) / _fp16_bytes(language_model),
        "bank_error": abs(_pool_bytes(bank) - bank.allocated_bytes) / bank.allocated_bytes,
        "total_error": abs(taken - told) / told,
    }


def _warm_up(device: str) -> None:
    """Import and allocate what any model needs, on a model that is gone again afterwards."""
    _read_something(load_language_model(str(model_path()), quantization="nf4", device=device))


@torch.inference_mode()
def _read_something(language_model: LanguageModel) -> None:
    ids = torch.zeros(1, 8, dtype=torch.long, device=language_model.device)
    language_model.model(ids, use_cache=False)


def _taken_bytes(device: str) -> int:
    """What this process holds, after it gave back what it could."""
    gc.collect()
    on_device = device_memory(torch.device(device))
    if on_device is not None:
        return on_device.allocated_bytes
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)
    memory = memory_of()
    if memory is None:
        raise OSError("this system does not tell a process's memory in /proc")
    return memory.resident


def _linear_bytes(language_model: LanguageModel) -> int:
    modules = [language_model.model.get_submodule(layer.name) for layer in language_model.layers]
    return resident_bytes(nn.ModuleList(modules))


def _fp16_bytes(language_model: LanguageModel) -> int:
    layers = language_model.layers
    return sum(_HALF_BYTES * layer.in_features * layer.out_features for layer in layers)


def _pool_bytes(bank: LoraBank) -> int:
    """Bytes of the storages that the experts' factors lie in: the pools themselves."""
    pairs: list[LoraPair] = list(bank.weights(next(iter(bank.resident))).values())
    factors = [factor for pair in pairs for factor in (pair.a, pair.b)]
    return sum(factor.untyped_storage().nbytes() for factor in factors)
