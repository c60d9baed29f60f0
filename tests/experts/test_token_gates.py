"""Every token and layer gates the experts by how far each would move it."""

import pytest
import torch

from adaptive_moe.experts.bank import LoraBank
from tests.experts.reference import layers_of, logits, random_weights, tiny_base, token_ids

ARCHITECTURES = ("llama", "gpt2", "opt")


def world(architecture="llama"):
    model = tiny_base(architecture)
    layers = layers_of(model)
    bank = LoraBank(model, layers, capacity_bytes=1 << 20, dtype=torch.float32)
    experts = {f"e{seed}": random_weights(layers, seed=seed) for seed in range(3)}
    for name, weights in experts.items():
        bank.load(name, weights)
    return model, bank, experts


def slowly(model, experts, ids, mixture):
    """The definition, one layer, token and expert at a time, through plain forward hooks."""

    def gated(name):
        def hook(_module, arguments, output):
            hidden = arguments[0].double()
            present = [(key, w) for key, w in mixture if name in experts[key]]
            moved = [
                (hidden @ experts[key][name].a.double().T) @ experts[key][name].b.double()
                for key, _ in present
            ]
            pulls = torch.stack(
                [w * move.norm(dim=-1) for (_, w), move in zip(present, moved, strict=True)]
            )
            gates = sum(w for _, w in present) * pulls / pulls.sum(dim=0)
            change = sum(gate[..., None] * move for gate, move in zip(gates, moved, strict=True))
            return output + change.to(output.dtype)

        return hook

    names = {name for key, _ in mixture for name in experts[key]}
    handles = [model.get_submodule(name).register_forward_hook(gated(name)) for name in names]
    try:
        return logits(model, ids)
    finally:
        for handle in handles:
            handle.remove()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_gates_are_those_of_the_definition(architecture):
    model, bank, experts = world(architecture)
    rows = [(("e0", 0.6), ("e1", 0.4)), (("e2", 0.5), ("e1", 0.3), ("e0", 0.2)), (("e1", 1.0),)]
    ids = token_ids(3)
    with bank.activate_by_token(rows):
        ours = logits(model, ids)
    for row, mixture in enumerate(rows):
        theirs = slowly(model, experts, ids[row : row + 1], mixture)
        assert (ours[row : row + 1] - theirs).abs().max() <= 1e-5 * theirs.abs().max()


def test_a_single_expert_is_not_gated():
    model, bank, _ = world()
    ids = token_ids(2)
    with bank.activate_by_token([(("e0", 1.0),), ()]):
        ours = logits(model, ids)
    with bank.activate([(("e0", 1.0),), ()]):
        plain = logits(model, ids)
    torch.testing.assert_close(ours, plain, atol=1e-5, rtol=0)


def test_an_expert_that_says_nothing_leaves_the_token_to_the_other():
    model, bank, _ = world()
    layers = layers_of(model)
    bank.load("all", random_weights(layers, seed=7, ranks=(3,)))
    silent = random_weights(layers, seed=8, ranks=(2,))
    for pair in silent.values():
        pair.b.zero_()
    bank.load("silent", silent)
    ids = token_ids(1)
    with bank.activate_by_token([(("all", 0.25), ("silent", 0.75))]):
        ours = logits(model, ids)
    with bank.activate([(("all", 1.0),)]):
        alone = logits(model, ids)
    torch.testing.assert_close(ours, alone, atol=1e-5, rtol=0)


def test_parts_of_a_mixture_are_led_by_the_whole():
    model, bank, _ = world()
    ids = token_ids(1)
    whole = (("e0", 0.5), ("e1", 0.5))
    with bank.activate_by_token([whole]):
        alone = logits(model, ids)
    with bank.activate_by_token([whole, (("e0", 0.5),), whole, ()], leader=0):
        led = logits(model, ids.expand(4, -1))
    torch.testing.assert_close(led[0], alone[0], atol=1e-5, rtol=0)
    torch.testing.assert_close(led[2], alone[0], atol=1e-5, rtol=0)
    torch.testing.assert_close(led[3], logits(model, ids)[0], atol=1e-5, rtol=0)
    assert not torch.allclose(led[1], led[0], atol=1e-3)


def test_the_batch_changes_nothing():
    model, bank, _ = world()
    rows = [(("e0", 0.6), ("e1", 0.4)), (("e2", 1.0),), (), (("e2", 0.5), ("e0", 0.5))]
    ids = token_ids(4)
    with bank.activate_by_token(rows):
        together = logits(model, ids)
    for row, mixture in enumerate(rows):
        with bank.activate_by_token([mixture]):
            alone = logits(model, ids[row : row + 1])
        torch.testing.assert_close(together[row : row + 1], alone, atol=1e-5, rtol=0)


def test_half_precision_rows_serve_a_full_precision_base():
    model, _, experts = world()
    bank = LoraBank(model, layers_of(model), capacity_bytes=1 << 20, dtype=torch.bfloat16)
    for name, weights in experts.items():
        bank.load(name, weights)
    with bank.activate_by_token([(("e0", 0.6), ("e1", 0.4))]):
        ours = logits(model, token_ids(1))
    theirs = slowly(model, experts, token_ids(1), (("e0", 0.6), ("e1", 0.4)))
    assert (ours - theirs).abs().max() <= 0.05 * theirs.abs().max()
