"""A thousand experts come, are used and go, and nothing of them stays behind."""

import gc
import itertools
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

import psutil
import torch

from adaptive_moe.experts.bank import LoraBank
from adaptive_moe.experts.cache import ExpertCache
from adaptive_moe.experts.weights import LoraPair, LoraWeights
from adaptive_moe.models.linear_layers import select
from tests.experts.reference import (
    GATED_MODES,
    MODES,
    layers_of,
    logits,
    random_weights,
    tiny_base,
    token_ids,
)

RANKS = {"e0": 64, "e1": 20, "e2": 36, "e3": 96, "e4": 12, "e5": 48, "e6": 80, "e7": 28}
ROWS = 193  # room for two to four of them, and for gaps of all sizes
IN_RAM = 160
WARM_UP, CYCLES = 104, 1000  # whole rounds through the eight experts
SLACK_BYTES = 8 << 20  # less than one in ten of these experts would take
IDS = token_ids(4)


@dataclass(frozen=True)
class Footprint:
    """What this process holds."""

    tensors: int
    rss_bytes: int

    @classmethod
    def now(cls) -> "Footprint":
        gc.collect()
        return cls(
            tensors=sum(issubclass(type(each), torch.Tensor) for each in gc.get_objects()),
            rss_bytes=psutil.Process().memory_info().rss,
        )


class Shelf:
    """A cache that is full on the device and in RAM, over a disk that gives every expert anew."""

    def __init__(self) -> None:
        self.model = tiny_base(wide=True)
        self.layers = select(layers_of(self.model), ["layers.1.mlp.gate_proj", "up_proj"])
        self.row_bytes = 4 * sum(layer.cost for layer in self.layers)
        self.bank = LoraBank(
            self.model, self.layers, capacity_bytes=ROWS * self.row_bytes, dtype=torch.float32
        )
        self.on_disk = {
            name: random_weights(self.layers, seed=seed, ranks=(rank,))
            for seed, (name, rank) in enumerate(RANKS.items())
        }
        self.cache = ExpertCache(
            self.bank, self._read, device_experts=4, host_bytes=IN_RAM * self.row_bytes
        )

    def _read(self, name: str) -> LoraWeights:
        pairs = self.on_disk[name].items()
        return {layer: LoraPair(pair.a.clone(), pair.b.clone()) for layer, pair in pairs}

    def answer(self, name: str) -> torch.Tensor:
        with self.cache.hold([name]), self.bank.activate([((name, 1.0),)]):
            return logits(self.model, IDS[:1])

    def use_in_turn(self, cycles: int) -> None:
        for name, _ in zip(itertools.cycle(RANKS), range(cycles), strict=False):
            with self.cache.hold([name]):
                pass

    def first_factors(self) -> dict[str, torch.Tensor]:
        """Where the resident experts lie in the pool of the first layer."""
        name = self.layers[0].name
        return {key: self.bank.weights(key)[name].a for key in self.bank.resident}


def test_loading_and_evicting_leaves_nothing_behind() -> None:
    shelf = Shelf()
    bare, allocated = logits(shelf.model, IDS), shelf.bank.allocated_bytes
    answers = {name: shelf.answer(name) for name in RANKS}
    shelf.use_in_turn(WARM_UP)
    before, warm, resident = Footprint.now(), shelf.cache.statistics(), shelf.bank.resident

    shelf.use_in_turn(CYCLES)

    after, done = Footprint.now(), shelf.cache.statistics()
    assert done.misses - warm.misses == done.evictions - warm.evictions == CYCLES
    assert after.tensors == before.tensors
    assert after.rss_bytes - before.rss_bytes < SLACK_BYTES
    assert shelf.bank.allocated_bytes == allocated == ROWS * shelf.row_bytes
    assert shelf.bank.resident == resident
    assert shelf.bank.used_bytes == done.device_bytes == sum(resident.values())
    assert done.host_bytes == warm.host_bytes <= IN_RAM * shelf.row_bytes
    assert torch.equal(logits(shelf.model, IDS), bare)
    assert all(torch.equal(shelf.answer(name), answers[name]) for name in RANKS)


def test_gaps_are_closed_on_the_way_and_no_row_is_lost() -> None:
    shelf, moved = Shelf(), 0
    first = shelf.layers[0].name
    for name in [*RANKS] * 10:
        before = {key: each.data_ptr() for key, each in shelf.first_factors().items()}
        with shelf.cache.hold([name]):
            for key, factor in shelf.first_factors().items():
                moved += factor.data_ptr() != before.get(key, factor.data_ptr())
                assert torch.equal(factor, shelf.on_disk[key][first].a)
    assert moved
    assert shelf.cache.evict_idle()
    assert shelf.bank.used_bytes == 0
    shelf.bank.load("whole", random_weights(shelf.layers, seed=9, ranks=(ROWS - 1,)))
    assert shelf.bank.used_bytes == (ROWS - 1) * shelf.row_bytes


def test_switching_on_and_off_leaves_nothing_behind() -> None:
    shelf = Shelf()
    model, bank = shelf.model, shelf.bank
    for name in ("e0", "e1", "e2"):
        bank.load(name, shelf.on_disk[name])
    used, bare = bank.used_bytes, logits(model, IDS)
    kinds: list[Callable[[], AbstractContextManager[None]]] = [
        *(lambda rows=rows: bank.activate(rows) for rows in (MODES | GATED_MODES).values()),
        lambda: bank.activate_shared(["e0", "e1"], torch.full((4, 2), 0.5)),
        lambda: bank.activate_weights(shelf.on_disk["e3"]),
        lambda: bank.activate([()] * 4),
    ]

    def switch(cycles: int) -> None:
        for activation, _ in zip(itertools.cycle(kinds), range(cycles), strict=False):
            with activation():
                pass

    def answers() -> list[torch.Tensor]:
        found = []
        for activation in kinds:
            with activation():
                found.append(logits(model, IDS))
        return found

    expected = answers()
    switch(WARM_UP)
    before = Footprint.now()

    switch(CYCLES)

    after = Footprint.now()
    assert after.tensors == before.tensors
    assert after.rss_bytes - before.rss_bytes < SLACK_BYTES
    assert bank.used_bytes == used
    assert not any("forward" in module.__dict__ for module in model.modules())
    assert torch.equal(logits(model, IDS), bare)
    assert all(torch.equal(*pair) for pair in zip(answers(), expected, strict=True))
