"""Ctrl-C while experts come and go leaves each of them whole or gone, and in nobody's use."""

import pytest
import torch

from adaptive_moe.experts.bank import LoraBank
from adaptive_moe.experts.cache import ExpertCache
from adaptive_moe.experts.weights import LoraPair, LoraWeights
from adaptive_moe.models.linear_layers import select
from tests.experts.reference import layers_of, random_weights, tiny_base
from tests.support.interrupting import CtrlC, moments

RANKS = {"e0": 5, "e1": 2, "e2": 4, "e3": 6, "e4": 3}
ROWS = 13
MODEL = tiny_base()
LAYERS = select(layers_of(MODEL), ["0.mlp.up_proj", "1.mlp.up_proj"])
ON_DISK = {
    name: random_weights(LAYERS, seed=seed, ranks=(rank,))
    for seed, (name, rank) in enumerate(RANKS.items())
}


class Shelf:
    """Two full tiers: the next experts push others out, and close the gaps they leave."""

    def __init__(self) -> None:
        row_bytes = 4 * sum(layer.cost for layer in LAYERS)
        self.bank = LoraBank(MODEL, LAYERS, capacity_bytes=ROWS * row_bytes, dtype=torch.float32)
        self.cache = ExpertCache(self.bank, self._read, device_experts=4, host_bytes=9 * row_bytes)
        for name in ("e0", "e1", "e2"):
            self.use(name)

    def _read(self, name: str) -> LoraWeights:
        return dict(ON_DISK[name])

    def use(self, *names: str) -> None:
        """Like an answer, which needs the experts' own weights."""
        with self.cache.hold(names):
            for name in names:
                found = self.bank.weights(name)
                assert found.keys() == ON_DISK[name].keys()
                assert all(same(found[key], ON_DISK[name][key]) for key in found)

    def drop_one_and_change_two(self) -> None:
        with self.cache.hold(["e2"]):
            self.cache.drop("e2")
        with self.cache.hold(["e4", "e3"]):
            pass


def same(one: LoraPair, other: LoraPair) -> bool:
    return torch.equal(one.a, other.a) and torch.equal(one.b, other.b)


# Python drops an interrupt that arrives while a generator is being closed, with this warning.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_ctrl_c_at_any_moment_leaves_experts_whole_or_gone() -> None:
    whole = random_weights(LAYERS, seed=9, ranks=(ROWS - 1,))
    every = moments(Shelf().drop_one_and_change_two)
    assert every > 100
    for moment in range(every):
        shelf = Shelf()
        CtrlC(at=moment).press_during(shelf.drop_one_and_change_two)
        for names in (["e0", "e1"], ["e4", "e3"], ["e2"], ["e0"]):
            shelf.use(*names)
        shelf.cache.evict_idle()
        assert shelf.cache.statistics().device_experts == shelf.cache.statistics().host_bytes == 0
        assert shelf.bank.used_bytes == 0
        shelf.bank.load("whole", whole)
