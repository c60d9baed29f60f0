"""Rank plans cost exactly what they promise, whatever the geometry and the profile."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from adaptive_moe.errors import ConfigurationError
from adaptive_moe.experts.weights import LoraPair
from adaptive_moe.models.linear_layers import LinearLayer
from adaptive_moe.training.ranks import STRATEGIES, check_built, plan_ranks

KINDS = ("query", "key", "value", "output", "gate", "up", "down")


def model_layers(blocks=8, width=64, kv=16, inner=172):
    sizes = {
        "query": (width, width),
        "key": (width, kv),
        "value": (width, kv),
        "output": (width, width),
        "gate": (width, inner),
        "up": (width, inner),
        "down": (inner, width),
    }
    return tuple(
        LinearLayer(f"layers.{depth}.{kind}", kind, depth, *sizes[kind])
        for depth, kind in itertools.product(range(blocks), KINDS)
    )


def importance_of(layers):
    return {layer.name: 1.0 + (index * 37 % 11) for index, layer in enumerate(layers)}


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("reference_rank", [1, 2, 8, 32])
def test_every_strategy_costs_exactly_the_budget(strategy, reference_rank):
    layers = model_layers()
    plan = plan_ranks(
        layers, strategy=strategy, reference_rank=reference_rank, importance=importance_of(layers)
    )
    spent = sum(layer.cost * plan.ranks.get(layer.name, 0) for layer in layers)
    assert spent == plan.parameters == reference_rank * sum(layer.cost for layer in layers)


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.tuples(st.integers(3, 200), st.integers(3, 200)), min_size=1, max_size=12),
    reference_rank=st.integers(1, 24),
    seed=st.integers(0, 1000),
)
def test_odd_geometries_still_cost_exactly_the_budget(sizes, reference_rank, seed):
    layers = [LinearLayer(f"l.{i}.up", "up", i, *size) for i, size in enumerate(sizes)]
    plan = plan_ranks(layers, strategy="random", reference_rank=reference_rank, seed=seed)
    spent = sum(layer.cost * plan.ranks[layer.name] for layer in layers)
    assert spent == reference_rank * sum(layer.cost for layer in layers)
    assert all(1 <= rank <= 128 for rank in plan.ranks.values())


def test_fixed_gives_every_module_the_reference_rank():
    plan = plan_ranks(model_layers(), strategy="fixed", reference_rank=5)
    assert set(plan.ranks.values()) == {5}


def test_decay_goes_from_one_and_a_half_to_half_and_growth_mirrors_it():
    layers = model_layers(blocks=9)
    decay = plan_ranks(layers, strategy="linear_decay", reference_rank=16)
    growth = plan_ranks(layers, strategy="linear_growth", reference_rank=16)
    by_depth = [decay.ranks[f"layers.{depth}.up"] for depth in range(9)]
    assert abs(by_depth[0] - 24) <= 1
    assert abs(by_depth[8] - 8) <= 1
    assert by_depth == sorted(by_depth, reverse=True)
    assert abs(growth.ranks["layers.8.up"] - 24) <= 1


def test_attention_heavy_gives_attention_twice_the_rank():
    plan = plan_ranks(model_layers(), strategy="attention_heavy", reference_rank=16)
    attention, mlp = plan.ranks["layers.3.query"], plan.ranks["layers.3.up"]
    assert abs(attention - 2 * mlp) <= 2


def test_gradient_follows_importance_and_refuses_to_guess_it():
    layers = model_layers()
    importance = {layer.name: 9.0 if layer.kind == "down" else 1.0 for layer in layers}
    plan = plan_ranks(layers, strategy="gradient", reference_rank=8, importance=importance)
    assert plan.ranks["layers.0.down"] > 2 * plan.ranks["layers.0.up"]
    with pytest.raises(ConfigurationError, match="measured importance"):
        plan_ranks(layers, strategy="gradient", reference_rank=8)


def test_eva_shares_out_ranks_by_counts_of_components():
    layers = model_layers()
    counts = {layer.name: 12.0 if layer.kind == "down" else 6.0 for layer in layers}
    plan = plan_ranks(layers, strategy="eva", reference_rank=8, importance=counts)
    assert abs(plan.ranks["layers.0.down"] - 2 * plan.ranks["layers.0.up"]) <= 2
    with pytest.raises(ConfigurationError, match="measured importance"):
        plan_ranks(layers, strategy="eva", reference_rank=8)


def test_random_depends_on_the_seed_only():
    layers = model_layers()
    plans = [plan_ranks(layers, strategy="random", reference_rank=8, seed=s) for s in (1, 1, 2)]
    assert plans[0] == plans[1]
    assert plans[0].ranks != plans[2].ranks


@pytest.mark.parametrize(
    ("rule", "expected"),
    [("rslora", 16 / math.sqrt(12)), ("alpha_over_r", 16 / 12), ("const", 16 / 8)],
)
def test_scaling_is_written_per_module(rule, expected):
    plan = plan_ranks(
        model_layers(9), strategy="linear_decay", reference_rank=8, scaling=rule, alpha=16.0
    )
    assert plan.ranks["layers.0.up"] == 12
    assert plan.scaling["layers.0.up"] == pytest.approx(expected)


@pytest.mark.parametrize(
    "wrong",
    [
        {"strategy": "clever"},
        {"reference_rank": 200},
        {"r_min": 9},
        {"layers": ()},
    ],
)
def test_impossible_requests_are_refused(wrong):
    request = {"layers": model_layers(2), "strategy": "fixed", "reference_rank": 8} | wrong
    layers = request.pop("layers")
    with pytest.raises(ConfigurationError):
        plan_ranks(layers, **request)


def test_built_tensors_are_read_back():
    layers = model_layers(2)
    plan = plan_ranks(layers, strategy="linear_decay", reference_rank=4)
    built = {
        layer.name: LoraPair(
            torch.zeros(plan.ranks[layer.name], layer.in_features),
            torch.zeros(plan.ranks[layer.name], layer.out_features),
        )
        for layer in layers
    }
    check_built(plan, built)
    name = layers[0].name
    built[name] = LoraPair(built[name].a[:1], built[name].b[:1])
    with pytest.raises(AssertionError):
        check_built(plan, built)
