"""On 4-bit and 8-bit bases, packed for the processor too, the bank trains and leaves the base."""

from collections.abc import Sequence

import bitsandbytes
import pytest
import torch
from torch import nn

from adaptive_moe.experts.bank import LoraBank, Mixture
from adaptive_moe.experts.weights import LoraPair
from tests.experts.reference import (
    MODES,
    World,
    farthest,
    layers_of,
    logits,
    random_weights,
    three_experts,
    tiny_base,
    token_ids,
    tolerance,
)

IDS = token_ids(3)


def quantised(kind: str) -> nn.Module:
    model = tiny_base(wide=True)
    for layer in layers_of(model):
        old = model.get_submodule(layer.name)
        new = _nf4(old) if kind == "nf4" else _int8(old)
        parent, _, leaf = layer.name.rpartition(".")
        setattr(model.get_submodule(parent), leaf, new)
    flag = "is_loaded_in_4bit" if kind == "nf4" else "is_loaded_in_8bit"
    setattr(model, flag, True)
    return model.to("cpu").eval().requires_grad_(False)


def _nf4(old: nn.Linear) -> nn.Module:
    new = bitsandbytes.nn.Linear4bit(
        old.in_features,
        old.out_features,
        bias=False,
        quant_type="nf4",
        compute_dtype=torch.float32,
    )
    new.weight = bitsandbytes.nn.Params4bit(old.weight.data, requires_grad=False, quant_type="nf4")
    return new


def _int8(old: nn.Linear) -> nn.Module:
    new = bitsandbytes.nn.Linear8bitLt(
        old.in_features, old.out_features, bias=False, has_fp16_weights=False
    )
    new.weight = bitsandbytes.nn.Int8Params(
        old.weight.data, requires_grad=False, has_fp16_weights=False
    )
    return new


@pytest.mark.parametrize("rows", MODES.values(), ids=MODES)
def test_a_packed_layer_says_what_peft_says_to_the_same_input(rows: Sequence[Mixture]) -> None:
    """Its kernel rounds inputs to bfloat16: from layer to layer, a last bit grows."""
    model = quantised("nf4")
    world = World(model, three_experts(model))
    for name, ours, theirs in world.layer_by_layer(rows):
        assert farthest(ours, theirs) <= tolerance(theirs, rows), name
    assert torch.equal(logits(model, world.ids), world.bare)


@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_gradients_flow_through_a_quantised_base(kind: str) -> None:
    model = quantised(kind)
    layers = layers_of(model)
    bank = LoraBank(model, layers, capacity_bytes=1 << 20, dtype=torch.float32)
    weights = {
        name: LoraPair(pair.a.requires_grad_(), pair.b.requires_grad_())
        for name, pair in random_weights(layers, seed=1, ranks=(3,)).items()
    }
    bare = logits(model, IDS)
    model.train()
    with bank.activate_weights(weights):
        model(input_ids=IDS, labels=IDS, use_cache=False).loss.backward()
    assert all(pair.a.grad.abs().sum() > 0 for pair in weights.values())
    assert torch.equal(logits(model.eval(), IDS), bare)


def test_gradients_pass_layers_without_rank() -> None:
    model = quantised("nf4")
    layers = layers_of(model)
    bank = LoraBank(model, layers, capacity_bytes=1 << 20, dtype=torch.float32)
    logits(model, IDS)
    name = "model.layers.0.self_attn.v_proj"
    pair = random_weights(layers, seed=1, ranks=(3,))[name]
    pair.b.requires_grad_()
    with bank.activate_weights({name: pair}):
        loss = model(input_ids=IDS, labels=IDS, use_cache=False).loss
        (gradient,) = torch.autograd.grad(loss, pair.b)
    losses = []
    for step in (-0.1, 0.1):  # long steps: the packed kernel computes in bfloat16
        moved = LoraPair(pair.a, pair.b.detach() + step * gradient / gradient.norm())
        with torch.no_grad(), bank.activate_weights({name: moved}):
            losses.append(model(input_ids=IDS, labels=IDS).loss.item())
    assert losses[1] - losses[0] == pytest.approx(0.2 * gradient.norm().item(), rel=0.2)


def test_a_packed_layer_gives_its_input_the_gradient_of_its_own_weight() -> None:
    model = quantised("nf4")
    layer = model.get_submodule("model.layers.0.mlp.down_proj")
    bank = LoraBank(model, layers_of(model), capacity_bytes=1 << 20, dtype=torch.float32)
    with torch.no_grad():
        weight = layer(torch.eye(128)).T
    hidden = torch.randn(5, 128, generator=torch.Generator().manual_seed(0), requires_grad=True)
    with bank.activate_weights({}):
        output = layer(hidden)
    upstream = torch.randn(5, 64, generator=torch.Generator().manual_seed(1))
    output.backward(upstream)
    expected = upstream @ weight
    assert (hidden.grad - expected).abs().max() <= 0.02 * expected.abs().max()


def test_half_precision_rows_serve_a_full_precision_base() -> None:
    model = tiny_base()
    layers = layers_of(model)
    weights = random_weights(layers, seed=0)
    bank = LoraBank(model, layers, capacity_bytes=1 << 20, dtype=torch.bfloat16)
    bank.load("e0", weights)
    for rows in (
        [(("e0", 0.5),)] * 3,
        [(("e0", 1.0),), (), ()],
        [(("e0", 0.5),), (("e0", 0.7),), ()],
    ):
        with bank.activate(rows):
            ours = logits(model, IDS)
        assert ours.dtype == torch.float32
        assert ours.isfinite().all()
