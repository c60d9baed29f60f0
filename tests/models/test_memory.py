"""Bytes are counted once, and running out of memory makes room, then halves, then says so."""

import pytest
import torch
from torch import nn

from adaptive_moe.errors import InsufficientMemoryError
from adaptive_moe.models.memory import (
    device_memory,
    is_out_of_memory,
    peak_rss_bytes,
    resident_bytes,
    retry_on_out_of_memory,
)
from tests.support.tiny_models import tiny_model


def test_tied_weights_count_once():
    layer = nn.Linear(4, 3, bias=True)
    assert resident_bytes(layer) == (4 * 3 + 3) * 4
    tied = nn.ModuleList([layer, nn.Linear(4, 3, bias=False)])
    tied[1].weight = layer.weight
    assert resident_bytes(tied) == resident_bytes(layer)


def test_a_model_weighs_its_parameters_and_buffers():
    model, _ = tiny_model("gpt2")
    parts = {x.data_ptr(): x.nbytes for x in (*model.parameters(), *model.buffers())}
    assert resident_bytes(model) == sum(parts.values())


def test_the_process_has_a_peak():
    assert peak_rss_bytes() > 50 * 1024 * 1024
    assert device_memory(torch.device("cpu")) is None


def test_only_failed_allocations_are_out_of_memory():
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert is_out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"))
    assert is_out_of_memory(MemoryError())
    assert not is_out_of_memory(RuntimeError("shape mismatch"))
    assert not is_out_of_memory(ValueError("out of memory"))


class Machine:
    """Work that fits for at most `limit` items, where making room raises the limit."""

    def __init__(self, limit, *, evictable=0):
        self.limit, self.evictable, self.sizes = limit, evictable, []

    def work(self, items):
        self.sizes.append(len(items))
        if len(items) > self.limit:
            raise RuntimeError("CUDA out of memory")
        return [item * 2 for item in items]

    def make_room(self):
        if not self.evictable:
            return False
        self.evictable -= 1
        self.limit += 1
        return True


def test_room_is_made_before_the_batch_is_halved():
    machine = Machine(2, evictable=2)
    assert retry_on_out_of_memory(machine.work, [1, 2, 3, 4], make_room=machine.make_room) == [
        2,
        4,
        6,
        8,
    ]
    assert machine.sizes == [4, 4, 4]


def test_without_room_the_batch_is_halved_in_order():
    machine = Machine(1)
    assert retry_on_out_of_memory(machine.work, [1, 2, 3], make_room=machine.make_room) == [2, 4, 6]


def test_one_item_that_does_not_fit_is_a_clear_error():
    machine = Machine(0)
    with pytest.raises(InsufficientMemoryError, match="single prompt"):
        retry_on_out_of_memory(machine.work, [1, 2], make_room=machine.make_room)


def test_other_errors_pass_unchanged():
    def work(items):
        raise RuntimeError("shape mismatch")

    with pytest.raises(RuntimeError, match="shape mismatch"):
        retry_on_out_of_memory(work, [1], make_room=lambda: True)


def test_the_failed_attempt_is_let_go_before_the_next():
    alive = []

    class Block:
        def __del__(self):
            alive.remove(self.name)

    def work(items):
        block = Block()
        block.name = len(items)
        assert not alive
        alive.append(block.name)
        if len(items) > 1:
            raise MemoryError
        return list(items)

    assert retry_on_out_of_memory(work, [1, 2], make_room=lambda: False) == [1, 2]
