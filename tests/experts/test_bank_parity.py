"""Whatever is active, the logits are those of plain PEFT with the same adapters."""

from collections.abc import Sequence
from dataclasses import dataclass

import pytest
import torch

from adaptive_moe.experts.bank import Mixture
from tests.experts.reference import (
    GATED_MODES,
    MODES,
    World,
    farthest,
    logits,
    three_experts,
    tiny_base,
    tolerance,
)
from tests.support.tiny_models import ARCHITECTURES

ALL_MODES = MODES | GATED_MODES
in_every_mode = pytest.mark.parametrize("rows", ALL_MODES.values(), ids=ALL_MODES)


@dataclass(frozen=True)
class Worlds:
    """One base and its experts in float32, and the same numbers in float64."""

    single: World
    double: World

    def __iter__(self):
        return iter((self.single, self.double))


@pytest.fixture(scope="module", params=ARCHITECTURES)
def worlds(request: pytest.FixtureRequest) -> Worlds:
    single = tiny_base(request.param)
    double = tiny_base(request.param, dtype=torch.float64)
    experts = three_experts(single)
    return Worlds(World(single, experts), World(double, experts))


@in_every_mode
def test_in_float64_the_logits_are_those_of_peft(worlds: Worlds, rows: Sequence[Mixture]) -> None:
    world = worlds.double
    ours, theirs = world.ours(rows), world.theirs(rows)
    assert ours.dtype == torch.float64
    assert farthest(ours, theirs) <= tolerance(theirs, rows)
    assert farthest(ours, world.bare) > 0.1


@in_every_mode
def test_in_float32_they_are_too_and_no_further_from_float64(
    worlds: Worlds, rows: Sequence[Mixture]
) -> None:
    ours, theirs = worlds.single.ours(rows), worlds.single.theirs(rows)
    exact = worlds.double.theirs(rows)
    assert farthest(ours, theirs) <= tolerance(theirs, rows)
    assert (ours - exact).norm() <= 2 * (theirs - exact).norm()


def test_gates_given_as_a_tensor_equal_gates_given_as_rows(worlds: Worlds) -> None:
    rows = [(("e0", 0.5), ("e2", 0.25)), (("e0", 1.0),)]
    for world in worlds:
        with world.bank.activate_shared(["e0", "e2"], torch.tensor([[0.5, 0.25], [1.0, 0.0]])):
            shared = logits(world.model, world.ids[:2])
        assert farthest(shared, world.ours(rows)) <= tolerance(shared, rows)


def test_gates_per_token_change_only_what_comes_after(worlds: Worlds) -> None:
    gates = torch.zeros(1, 7, 1)
    gates[:, 3:] = 1.0
    rows = [(("e1", 1.0),)]
    for world in worlds:
        with world.bank.activate_shared(["e1"], gates):
            ours = logits(world.model, world.ids[:1])
        bare = logits(world.model, world.ids[:1])
        assert farthest(ours[:, :3], bare[:, :3]) <= tolerance(bare, rows)
        assert farthest(ours[:, 3:], bare[:, 3:]) > 0.1


def test_a_base_row_keeps_its_logits_beside_an_expert(worlds: Worlds) -> None:
    for world in worlds:
        ours = world.ours([(("e0", 1.0),), (), (("e1", 0.5),), ()])
        assert torch.equal(ours[1], world.bare[1])
        assert torch.equal(ours[3], world.bare[3])
