"""The bank leaves the base alone, owns exactly its ranges, and says when it is full."""

import random
import signal
import threading
import types

import pytest
import torch
from torch import nn
from torch.nn.functional import pad

from adaptive_moe.errors import (
    AdapterFormatError,
    BankFullError,
    ConfigurationError,
    ExpertError,
    UnknownExpertError,
)
from adaptive_moe.experts.bank import LoraBank
from adaptive_moe.experts.weights import LoraPair, LoraStack, LoraWeights, weights_bytes
from tests.experts.reference import layers_of, logits, random_weights, tiny_base, token_ids

IDS = token_ids(2)
ALONE = [(("e0", 1.0),)] * 2


def bank_of(model: nn.Module, *, rows: int = 33) -> LoraBank:
    row_bytes = sum(layer.cost for layer in layers_of(model)) * 4
    return LoraBank(model, layers_of(model), capacity_bytes=rows * row_bytes, dtype=torch.float32)


def everywhere(model: nn.Module, rank: int, *, seed: int = 0) -> LoraWeights:
    return random_weights(layers_of(model), seed=seed, ranks=(rank,))


@pytest.fixture
def model() -> nn.Module:
    return tiny_base()


@pytest.fixture
def bank(model: nn.Module) -> LoraBank:
    bank = bank_of(model)
    bank.load("e0", everywhere(model, 4))
    return bank


def test_base_logits_stay_bit_identical_whatever_happened(model: nn.Module) -> None:
    bare = logits(model, IDS)
    bank = bank_of(model)
    assert torch.equal(logits(model, IDS), bare)
    for seed, name in enumerate(("e0", "e1")):
        bank.load(name, everywhere(model, 4, seed=seed))
        with bank.activate([((name, 1.0),)] * 2):
            assert not torch.equal(logits(model, IDS), bare)
    with bank.activate([(("e0", 0.5), ("e1", 0.5)), (("e1", 1.0),)]):
        logits(model, IDS)
    bank.evict("e0")
    bank.evict("e1")
    assert torch.equal(logits(model, IDS), bare)
    with bank.activate([(), ()]):
        assert torch.equal(logits(model, IDS), bare)
    bank.close()
    assert torch.equal(logits(model, IDS), bare)


def test_nothing_is_registered_on_the_model(model: nn.Module) -> None:
    before = [name for name, _ in model.named_modules()], list(model.state_dict())
    bank = bank_of(model)
    bank.load("e0", everywhere(model, 4))
    with bank.activate(ALONE):
        during = [name for name, _ in model.named_modules()], list(model.state_dict())
        assert all(not module._forward_hooks for module in model.modules())
    assert before == during
    assert not any("forward" in module.__dict__ for module in model.modules())


@pytest.mark.parametrize("failure", [RuntimeError, KeyboardInterrupt, GeneratorExit])
def test_the_bank_is_idle_after_a_failure(
    model: nn.Module, bank: LoraBank, failure: type[BaseException]
) -> None:
    bare = logits(model, IDS)
    with pytest.raises(failure), bank.activate(ALONE):
        raise failure
    assert torch.equal(logits(model, IDS), bare)
    with bank.activate(ALONE):
        assert not torch.equal(logits(model, IDS), bare)


def test_a_layer_without_rank_is_not_touched(model: nn.Module) -> None:
    bank = bank_of(model)
    name = "model.layers.1.mlp.up_proj"
    bank.load("e0", {name: everywhere(model, 4)[name]})
    with bank.activate([(("e0", 1.0),), ()]):
        touched = [key for key, module in model.named_modules() if "forward" in module.__dict__]
    assert touched == [name]


def test_a_forward_of_the_instance_is_used_and_put_back(model: nn.Module) -> None:
    layer = model.get_submodule("model.layers.0.mlp.up_proj")
    calls = []

    def hooked(self: nn.Linear, hidden: torch.Tensor) -> torch.Tensor:
        calls.append(hidden.shape)
        return nn.Linear.forward(self, hidden)

    layer.forward = types.MethodType(hooked, layer)
    theirs = layer.forward
    bank = bank_of(model)
    bank.load("e0", everywhere(model, 4))
    with bank.activate(ALONE):
        logits(model, IDS)
    assert calls
    assert layer.__dict__["forward"] is theirs


def test_nesting_is_refused_and_leaves_the_outer_activation(
    model: nn.Module, bank: LoraBank
) -> None:
    with bank.activate(ALONE):
        outer = logits(model, IDS)
        with pytest.raises(ExpertError, match="already active"), bank.activate([()]):
            pass
        assert torch.equal(logits(model, IDS), outer)


def test_another_thread_waits_for_the_running_activation(model: nn.Module, bank: LoraBank) -> None:
    bare, seen = logits(model, IDS), []

    def ask_the_base() -> None:
        with bank.activate([(), ()]):
            seen.append(logits(model, IDS))

    with bank.activate(ALONE):
        other = threading.Thread(target=ask_the_base)
        other.start()
        other.join(timeout=0.2)
        assert not seen
    other.join(timeout=10)
    assert torch.equal(seen[0], bare)


def test_an_expert_in_use_is_evicted_only_afterwards(model: nn.Module, bank: LoraBank) -> None:
    with bank.activate(ALONE):
        other = threading.Thread(target=bank.evict, args=("e0",))
        other.start()
        other.join(timeout=0.2)
        assert "e0" in bank.resident
    other.join(timeout=10)
    assert "e0" not in bank.resident


def test_an_expert_can_be_loaded_beside_an_active_one(model: nn.Module, bank: LoraBank) -> None:
    with bank.activate(ALONE):
        before = logits(model, IDS)
        bank.load("e1", everywhere(model, 8, seed=1))
        assert torch.equal(logits(model, IDS), before)


def test_bytes_are_rows_times_features_times_the_size_of_a_number(model: nn.Module) -> None:
    features = sum(layer.in_features + layer.out_features for layer in layers_of(model))
    bank = LoraBank(
        model, layers_of(model), capacity_bytes=10 * features * 4 + 3, dtype=torch.float32
    )
    assert bank.allocated_bytes == 10 * features * 4
    weights = random_weights(layers_of(model), seed=0)
    bank.load("e0", weights)
    assert bank.used_bytes == bank.resident["e0"] == weights_bytes(weights)
    bank.evict("e0")
    assert bank.used_bytes == 0


def test_a_full_bank_says_so_and_keeps_what_it_has(model: nn.Module) -> None:
    bank = bank_of(model, rows=9)
    bank.load("e0", everywhere(model, 5))
    with pytest.raises(BankFullError, match="3 free rank rows"):
        bank.load("e1", everywhere(model, 4))
    bank.load("e2", everywhere(model, 3))
    assert set(bank.resident) == {"e0", "e2"}


def test_gaps_are_closed_before_giving_up(model: nn.Module) -> None:
    bank = bank_of(model, rows=13)
    for name in ("e0", "e1", "e2", "e3"):
        bank.load(name, everywhere(model, 3, seed=int(name[1])))
    with bank.activate([(("e3", 1.0),), (("e1", 1.0),)]):
        before = logits(model, IDS)
    bank.evict("e0")
    bank.evict("e2")
    large = everywhere(model, 6, seed=9)
    bank.load("large", large)
    with bank.activate([(("e3", 1.0),), (("e1", 1.0),)]):
        assert torch.equal(logits(model, IDS), before)
    with bank.activate([(("large", 1.0),)] * 2):
        pooled = logits(model, IDS)
    with bank.activate_weights(large):
        assert torch.equal(logits(model, IDS), pooled)


def test_padding_and_stale_rows_contribute_nothing(model: nn.Module) -> None:
    bank = bank_of(model)
    weights = everywhere(model, 3)
    bank.load(
        "huge",
        {
            name: LoraPair(torch.full_like(pair.a, 1e30), torch.full_like(pair.b, 1e30))
            for name, pair in everywhere(model, 20).items()
        },
    )
    bank.evict("huge")
    bank.load("e0", weights)
    with bank.activate_weights(weights):
        expected = logits(model, IDS)
    with bank.activate([(("e0", 1.0),), ()]):
        assert torch.allclose(logits(model, IDS)[0], expected[0], atol=1e-5)


def test_a_gate_of_zero_is_the_base(model: nn.Module, bank: LoraBank) -> None:
    bare = logits(model, IDS)
    with bank.activate([(("e0", 0.0),)] * 2):
        assert torch.equal(logits(model, IDS), bare)


def test_wrong_use_is_told_apart(model: nn.Module, bank: LoraBank) -> None:
    pair = LoraPair(torch.zeros(2, 5), torch.zeros(2, 32))
    name = "model.layers.0.self_attn.q_proj"
    with pytest.raises(AdapterFormatError, match=r"expected \(rank, 32\)"):
        bank.load("e1", {name: pair})
    with pytest.raises(AdapterFormatError, match="no adaptable layer"):
        bank.load("e1", {"lm_head": pair})
    with pytest.raises(ExpertError, match="already in the bank"):
        bank.load("e0", everywhere(model, 4))
    with pytest.raises(UnknownExpertError, match="load it first"), bank.activate([(("x", 1.0),)]):
        pass
    with pytest.raises(ConfigurationError, match="nan"), bank.activate([(("e0", float("nan")),)]):
        pass
    with (
        bank.activate([(("e0", 1.0),), (), ()]),
        pytest.raises(ConfigurationError, match="3 rows"),
    ):
        logits(model, IDS)
    with (
        bank.activate_shared(["e0"], torch.ones(2, 5, 1)),
        pytest.raises(ConfigurationError, match="5 tokens"),
    ):
        logits(model, IDS)
    with pytest.raises(ConfigurationError, match=r"cache\.device_bytes"):
        LoraBank(model, layers_of(model), capacity_bytes=1000, dtype=torch.float32)


def test_gradients_reach_the_weights_and_not_the_base(model: nn.Module, bank: LoraBank) -> None:
    weights = {
        name: LoraPair(pair.a.requires_grad_(), pair.b.requires_grad_())
        for name, pair in everywhere(model, 2, seed=5).items()
    }
    model.train()
    with bank.activate_weights(weights):
        loss = model(input_ids=IDS, labels=IDS, use_cache=False).loss
        loss.backward()
    assert all(pair.a.grad.abs().sum() > 0 for pair in weights.values())
    assert all(pair.b.grad.abs().sum() > 0 for pair in weights.values())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_one_gradient_step_is_that_of_the_explicit_sum(model: nn.Module, bank: LoraBank) -> None:
    layer = model.get_submodule("model.layers.0.mlp.up_proj")
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randn(2, 3, 32, generator=generator, requires_grad=True)
    pair = LoraPair(
        torch.randn(2, 32, generator=generator).requires_grad_(),
        torch.randn(2, 48, generator=generator).requires_grad_(),
    )
    with bank.activate_weights({"model.layers.0.mlp.up_proj": pair}):
        ours = torch.autograd.grad(layer(hidden).square().sum(), (hidden, pair.a, pair.b))
    explicit = hidden @ layer.weight.T + (hidden @ pair.a.T) @ pair.b
    theirs = torch.autograd.grad(explicit.square().sum(), (hidden, pair.a, pair.b))
    for mine, reference in zip(ours, theirs, strict=True):
        assert torch.allclose(mine, reference, rtol=1e-5, atol=1e-4)


def test_every_row_of_a_stack_has_weights_of_its_own(model: nn.Module, bank: LoraBank) -> None:
    """The second row lacks a module and has a lesser rank in the others, filled up with zeros."""
    first, second = everywhere(model, 4, seed=5), everywhere(model, 2, seed=6)
    lacking = next(iter(second))
    del second[lacking]
    nothing = LoraPair(torch.zeros(2, first[lacking].a.shape[1]), torch.zeros(2, 32))
    pairs = {name: (pair, second.get(name, nothing)) for name, pair in first.items()}
    stack = {
        name: LoraStack(
            torch.stack([own.a, pad(other.a, (0, 0, 0, 2))]),
            torch.stack([own.b, pad(other.b, (0, 0, 0, 2))]),
        )
        for name, (own, other) in pairs.items()
    }
    with bank.activate_stack(stack):
        found = logits(model, IDS)
    for row, weights in enumerate((first, second)):
        with bank.activate_weights(weights):
            assert torch.allclose(found[row], logits(model, IDS)[row], atol=1e-5)


def test_a_stack_of_another_shape_is_refused(model: nn.Module, bank: LoraBank) -> None:
    wrong = LoraStack(torch.zeros(3, 2, 5), torch.zeros(3, 2, 32))
    with (
        pytest.raises(AdapterFormatError, match=r"expected \(row, rank, 32\)"),
        bank.activate_stack({"model.layers.0.self_attn.q_proj": wrong}),
    ):
        pass


def test_inference_mode_does_not_leak_into_training(model: nn.Module) -> None:
    with torch.inference_mode():
        bank = bank_of(model)
        bank.load("e0", everywhere(model, 2))
    hidden = torch.randn(2, 3, 32, requires_grad=True)
    with bank.activate([(("e0", 0.5),)] * 2):
        layer = model.get_submodule("model.layers.0.mlp.up_proj")
        layer(hidden).sum().backward()
    assert hidden.grad is not None


# Python drops an interrupt that arrives inside a weak reference's callback, with this warning.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_ctrl_c_at_any_moment_leaves_the_base(model: nn.Module, bank: LoraBank) -> None:
    bare, chance, heard = logits(model, IDS), random.Random(2), 0  # noqa: S311
    main = threading.main_thread().ident
    assert main is not None
    for _ in range(40):
        alarm = threading.Timer(
            chance.uniform(0.0, 0.01), signal.pthread_kill, (main, signal.SIGINT)
        )
        try:
            alarm.start()
            while alarm.is_alive():
                with bank.activate([(("e0", 1.0),), ()]):
                    pass
        except KeyboardInterrupt:
            heard += 1
        alarm.join()
        assert torch.equal(logits(model, IDS), bare)
    assert heard > 0
    with bank.activate(ALONE):
        assert not torch.equal(logits(model, IDS), bare)
