"""How long PEFT takes to another adapter, loaded beside others or in exchange for the only one."""

import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any

from adaptive_moe.experiments import peers
from adaptive_moe.experiments.figures import Figure, reason_of
from adaptive_moe.experiments.interleaved import milliseconds, timing, wall_clock
from adaptive_moe.experiments.plan import Plan
from adaptive_moe.experiments.workload import random_experts
from adaptive_moe.models.language_model import LanguageModel

ROW = "loading"

_LOADS = 5
_FEW_RESIDENT, _MANY_RESIDENT = 2, 33
_NEWCOMER = "newcomer"

_Clock = Callable[[Callable[[], object]], float]


def peer_figures(language_model: LanguageModel, plan: Plan, *, title: str) -> Iterator[Figure]:
    """Milliseconds of load_adapter, with few and with many adapters there, and of hotswap."""
    clock = wall_clock(language_model.device)
    with tempfile.TemporaryDirectory() as folder:
        for way in (_beside_others, _in_exchange):
            try:
                yield from way(language_model, plan, clock, title, Path(folder))
            except Exception as error:  # noqa: BLE001 - whatever a peer raises is its result
                name = f"PEFT {way.__name__.strip('_').replace('_', ' ')}"
                yield Figure.failed(ROW, name, title, reason_of(error), is_peer=True)


def _beside_others(
    language_model: LanguageModel, plan: Plan, clock: _Clock, title: str, folder: Path
) -> Iterator[Figure]:
    folders = _folders(language_model, plan, folder / "beside")
    wrapped = peers.hotswapping(language_model.model, folders[0])
    for resident in range(2, _MANY_RESIDENT + 1):
        peers.load_beside(wrapped, folders[1], f"resident-{resident}")
        if resident in (_FEW_RESIDENT, _MANY_RESIDENT):
            seconds = [_load_once(wrapped, folders[2], clock) for _ in range(_LOADS)]
            name = f"PEFT load_adapter, {resident} resident"
            yield _peer(name, title, seconds)


def _in_exchange(
    language_model: LanguageModel, plan: Plan, clock: _Clock, title: str, folder: Path
) -> Iterator[Figure]:
    folders = _folders(language_model, plan, folder / "exchange")
    wrapped = peers.hotswapping(language_model.model, folders[0])
    from_files = [partial(peers.hotswap, wrapped, each) for each in folders]
    in_memory = [peers.read_weights(each, wrapped) for each in folders]
    from_memory = [partial(peers.hotswap_from_memory, wrapped, each) for each in in_memory]
    for name, swaps in (("files", from_files), ("RAM", from_memory)):
        turns = cycle(swaps)
        next(turns)()
        seconds = [clock(next(turns)) for _ in range(2 * _LOADS)]
        yield _peer(f"PEFT hotswap from {name}", title, seconds)


def _folders(language_model: LanguageModel, plan: Plan, folder: Path) -> list[Path]:
    """Eight adapters in PEFT's format."""
    experts = random_experts(language_model, rank=plan.rank, seed=plan.seed)
    wrapped = peers.in_peft(peers.twin(language_model.model), experts)
    return list(peers.saved(wrapped, folder).values())


def _load_once(
    wrapped: Any,  # noqa: ANN401 - PEFT is untyped
    folder: Path,
    clock: _Clock,
) -> float:
    """Seconds to load one adapter more; it is gone again afterwards."""
    seconds = clock(partial(peers.load_beside, wrapped, folder, _NEWCOMER))
    wrapped.delete_adapter(_NEWCOMER)
    return seconds


def _peer(name: str, title: str, seconds: list[float]) -> Figure:
    median = milliseconds(seconds)
    return timing(ROW, name, title, median, rounds=len(seconds), is_peer=True)
