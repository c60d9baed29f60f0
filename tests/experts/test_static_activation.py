"""Static rows say what any activation says, from functions that stay and memory that is bounded."""

import pytest
import torch
from torch import nn

from adaptive_moe.errors import ConfigurationError
from adaptive_moe.experts.bank import LoraBank
from tests.experts.reference import (
    GATED_MODES,
    MODES,
    farthest,
    layers_of,
    logits,
    random_weights,
    three_experts,
    tiny_base,
    token_ids,
    tolerance,
)

IDS = token_ids(4)
LARGE = 1 << 20
ROW_BYTES = 4 * sum(layer.cost for layer in layers_of(tiny_base()))


def bank_of(model: nn.Module, *, capacity_bytes: int = LARGE) -> LoraBank:
    bank = LoraBank(model, layers_of(model), capacity_bytes=capacity_bytes, dtype=torch.float32)
    for name, weights in three_experts(model).items():
        bank.load(name, weights)
    return bank


@pytest.fixture
def model() -> nn.Module:
    return tiny_base()


@pytest.fixture
def bank(model: nn.Module) -> LoraBank:
    return bank_of(model)


def static_logits(model, bank, rows):
    with bank.activate(rows, static=True):
        return logits(model, IDS[: len(rows)])


def forwards(model, bank, rows):
    with bank.activate(rows, static=True):
        return {name: model.get_submodule(name).forward for name in bank_layers(model)}


def bank_layers(model):
    return [layer.name for layer in layers_of(model)]


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gpt_neox", "opt", "bloom"])
def test_static_rows_say_what_other_activations_say(architecture: str) -> None:
    model = tiny_base(architecture)
    bank = bank_of(model)
    for rows in (MODES | GATED_MODES).values():
        with bank.activate(rows):
            expected = logits(model, IDS)
        found = static_logits(model, bank, rows)
        assert farthest(found, expected) <= 2 * tolerance(expected, rows)


def test_nothing_of_the_last_experts_is_left(model: nn.Module, bank: LoraBank) -> None:
    """In half of the layers only one of the two has rank."""
    names = bank_layers(model)
    everywhere = random_weights(layers_of(model), seed=9, ranks=(8,))
    bank.load("half", {name: everywhere[name] for name in names[::2]})
    bank.load("other", {name: everywhere[name] for name in names[1::2]})
    for name in ("half", "other", "half"):
        rows = [((name, 1.0),)] * 4
        with bank.activate(rows):
            expected = logits(model, IDS)
        found = static_logits(model, bank, rows)
        assert farthest(found, expected) <= 2 * tolerance(expected, rows)


def test_without_experts_it_is_the_bare_model(model: nn.Module, bank: LoraBank) -> None:
    bare = logits(model, IDS)
    static_logits(model, bank, MODES["an expert per row"])
    with bank.activate([()] * 4, static=True):
        assert not any("forward" in module.__dict__ for module in model.modules())
        assert torch.equal(logits(model, IDS), bare)


def test_every_expert_is_reached_through_the_same_functions(
    model: nn.Module, bank: LoraBank
) -> None:
    first = forwards(model, bank, MODES["one expert"])
    assert first == forwards(model, bank, MODES["an expert per row"])
    bank.evict("e1")
    assert first == forwards(model, bank, [(("e2", 0.5),)] * 4)


def test_another_batch_or_a_larger_rank_has_functions_of_its_own(
    model: nn.Module, bank: LoraBank
) -> None:
    bank.load("wide", random_weights(layers_of(model), seed=5, ranks=(9,)))
    first = forwards(model, bank, MODES["one expert"])
    for rows in (MODES["one expert"][:3], [(("wide", 1.0),)] * 4):
        assert not set(first.values()) & set(forwards(model, bank, rows).values())


def test_bytes_are_batch_times_padded_rank_times_the_bytes_of_a_row(
    model: nn.Module, bank: LoraBank
) -> None:
    pools = bank.allocated_bytes
    static_logits(model, bank, [(("e0", 1.0),)] * 3)  # rank 8 at most
    assert bank.allocated_bytes == pools + 3 * 8 * ROW_BYTES
    static_logits(model, bank, [(("e1", 1.0),)] * 3)
    assert bank.allocated_bytes == pools + 3 * 8 * ROW_BYTES
    static_logits(model, bank, [(("e0", 1.0),)])
    assert bank.allocated_bytes == pools + 4 * 8 * ROW_BYTES


def test_sizes_long_unused_give_back_their_memory_and_keep_their_functions(
    model: nn.Module,
) -> None:
    bank = bank_of(model, capacity_bytes=5 * 8 * ROW_BYTES)
    pools = bank.allocated_bytes
    first = forwards(model, bank, [(("e0", 1.0),)] * 2)
    for batch, held in ((1, 2 + 1), (3, 1 + 3), (6, 6)):  # five at most, or the one in use
        with bank.activate([(("e0", 1.0),)] * batch, static=True):
            assert bank.allocated_bytes == pools + held * 8 * ROW_BYTES
    rows = [(("e1", 1.0),), (("e2", 0.5),)]
    assert forwards(model, bank, rows) == first
    with bank.activate(rows):
        expected = logits(model, IDS[:2])
    assert farthest(static_logits(model, bank, rows), expected) <= 2 * tolerance(expected, rows)


def test_a_forward_hooked_in_between_is_called_too(model: nn.Module, bank: LoraBank) -> None:
    rows = MODES["one expert"]
    before = static_logits(model, bank, rows)
    layer, calls = model.get_submodule(bank_layers(model)[0]), []

    def hooked(hidden: torch.Tensor) -> torch.Tensor:
        calls.append(hidden.shape)
        return type(layer).forward(layer, hidden)

    layer.forward = hooked
    assert torch.equal(static_logits(model, bank, rows), before)
    assert calls
    assert layer.__dict__["forward"] is hooked


def test_other_rows_than_planned_are_refused(model: nn.Module, bank: LoraBank) -> None:
    rows = [(("e0", 1.0),)] * 3
    with bank.activate(rows, static=True), pytest.raises(ConfigurationError, match="3 rows"):
        logits(model, IDS)


def test_closing_gives_the_memory_back(model: nn.Module, bank: LoraBank) -> None:
    bare = logits(model, IDS)
    static_logits(model, bank, MODES["one expert"])
    bank.close()
    assert bank.allocated_bytes == 0
    assert torch.equal(logits(model, IDS), bare)
