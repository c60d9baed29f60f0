"""The cache holds the experts in use, forgets the longest unused one, and keeps its budgets."""

import threading
from collections.abc import Callable, Sequence

import pytest
import torch

from adaptive_moe.errors import BankFullError, CorruptExpertError
from adaptive_moe.experts.bank import LoraBank
from adaptive_moe.experts.cache import ExpertCache
from adaptive_moe.experts.weights import LoraWeights, weights_bytes
from tests.experts.reference import layers_of, logits, random_weights, tiny_base, token_ids

RANK = 4


class Shelf:
    """A bank for `slots` experts of one size, and a record of what was read from disk."""

    def __init__(self, *, slots: int = 2, experts: int = 8, in_ram: int = 0) -> None:
        self.model = tiny_base()
        layers = layers_of(self.model)
        row_bytes = 4 * sum(layer.cost for layer in layers)
        self.expert_bytes = RANK * row_bytes
        self.bank = LoraBank(
            self.model,
            layers,
            capacity_bytes=(1 + slots * RANK) * row_bytes,
            dtype=torch.float32,
        )
        self.read: list[str] = []
        self.before_reading: Callable[[], None] = lambda: None
        self.cache = ExpertCache(
            self.bank,
            self._from_disk,
            device_experts=experts,
            host_bytes=in_ram * self.expert_bytes,
        )

    def _from_disk(self, expert_id: str) -> LoraWeights:
        self.before_reading()
        if expert_id == "broken":
            raise CorruptExpertError("broken")
        self.read.append(expert_id)
        return random_weights(layers_of(self.model), seed=int(expert_id[1:]), ranks=(RANK,))

    def use(self, *expert_ids: str) -> None:
        with self.cache.hold(expert_ids):
            pass

    def on_device(self) -> set[str]:
        return set(self.bank.resident)


def figures(shelf: Shelf) -> Sequence[int]:
    found = shelf.cache.statistics()
    return found.hits, found.misses, found.evictions, found.device_experts


def test_the_longest_unused_expert_leaves() -> None:
    shelf = Shelf(slots=2)
    shelf.use("e1")
    shelf.use("e2")
    shelf.use("e1")
    shelf.use("e3")
    assert shelf.on_device() == {"e1", "e3"}
    assert figures(shelf) == (1, 3, 1, 2)
    assert shelf.cache.statistics().device_bytes == 2 * shelf.expert_bytes


def test_the_number_of_experts_is_bounded_too() -> None:
    shelf = Shelf(slots=4, experts=2)
    for name in ("e1", "e2", "e3"):
        shelf.use(name)
    assert shelf.on_device() == {"e2", "e3"}


def test_an_expert_comes_back_from_ram_without_the_disk() -> None:
    shelf = Shelf(slots=1, in_ram=2)
    for name in ("e1", "e2", "e1", "e2"):
        shelf.use(name)
    assert shelf.read == ["e1", "e2"]
    assert shelf.cache.statistics().host_bytes == 2 * shelf.expert_bytes
    shelf.use("e3")
    shelf.use("e1")
    assert shelf.read == ["e1", "e2", "e3", "e1"]


def test_experts_in_use_stay() -> None:
    shelf = Shelf(slots=2)
    with shelf.cache.hold(["e1", "e2"]):
        with pytest.raises(BankFullError, match="in use or pinned"):
            shelf.use("e3")
        assert shelf.on_device() == {"e1", "e2"}
    shelf.use("e3")
    assert "e3" in shelf.on_device()


def test_more_experts_than_fit_are_refused_and_nothing_stays_in_use() -> None:
    shelf = Shelf(slots=2)
    with pytest.raises(BankFullError), shelf.cache.hold(["e1", "e2", "e3"]):
        pass
    shelf.use("e3", "e4")
    assert shelf.on_device() == {"e3", "e4"}


def test_a_pinned_expert_stays_until_it_is_let_go() -> None:
    shelf = Shelf(slots=1)
    shelf.cache.pin("e1")
    with pytest.raises(BankFullError):
        shelf.use("e2")
    shelf.cache.unpin("e1")
    shelf.use("e2")
    assert shelf.on_device() == {"e2"}


def test_a_dropped_expert_is_read_anew_and_leaves_after_its_last_user() -> None:
    shelf = Shelf(slots=2, in_ram=2)
    with shelf.cache.hold(["e1"]), shelf.cache.hold(["e1"]):
        shelf.cache.drop("e1")
        assert shelf.on_device() == {"e1"}
    assert shelf.on_device() == set()
    shelf.use("e1")
    assert shelf.read == ["e1", "e1"]


def test_dropping_does_not_wait_for_a_thread_that_waits_for_us() -> None:
    """One thread answers and drops, while another one reads an expert into the cache."""
    shelf = Shelf(slots=2, in_ram=2)
    shelf.use("e1")
    reading, dropped = threading.Event(), threading.Event()

    def wait_for_the_drop() -> None:
        reading.set()
        assert dropped.wait(30)

    shelf.before_reading = wait_for_the_drop
    thread = threading.Thread(target=shelf.use, args=("e2",))
    thread.start()
    assert reading.wait(30)
    shelf.cache.drop("e1")
    dropped.set()
    thread.join()
    assert shelf.on_device() == {"e2"}


def test_a_broken_expert_disturbs_nobody() -> None:
    shelf = Shelf(slots=2)
    with pytest.raises(CorruptExpertError), shelf.cache.hold(["e1", "broken"]):
        pass
    shelf.use("e1", "e2")
    assert shelf.on_device() == {"e1", "e2"}


def test_holding_the_same_expert_twice_takes_one_place() -> None:
    shelf = Shelf(slots=1)
    with shelf.cache.hold(["e1", "e1"]):
        assert figures(shelf) == (0, 1, 0, 1)


def test_what_was_prefetched_comes_without_the_disk() -> None:
    shelf = Shelf(slots=1, in_ram=2)
    with shelf.cache.hold(["e1"]), shelf.bank.activate([(("e1", 1.0),)]):
        shelf.cache.prefetch("e2")
        shelf.cache.prefetch("e2")
    assert shelf.read == ["e1", "e2"]
    assert shelf.on_device() == {"e1"}
    shelf.use("e2")
    assert shelf.read == ["e1", "e2"]
    assert shelf.cache.statistics().prefetched == 1


def test_what_ram_has_no_room_for_is_not_prefetched() -> None:
    shelf = Shelf(slots=2)
    shelf.cache.prefetch("e1")
    assert shelf.cache.statistics().prefetched == 0
    assert shelf.cache.statistics().host_bytes == 0


def test_prefetching_waits_for_no_one_and_nobody_for_it() -> None:
    """Another thread uses the tiers while an expert is being read ahead."""
    shelf = Shelf(slots=2, in_ram=4)
    shelf.use("e1")
    reading, used = threading.Event(), threading.Event()

    def wait_for_the_other() -> None:
        reading.set()
        assert used.wait(30)

    shelf.before_reading = wait_for_the_other
    thread = threading.Thread(target=shelf.cache.prefetch, args=("e2",))
    thread.start()
    assert reading.wait(30)
    shelf.use("e1")
    used.set()
    thread.join()
    assert shelf.cache.statistics().prefetched == 1


def test_threads_get_the_answers_they_would_get_alone() -> None:
    shelf = Shelf(slots=3, in_ram=2)
    ids, names = token_ids(1), [f"e{number}" for number in range(6)]

    def answer(name: str) -> torch.Tensor:
        with shelf.cache.hold([name]), shelf.bank.activate([((name, 1.0),)]):
            return logits(shelf.model, ids)

    alone = {name: answer(name) for name in names}
    wrong: list[str] = []

    def work(offset: int) -> None:
        for turn in range(8):
            name = names[(offset * 5 + turn * 3) % len(names)]
            if not torch.equal(answer(name), alone[name]):
                wrong.append(name)
            if turn % 4 == offset:
                shelf.cache.drop(name)

    threads = [threading.Thread(target=work, args=(offset,)) for offset in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert weights_bytes(shelf._from_disk("e1")) == shelf.expert_bytes
    assert shelf.bank.used_bytes <= shelf.bank.capacity_bytes
