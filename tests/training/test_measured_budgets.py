"""What is measured before ranks are shared out: the bits of answers, the spread of inputs."""

import math
from dataclasses import replace

import pytest
import torch

from adaptive_moe.models.linear_layers import LinearLayer
from adaptive_moe.training.capacity import answer_bits, fitting_rank
from adaptive_moe.training.encoding import encode_examples
from adaptive_moe.training.variance import variance_importance, variance_shares
from tests.training.reference import reference_loss


def test_the_rank_is_the_smallest_that_holds_the_bits():
    layers = [LinearLayer(f"l.{i}.up", "up", i, 4, 6) for i in range(2)]  # 20 parameters a rank
    assert fitting_rank(100.0, layers, least=1, most=64) == 3
    assert fitting_rank(80.0, layers, least=1, most=64) == 2
    assert fitting_rank(1.0, layers, least=4, most=64) == 4
    assert fitting_rank(1e6, layers, least=4, most=64) == 64


def test_the_bits_are_the_bases_loss_on_one_example_of_each_fact(llama, make_bank, examples, quick):
    again = [replace(example, answer="other", line=99) for example in examples]
    encoded = encode_examples(llama, examples).examples
    expected = sum(float(reference_loss(llama, each, {})) for each in encoded) / math.log(2)
    found = answer_bits(llama, make_bank(llama), [*examples, *again], quick)
    assert found == pytest.approx(expected, rel=1e-5)


def test_shares_are_those_of_the_principal_components():
    inputs = torch.tensor([[3.0, 0.0], [-3.0, 0.0], [0.0, 1.0], [0.0, -1.0]]) + 5.0
    assert variance_shares(inputs).tolist() == pytest.approx([0.9, 0.1])


def test_components_are_counted_over_all_layers(llama, make_bank, examples):
    found = variance_importance(
        llama, llama.layers, examples, bank=make_bank(llama), reference_rank=4
    )
    assert sum(found.values()) == pytest.approx(4 * len(llama.layers), abs=3)
    by_kind = {(layer.depth, layer.kind): found[layer.name] for layer in llama.layers}
    assert by_kind[0, "query"] == by_kind[0, "key"] == by_kind[0, "value"]  # one input for all
    assert len(set(found.values())) > 1
