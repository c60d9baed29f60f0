"""Whatever is active, the logits are those of plain PEFT with the same adapters."""

import pytest
import torch

from adaptive_moe.experts.bank import LoraBank
from tests.experts.reference import (
    in_peft,
    layers_of,
    logits,
    peft_logits,
    peft_mixture_logits,
    random_weights,
    tiny_base,
    token_ids,
)

ARCHITECTURES = ("llama", "gpt2", "gpt_neox", "opt")
PRECISIONS = (torch.float64, torch.float32)


class World:
    """A base with three experts, in our bank and in PEFT."""

    def __init__(self, architecture: str, dtype: torch.dtype) -> None:
        self.model = tiny_base(architecture, dtype=dtype)
        layers = layers_of(self.model)
        self.experts = {
            name: random_weights(layers, seed=seed, dtype=dtype)
            for seed, name in enumerate(("e0", "e1", "e2"))
        }
        self.bank = LoraBank(self.model, layers, capacity_bytes=1 << 20, dtype=dtype)
        for name, weights in self.experts.items():
            self.bank.load(name, weights)
        self.peft = in_peft(self.model, self.experts)
        self.dtype = dtype

    def agrees(self, ours: torch.Tensor, theirs: torch.Tensor, *, factor: float = 2e-6) -> bool:
        bound = 1e-10 if self.dtype == torch.float64 else factor * theirs.abs().max().item()
        return (ours - theirs).abs().max().item() <= bound


@pytest.fixture(
    params=[(name, dtype) for name in ARCHITECTURES for dtype in PRECISIONS],
    ids=lambda pair: f"{pair[0]}-{str(pair[1])[6:]}",
)
def world(request: pytest.FixtureRequest) -> World:
    return World(*request.param)


def test_one_expert_for_all_rows_equals_peft(world: World) -> None:
    ids = token_ids(3)
    with world.bank.activate([(("e1", 1.0),)] * 3):
        ours = logits(world.model, ids)
    theirs = peft_logits(world.peft, ids, adapters=["e1"] * 3)
    assert world.agrees(ours, theirs)
    assert not world.agrees(ours, logits(world.model, ids))


def test_an_expert_per_row_equals_peft(world: World) -> None:
    ids = token_ids(4)
    with world.bank.activate([(("e0", 1.0),), (), (("e2", 1.0),), (("e0", 1.0),)]):
        ours = logits(world.model, ids)
    theirs = peft_logits(world.peft, ids, adapters=["e0", "__base__", "e2", "e0"])
    assert world.agrees(ours, theirs)


def test_a_mixture_for_all_rows_equals_the_exact_concatenation(world: World) -> None:
    ids = token_ids(2)
    with world.bank.activate([(("e0", 0.7), ("e1", 0.2), ("e2", 0.4))] * 2):
        ours = logits(world.model, ids)
    theirs = peft_mixture_logits(world.peft, ids, mixture={"e0": 0.7, "e1": 0.2, "e2": 0.4})
    assert world.agrees(ours, theirs, factor=4e-6)


def test_gates_per_row_equal_each_row_alone(world: World) -> None:
    ids = token_ids(2)
    rows = [(("e0", 0.7), ("e1", 0.3)), (("e0", 0.1), ("e1", 1.5))]
    with world.bank.activate(rows):
        ours = logits(world.model, ids)
    for row, mixture in enumerate(rows):
        theirs = peft_mixture_logits(world.peft, ids[row : row + 1], mixture=dict(mixture))
        assert world.agrees(ours[row : row + 1], theirs, factor=4e-6)


def test_different_mixtures_per_row_equal_each_row_alone(world: World) -> None:
    ids = token_ids(3)
    rows = [(("e0", 0.7), ("e1", 0.3)), (), (("e2", 0.5),)]
    with world.bank.activate(rows):
        ours = logits(world.model, ids)
    first = peft_mixture_logits(world.peft, ids[:1], mixture={"e0": 0.7, "e1": 0.3})
    last = peft_mixture_logits(world.peft, ids[2:], mixture={"e2": 0.5})
    assert world.agrees(ours[:1], first, factor=4e-6)
    assert world.agrees(ours[1:2], logits(world.model, ids[1:2]))
    assert world.agrees(ours[2:], last, factor=4e-6)


def test_gates_given_as_a_tensor_equal_gates_given_as_rows(world: World) -> None:
    ids = token_ids(2)
    gates = torch.tensor([[0.5, 0.25], [1.0, 0.0]])
    with world.bank.activate_shared(["e0", "e2"], gates):
        shared = logits(world.model, ids)
    with world.bank.activate([(("e0", 0.5), ("e2", 0.25)), (("e0", 1.0),)]):
        rows = logits(world.model, ids)
    assert world.agrees(shared, rows, factor=4e-6)


def test_gates_per_token_change_only_what_comes_after(world: World) -> None:
    ids = token_ids(1, time=6)
    gates = torch.zeros(1, 6, 1)
    gates[:, 3:] = 1.0
    with world.bank.activate_shared(["e1"], gates):
        ours = logits(world.model, ids)
    bare = logits(world.model, ids)
    assert world.agrees(ours[:, :3], bare[:, :3])
    assert not world.agrees(ours[:, 3:], bare[:, 3:])


def test_a_base_row_keeps_its_logits_beside_an_expert(world: World) -> None:
    ids = token_ids(2)
    with world.bank.activate([(("e0", 1.0),), ()]):
        ours = logits(world.model, ids)
    assert torch.equal(ours[1], logits(world.model, ids)[1])
