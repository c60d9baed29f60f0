"""Several adapters become one: their sum exactly, or as near as a rank allows."""

import pytest
import torch
from peft.utils import merge_utils

from adaptive_moe.errors import ConfigurationError
from adaptive_moe.experts.bank import LoraBank
from adaptive_moe.experts.merging import METHODS, Choices, merge
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
    name = next(name for name in experts[0] if all(name in each for each in experts))
    updates = [dense(expert[name]) for expert in experts]
    with torch.random.fork_rng():
        torch.manual_seed(5)
        expected = getattr(merge_utils, method)(
            updates, torch.tensor(PARTS, dtype=torch.float64), 0.6
        )
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
