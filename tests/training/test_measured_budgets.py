"""What is measured before ranks are shared out: the bits of answers, the spread of inputs."""

import math
from dataclasses import replace

import pytest
import torch

from adaptive_moe.errors import TrainingError
from adaptive_moe.experts.weights import LoraPair
from adaptive_moe.models.linear_layers import LinearLayer, upper_blocks
from adaptive_moe.training.capacity import answer_bits, fitting_rank
from adaptive_moe.training.encoding import encode_examples
from adaptive_moe.training.ranks import plan_ranks
from adaptive_moe.training.truncation import singular_values, truncation_importance
from adaptive_moe.training.variance import variance_importance, variance_shares
from tests.training.reference import reference_loss


@pytest.mark.parametrize(("blocks", "share", "kept"), [(25, 0.28, 7), (4, 0.5, 2), (3, 0.5, 2)])
def test_a_share_of_the_blocks_is_rounded_up(blocks, share, kept):
    layers = [LinearLayer(f"l.{i}.up", "up", i, 4, 6) for i in range(blocks)]
    assert [each.depth for each in upper_blocks(layers, share)] == [*range(blocks - kept, blocks)]


def test_the_rank_is_the_smallest_that_holds_the_bits():
    layers = [LinearLayer(f"l.{i}.up", "up", i, 4, 6) for i in range(2)]  # 20 parameters a rank
    assert fitting_rank(100.0, layers, least=1, most=64) == 3
    assert fitting_rank(80.0, layers, least=1, most=64) == 2
    assert fitting_rank(1.0, layers, least=4, most=64) == 4
    assert fitting_rank(1e6, layers, least=4, most=64) == 64


def test_the_bits_are_the_loss_on_one_example_of_each_answer(llama, make_bank, examples, quick):
    again = [replace(example, prompt=(("user", "other"),), line=99) for example in examples]
    encoded = encode_examples(llama, examples).examples
    expected = sum(float(reference_loss(llama, each, {})) for each in encoded) / math.log(2)
    found = answer_bits(llama, make_bank(llama), [*examples, *again], quick)
    assert found == pytest.approx(expected, rel=1e-5)


def test_every_answer_of_one_source_counts(llama, make_bank, examples, quick):
    one_source = [replace(example, fact="a book") for example in examples]
    answers = {example.answer: example for example in reversed(one_source)}
    encoded = encode_examples(llama, list(answers.values())).examples
    expected = sum(float(reference_loss(llama, each, {})) for each in encoded) / math.log(2)
    assert answer_bits(llama, make_bank(llama), one_source, quick) == pytest.approx(expected)


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


@pytest.mark.parametrize("activation", ["answer", "prompt"])
def test_padding_is_nobodys_token(llama, make_bank, examples, activation):
    long = replace(examples[0], prompt=(("user", "w " * 60),), answer="ab " * 20)
    mixed = [*examples[:7], long]
    found = variance_importance(
        llama, llama.layers, mixed, bank=make_bank(llama), reference_rank=4, activation=activation
    )
    header, inputs = list(llama.header_ids), {layer.name: [] for layer in llama.layers}
    for each in encode_examples(llama, mixed).examples:
        ids = [*each.prompt_ids, *header, *each.answer_ids[:-1]]
        start = 0 if activation == "prompt" else len(each.prompt_ids)
        for name, states in plain_inputs(llama, ids).items():
            inputs[name].append(states[start:])
    shares = {name: variance_shares(torch.cat(states)) for name, states in inputs.items()}
    least = torch.cat(list(shares.values())).topk(4 * len(llama.layers)).values[-1]
    expected = {name: float((each >= least).sum()) for name, each in shares.items()}
    assert sum(abs(found[name] - expected[name]) for name in expected) <= 2  # ties by rounding


def test_inputs_that_are_not_finite_are_refused():
    with pytest.raises(TrainingError, match="not finite"):
        variance_shares(torch.tensor([[1.0, float("nan")], [0.0, 1.0]]))


@torch.no_grad()
def plain_inputs(language_model, ids):
    found, handles = {}, []
    for layer in language_model.layers:
        module = language_model.model.get_submodule(layer.name)

        def keep(_module, arguments, name=layer.name):
            found[name] = arguments[0][0]

        handles.append(module.register_forward_pre_hook(keep))
    language_model.model(torch.tensor([ids]), use_cache=False)
    for handle in handles:
        handle.remove()
    return found


def test_singular_values_are_those_of_the_update():
    pair = LoraPair(torch.tensor([[3.0, 0.0, 0.0], [0.0, 4.0, 0.0]]), torch.eye(2, 5) * 2)
    assert singular_values(pair).tolist() == pytest.approx([8.0, 6.0])
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(3, 7, generator=generator), torch.randn(3, 9, generator=generator)
    whole = torch.linalg.svdvals(a.T @ b)[:3]
    assert torch.allclose(singular_values(LoraPair(a, b)), whole, rtol=1e-5)


def test_what_a_wide_training_uses_is_cut_to_the_budget(llama, make_bank, examples, quick):
    found = truncation_importance(
        llama, llama.layers, examples, bank=make_bank(llama), reference_rank=4, settings=quick
    )
    budget = 4 * sum(layer.cost for layer in llama.layers)
    spent = sum(layer.cost * found[layer.name] for layer in llama.layers)
    assert budget - max(layer.cost for layer in llama.layers) < spent <= budget
    assert max(found.values()) <= 8
    assert len(set(found.values())) > 1
    plan = plan_ranks(llama.layers, strategy="truncate", reference_rank=4, importance=found)
    assert plan.parameters == budget
