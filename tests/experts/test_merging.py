"""Several adapters become one: their sum exactly, or as near as a rank allows."""

import pytest
import torch
from peft.utils import merge_utils

from adaptive_moe.errors import ConfigurationError
from adaptive_moe.experts.bank import LoraBank
from adaptive_moe.experts.merging import METHODS, Choices, equal_weights, merge
from adaptive_moe.experts.weights import LoraPair
from tests.experts.reference import layers_of, logits, random_weights, tiny_base, token_ids

PARTS = (0.7, -0.2, 0.4)


@pytest.fixture(scope="module")
def model():
    return tiny_base()


@pytest.fixture(scope="module")
def experts(model):
    return [random_weights(layers_of(model), seed=seed) for seed in range(3)]


def dense(pair):
    return pair.b.double().T @ pair.a.double()


def summed(experts, name):
    return sum(
        weight * dense(expert[name])
        for expert, weight in zip(experts, PARTS, strict=True)
        if name in expert
    )


def test_concatenation_is_the_sum(model, experts):
    merged = merge(experts, PARTS)
    assert set(merged.weights) == {name for expert in experts for name in expert}
    for name, pair in merged.weights.items():
        expected = summed(experts, name)
        assert (dense(pair) - expected).abs().max() <= 1e-6 * expected.abs().max()
        assert pair.rank == sum(expert[name].rank for expert in experts if name in expert)
    assert merged.error == 0.0


def test_a_merged_expert_answers_as_the_mixture_does(model, experts):
    bank = LoraBank(model, layers_of(model), capacity_bytes=1 << 20, dtype=torch.float32)
    for name, weights in zip("abc", experts, strict=True):
        bank.load(name, weights)
    bank.load("merged", merge(experts, PARTS).weights)
    ids = token_ids(2)
    with bank.activate([tuple(zip("abc", PARTS, strict=True))] * 2):
        mixed = logits(model, ids)
    with bank.activate([(("merged", 1.0),)] * 2):
        merged = logits(model, ids)
    torch.testing.assert_close(merged, mixed, atol=1e-5, rtol=0)


@pytest.mark.parametrize("rank", [1, 3, None])
def test_the_approximation_is_the_best_of_its_rank(experts, rank):
    merged = merge(experts, PARTS, method="svd", choices=Choices(rank=rank))
    for name, pair in merged.weights.items():
        expected = summed(experts, name)
        left, values, right = torch.linalg.svd(expected)
        kept = rank or max(expert[name].rank for expert in experts if name in expert)
        best = left[:, :kept] * values[:kept] @ right[:kept]
        assert pair.rank == kept
        assert (dense(pair) - best).abs().max() <= 1e-5 * expected.abs().max()
        lost = values[kept:].norm() / values.norm()
        assert merged.errors[name] == pytest.approx(float(lost), abs=1e-6)


def test_enough_rank_loses_nothing(experts):
    merged = merge(experts, PARTS, method="svd", choices=Choices(rank=32))
    assert merged.error == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("method", ["ties", "dare_ties", "dare_linear"])
def test_conflicts_are_settled_as_peft_settles_them(experts, method):
    choices = Choices(rank=32, density=0.6, seed=5)
    merged = merge(experts, PARTS, method=method, choices=choices)
    name = min(merged.weights)  # the first that random numbers are drawn for
    updates = [dense(expert[name]) for expert in experts if name in expert]
    weights = [part for part, expert in zip(PARTS, experts, strict=True) if name in expert]
    with torch.random.fork_rng():
        torch.manual_seed(5)
        expected = getattr(merge_utils, method)(
            updates, torch.tensor(weights, dtype=torch.float64), 0.6
        )
    assert len(updates) > 1
    assert (dense(merged.weights[name]) - expected).abs().max() <= 1e-5 * expected.abs().max()
    again = merge(experts, PARTS, method=method, choices=choices)
    assert torch.equal(again.weights[name].a, merged.weights[name].a)


def test_another_seed_drops_other_entries_and_the_global_one_stays(experts):
    before = torch.random.get_rng_state()
    first, second = (
        merge(experts, PARTS, method="dare_linear", choices=Choices(seed=seed)) for seed in (1, 2)
    )
    name = next(iter(first.weights))
    assert not torch.equal(first.weights[name].a, second.weights[name].a)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("method", ["ties", "dare_ties"])
def test_averaging_experts_that_agree_changes_nothing(experts, method):
    alike = [experts[0]] * 3
    choices = Choices(rank=32, density=1.0)
    merged = merge(alike, equal_weights(method, 3), method=method, choices=choices)
    for name, pair in experts[0].items():
        torch.testing.assert_close(dense(merged.weights[name]), dense(pair), atol=1e-6, rtol=0)


def test_what_is_added_up_weighs_one_together():
    assert equal_weights("cat", 4) == (0.25,) * 4


def test_layers_of_one_shape_drop_different_entries():
    whole = LoraPair(torch.ones(1, 16), torch.ones(1, 16))
    merged = merge(
        [{"one": whole, "two": whole}] * 2,
        (1.0, 0.0),
        method="dare_linear",
        choices=Choices(rank=16),
    )
    one, two = (dense(merged.weights[name]).round() for name in ("one", "two"))
    assert one.unique().tolist() == two.unique().tolist() == [0.0, 2.0]
    assert not torch.equal(one, two)


@pytest.mark.parametrize("method", METHODS)
def test_weights_that_no_number_can_hold_are_refused(experts, method):
    with pytest.raises(ConfigurationError, match="infinite"):
        merge(experts, (1e200, 1e200, 1e200), method=method)


def test_opposite_experts_leave_nothing(experts):
    merged = merge([experts[0], experts[0]], (0.5, -0.5), method="svd")
    assert all(dense(pair).abs().max() <= 1e-9 for pair in merged.weights.values())


def test_a_rank_that_no_adapter_may_have_is_refused(model):
    wide = random_weights(layers_of(model), seed=1, ranks=(80,))
    with pytest.raises(ConfigurationError, match="--method svd"):
        merge([wide, wide], (0.5, 0.5))
    assert merge([wide, wide], (0.5, 0.5), method="svd").error <= 1e-6


def test_every_method_is_of_finite_numbers(experts):
    for method in METHODS:
        for pair in merge(experts, PARTS, method=method).weights.values():
            assert torch.isfinite(pair.a).all()
            assert torch.isfinite(pair.b).all()
