"""Shares add up whatever it is that the gates weigh: distributions, or updates token by token."""

import numpy as np
import pytest
import torch
from transformers import GenerationConfig

from adaptive_moe.experts.bank import LoraBank
from adaptive_moe.experts.weights import LoraPair
from adaptive_moe.integration.attribution import attribute
from adaptive_moe.integration.shapley import all_orders, shapley_shares
from adaptive_moe.models.blending import Blend
from adaptive_moe.models.decoding import decode, prefill, run_header, take_rows
from tests.support.tiny_models import tiny_language_model

MIXTURE = (("c", 0.5), ("a", 0.3), ("b", 0.2))
NAMES = tuple(name for name, _ in MIXTURE)
GATES = np.array([gate for _, gate in MIXTURE])


def weights(model, seed, *, scale=0.3):
    generator = torch.Generator().manual_seed(seed)
    return {
        layer.name: LoraPair(
            torch.randn(3, layer.in_features, generator=generator) * 0.3,
            torch.randn(3, layer.out_features, generator=generator) * scale,
        )
        for layer in model.layers
    }


def world(experts=None):
    model = tiny_language_model("llama")
    bank = LoraBank(model.model, model.layers, capacity_bytes=1 << 20, dtype=torch.float32)
    for name in "abc":
        bank.load(name, (experts or {}).get(name) or weights(model, ord(name)))
    return model, bank, prefill(model, [model.encode("What is the symbol of iron?")])


def decoded(model, filled, blend=None, prompts=None):
    cache, logits = run_header(model, filled)
    *_, last = decode(
        model,
        cache,
        logits,
        attention_mask=filled.attention_mask,
        prompts=prompts or filled.prompts,
        generation=GenerationConfig(max_new_tokens=6, do_sample=True),
        seed=3,
        blend=blend,
    )
    return last.completions[0]


def by_distributions(model, bank, filled):
    blend = Blend([list(GATES)], device=torch.device("cpu"))
    with bank.activate([((name, 1.0),) for name in NAMES]):
        return decoded(model, take_rows(filled, [0, 0, 0]), blend, filled.prompts)


def by_token(model, bank, filled):
    with bank.activate_by_token([MIXTURE]):
        return decoded(model, filled)


WAYS = {"distributions": by_distributions, "updates by token": by_token}


@pytest.mark.parametrize("mixed", WAYS)
def test_shares_add_up_to_what_was_recorded_less_the_base(mixed):
    model, bank, filled = world()
    completion = WAYS[mixed](model, bank, filled)
    found = attribute(model, bank, filled, completion.token_ids, MIXTURE, mixed=mixed)
    assert found.exact
    np.testing.assert_allclose(
        found.routed_log_probability, completion.trace.log_probability, atol=1e-4
    )
    np.testing.assert_allclose(found.shares.sum(axis=1), found.total, atol=1e-6)
    bare = attribute(model, bank, filled, completion.token_ids, ())
    np.testing.assert_allclose(found.base_log_probability, bare.base_log_probability, atol=1e-5)
    assert np.abs(found.shares).max() > 0.01


def test_a_mixture_of_distributions_is_shared_out_by_its_formula():
    model, bank, filled = world()
    completion = by_distributions(model, bank, filled)
    answer = completion.token_ids
    alone = {}
    for name in NAMES:
        one = attribute(model, bank, filled, answer, ((name, 1.0),))
        alone[name] = np.exp(one.routed_log_probability)
    base = np.exp(one.base_log_probability)
    values = {
        members: np.log(
            sum((GATES[k] * alone[NAMES[k]] for k in members), start=0.0)
            + (1 - sum(GATES[k] for k in members)) * base
        )
        for members in all_orders(3).coalitions
    }
    expected, _ = shapley_shares(all_orders(3), values)
    found = attribute(model, bank, filled, answer, MIXTURE, mixed="distributions")
    np.testing.assert_allclose(found.shares, expected, atol=1e-5)
    parts = np.stack([gate * alone[name] for name, gate in MIXTURE], axis=1)
    np.testing.assert_allclose(
        found.responsibilities, parts / parts.sum(axis=1, keepdims=True), atol=1e-5
    )
    np.testing.assert_allclose(completion.responsibilities, found.responsibilities, atol=1e-4)


@pytest.mark.parametrize("mixed", WAYS)
def test_an_expert_that_does_nothing_gets_exactly_nothing(mixed):
    model = tiny_language_model("llama")
    model, bank, filled = world({"a": weights(model, 1, scale=0.0)})
    completion = WAYS[mixed](model, bank, filled)
    found = attribute(model, bank, filled, completion.token_ids, MIXTURE, mixed=mixed)
    assert np.all(found.shares[:, 1] == 0.0)
    np.testing.assert_allclose(
        found.routed_log_probability, completion.trace.log_probability, atol=1e-4
    )


@pytest.mark.parametrize("mixed", WAYS)
def test_equal_experts_get_equal_shares(mixed):
    model = tiny_language_model("llama")
    twin = weights(model, 5)
    model, bank, filled = world({"a": twin, "b": twin})
    mixture = (("c", 0.4), ("a", 0.3), ("b", 0.3))
    with bank.activate_by_token([mixture]):
        completion = decoded(model, filled)
    found = attribute(model, bank, filled, completion.token_ids, mixture, mixed=mixed)
    assert np.array_equal(found.shares[:, 1], found.shares[:, 2])
    if mixed == "updates by token":
        np.testing.assert_allclose(
            found.routed_log_probability, completion.trace.log_probability, atol=1e-4
        )


@pytest.mark.parametrize("mixed", WAYS)
def test_little_memory_changes_nothing(mixed):
    model, bank, filled = world()
    answer = WAYS[mixed](model, bank, filled).token_ids
    usual = attribute(model, bank, filled, answer, MIXTURE, mixed=mixed)
    few = attribute(model, bank, filled, answer, MIXTURE, mixed=mixed, logits_bytes=20_000)
    np.testing.assert_allclose(few.shares, usual.shares, atol=1e-5)
