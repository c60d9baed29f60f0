"""On nf4 and int8 bases of every architecture, the bank says what plain PEFT says.

An int8 layer rounds its input to 255 steps. Two ways to the same sum differ in the last bit, and
once in some thousand inputs that bit moves one to the next step, which every later layer sees. So
the whole model is compared where that cannot happen, with float64 around the int8 layers, and in
float32, which is what serves, every layer is compared on the input that it really got.
"""

import copy
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch
from torch import nn

from adaptive_moe.experts.bank import Mixture
from adaptive_moe.models.linear_layers import census
from adaptive_moe.models.loading import load_language_model
from tests.experts.reference import (
    MODES,
    World,
    farthest,
    logits,
    three_experts,
    tolerance,
)
from tests.support.tiny_models import ARCHITECTURES, save_tiny

# transformers and bitsandbytes warn about themselves while they quantise.
pytestmark = pytest.mark.filterwarnings("ignore")

DENSE = {"falcon"}  # transformers replaces nn.Linear and Conv1D, but not what inherits from them
QUANTISED = [name for name in ARCHITECTURES if name not in DENSE]

bitsandbytes = logging.getLogger("bitsandbytes.autograd._functions")

in_every_mode = pytest.mark.parametrize("rows", MODES.values(), ids=MODES)


@pytest.fixture(autouse=True, scope="module")
def _quiet() -> Iterator[None]:
    """Every int8 product logs a warning, which takes longer than the product."""
    before = bitsandbytes.level
    bitsandbytes.setLevel(logging.ERROR)
    yield
    bitsandbytes.setLevel(before)


def loaded(folder: Path, quantization: str) -> nn.Module:
    return load_language_model(str(folder), quantization=quantization, device="cpu").model


def kinds(model: nn.Module) -> set[str]:
    return {type(model.get_submodule(layer.name)).__name__ for layer in census(model)}


@pytest.fixture(scope="module", params=QUANTISED)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def nf4(folder: Path) -> World:
    model = loaded(folder, "nf4")
    assert kinds(model) == {"Linear4bit"}
    return World(model, three_experts(model))


@pytest.fixture(scope="module")
def int8(folder: Path) -> World:
    model = loaded(folder, "int8")
    assert kinds(model) == {"Linear8bitLt"}
    return World(model, three_experts(model))


@pytest.fixture(scope="module")
def int8_in_float64(int8: World) -> World:
    model = copy.deepcopy(int8.model)
    nn.Module.to(model, torch.float64)  # transformers' own `to` refuses
    return World(model, three_experts(model))


@in_every_mode
def test_on_an_nf4_base_the_logits_are_those_of_peft(nf4: World, rows: Sequence[Mixture]) -> None:
    ours, theirs = nf4.ours(rows), nf4.theirs(rows)
    assert farthest(ours, theirs) <= tolerance(theirs, rows)
    assert farthest(ours, nf4.bare) > 0.1
    assert torch.equal(logits(nf4.model, nf4.ids), nf4.bare)


@in_every_mode
def test_with_float64_around_int8_layers_they_are_too(
    int8_in_float64: World, rows: Sequence[Mixture]
) -> None:
    world = int8_in_float64
    ours, theirs = world.ours(rows), world.theirs(rows)
    assert ours.dtype == torch.float64
    assert farthest(ours, theirs) <= tolerance(theirs, rows)
    assert farthest(ours, world.bare) > 0.1
    assert torch.equal(logits(world.model, world.ids), world.bare)


@in_every_mode
def test_an_int8_layer_in_float32_says_what_peft_says_to_the_same_input(
    int8: World, rows: Sequence[Mixture]
) -> None:
    for name, ours, theirs in int8.layer_by_layer(rows):
        assert ours.dtype == torch.float32
        assert farthest(ours, theirs) <= tolerance(theirs, rows), name
    assert torch.equal(logits(int8.model, int8.ids), int8.bare)


@pytest.mark.parametrize("quantization", ["nf4", "int8"])
@pytest.mark.parametrize("architecture", DENSE)
def test_what_is_not_compared_here_has_no_quantised_layer(
    architecture: str, quantization: str, tmp_path: Path
) -> None:
    found = kinds(loaded(save_tiny(architecture, tmp_path), quantization))
    assert not found & {"Linear4bit", "Linear8bitLt"}
