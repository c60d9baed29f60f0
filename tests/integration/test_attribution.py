"""Every token's shares add up, agree with slow references, and give nothing for nothing."""

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np
import pytest
import torch
from transformers import GenerationConfig

from adaptive_moe.errors import UnknownExpertError
from adaptive_moe.experts.bank import LoraBank
from adaptive_moe.experts.pool import Mixture
from adaptive_moe.experts.weights import LoraPair, LoraWeights
from adaptive_moe.integration.attribution import attribute
from adaptive_moe.integration.shapley import Coalition, all_orders, shapley_shares
from adaptive_moe.models.decoding import Completion, decode
from adaptive_moe.models.language_model import LanguageModel
from adaptive_moe.models.prefilling import (
    Prefill,
    fork,
    prefill,
    prefill_whole,
    run_header,
    take_rows,
)
from tests.support.tiny_models import ARCHITECTURES, tiny_language_model

QUESTION = "What is the symbol of iron?"
THREE: Mixture = (("c", 0.5), ("a", 0.3), ("b", 0.2))


def _weights(language_model: LanguageModel, *, seed: int, rank: int = 3) -> LoraWeights:
    generator = torch.Generator().manual_seed(seed)
    return {
        layer.name: LoraPair(
            torch.randn(rank, layer.in_features, generator=generator) * 0.3,
            torch.randn(rank, layer.out_features, generator=generator) * 0.3,
        )
        for layer in language_model.layers
    }


def _bank(language_model: LanguageModel, experts: Mapping[str, LoraWeights]) -> LoraBank:
    bank = LoraBank(
        language_model.model, language_model.layers, capacity_bytes=1 << 20, dtype=torch.float32
    )
    for expert_id, weights in experts.items():
        bank.load(expert_id, weights)
    return bank


def _model_and_bank(architecture: str = "llama", names: str = "abc") -> tuple:
    language_model = tiny_language_model(architecture)
    experts = {name: _weights(language_model, seed=ord(name)) for name in names}
    return language_model, _bank(language_model, experts)


def _read(language_model: LanguageModel, question: str = QUESTION) -> Prefill:
    return prefill(language_model, [language_model.encode(question)])


def _decoded(
    language_model: LanguageModel,
    bank: LoraBank,
    filled: Prefill,
    rows: Sequence[Mixture],
    *,
    activation: str = "answer",
    tokens: int = 6,
) -> tuple[Completion, ...]:
    with bank.activate(rows):
        if activation == "prompt":
            cache, mask, logits = prefill_whole(language_model, filled.prompts)
        else:
            (cache, logits), mask = run_header(language_model, filled), filled.attention_mask
        for step in decode(
            language_model,
            cache,
            logits,
            attention_mask=mask,
            prompts=filled.prompts,
            generation=GenerationConfig(max_new_tokens=tokens, do_sample=True),
            seed=3,
        ):
            completions = step.completions
    assert completions is not None
    return completions


@torch.inference_mode()
def _log_probabilities(
    language_model: LanguageModel, filled: Prefill, answer: Sequence[int], *, whole: bool
) -> np.ndarray:
    """Token by token under whatever is active: the slow way."""
    if whole:
        cache, _, logits = prefill_whole(language_model, filled.prompts)
    else:
        cache, logits = run_header(language_model, filled)
    found = []
    for token in answer:
        found.append(float(logits[0].double().log_softmax(dim=-1)[token]))
        output = language_model.model(torch.tensor([[token]]), past_key_values=cache)
        logits = output.logits[:, -1]
    return np.array(found)


def _loop_over_subsets(
    language_model: LanguageModel,
    bank: LoraBank,
    filled: Prefill,
    answer: Sequence[int],
    mixture: Mixture,
    *,
    whole: bool = False,
) -> tuple[np.ndarray, dict[Coalition, np.ndarray]]:
    values = {}
    for size in range(len(mixture) + 1):
        for members in combinations(range(len(mixture)), size):
            with bank.activate([tuple(mixture[index] for index in members)]):
                found = _log_probabilities(language_model, filled, answer, whole=whole)
            values[frozenset(members)] = found
    return shapley_shares(all_orders(len(mixture)), values)[0], values


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_shares_agree_with_a_loop_over_subsets(architecture: str) -> None:
    language_model, bank = _model_and_bank(architecture)
    filled = _read(language_model)
    (completion,) = _decoded(language_model, bank, filled, [THREE])
    found = attribute(language_model, bank, filled, completion.token_ids, THREE)
    shares, values = _loop_over_subsets(language_model, bank, filled, completion.token_ids, THREE)
    assert found.experts == ("c", "a", "b")
    assert found.exact
    assert found.error == 0.0
    assert np.abs(found.shares).max() > 0.01
    np.testing.assert_allclose(found.shares, shares, atol=1e-5)
    np.testing.assert_allclose(found.base_log_probability, values[frozenset()], atol=1e-5)


@pytest.mark.parametrize("architecture", ["llama", "gemma2", "gpt2", "opt"])
def test_shares_of_whole_prompt_experts_agree_with_a_loop_over_subsets(architecture: str) -> None:
    language_model, bank = _model_and_bank(architecture)
    filled = _read(language_model)
    (completion,) = _decoded(language_model, bank, filled, [THREE], activation="prompt")
    answer = completion.token_ids
    found = attribute(language_model, bank, filled, answer, THREE, activation="prompt")
    shares, _ = _loop_over_subsets(language_model, bank, filled, answer, THREE, whole=True)
    np.testing.assert_allclose(found.shares, shares, atol=1e-5)
    np.testing.assert_allclose(
        found.routed_log_probability, completion.trace.log_probability, atol=1e-4
    )


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_shares_add_up_to_what_was_recorded_less_a_bare_pass(architecture: str) -> None:
    language_model, bank = _model_and_bank(architecture)
    filled = _read(language_model)
    (completion,) = _decoded(language_model, bank, filled, [THREE])
    found = attribute(language_model, bank, filled, completion.token_ids, THREE)
    prompt, answer = filled.prompts[0], completion.token_ids
    bare = tiny_language_model(architecture).model
    with torch.inference_mode():
        ids = torch.tensor([[*prompt.prompt_ids, *prompt.header_ids, *answer]])
        logits = bare(ids).logits[0, -len(answer) - 1 : -1]
    base = logits.double().log_softmax(dim=-1)[range(len(answer)), list(answer)].numpy()
    np.testing.assert_allclose(found.shares.sum(axis=1), found.total, atol=1e-12)
    np.testing.assert_allclose(found.total, completion.trace.log_probability - base, atol=1e-4)


@pytest.mark.parametrize("architecture", ["llama", "gemma2", "gpt2", "bloom"])
def test_a_row_out_of_a_padded_batch_is_explained_as_if_alone(architecture: str) -> None:
    language_model, bank = _model_and_bank(architecture)
    questions = [QUESTION, "Is the capital of the other land further than Paris is?"]
    both = prefill(language_model, [language_model.encode(text) for text in questions])
    answers = _decoded(language_model, bank, both, [THREE, (("b", 1.0),)])
    found = attribute(language_model, bank, take_rows(both, [0]), answers[0].token_ids, THREE)
    alone = attribute(language_model, bank, _read(language_model), answers[0].token_ids, THREE)
    np.testing.assert_allclose(found.shares, alone.shares, atol=1e-5)
    np.testing.assert_allclose(
        found.routed_log_probability, answers[0].trace.log_probability, atol=1e-4
    )


@pytest.mark.parametrize("tokens", [1, 2, 5, 20])
def test_an_expert_that_does_nothing_gets_exactly_nothing(tokens: int) -> None:
    language_model, bank = _model_and_bank()
    nothing = {
        name: LoraPair(pair.a, torch.zeros_like(pair.b))
        for name, pair in _weights(language_model, seed=9).items()
    }
    bank.load("nothing", nothing)
    mixture = (("a", 0.4), ("nothing", 0.4), ("b", 0.2))
    answer = range(40, 40 + tokens)
    found = attribute(language_model, bank, _read(language_model), answer, mixture)
    assert (found.shares[:, 1] == 0.0).all()
    assert (found.shares[:, [0, 2]] != 0.0).any(axis=0).all()


@pytest.mark.parametrize("tokens", [1, 20])
def test_identical_experts_get_equal_shares(tokens: int) -> None:
    language_model, bank = _model_and_bank()
    bank.load("twin of a", _weights(language_model, seed=ord("a")))
    mixture = (("a", 0.3), ("b", 0.4), ("twin of a", 0.3))
    filled, answer = _read(language_model), range(40, 40 + tokens)
    found = attribute(language_model, bank, filled, answer, mixture)
    np.testing.assert_allclose(found.shares[:, 0], found.shares[:, 2], rtol=0, atol=1e-14)
    slow, _ = _loop_over_subsets(language_model, bank, filled, answer, mixture)
    np.testing.assert_allclose(found.shares, slow, atol=1e-5)


def test_equal_experts_with_unequal_gates_keep_shares_of_their_own() -> None:
    language_model, bank = _model_and_bank()
    bank.load("twin of a", _weights(language_model, seed=ord("a")))
    mixture = (("a", 0.1), ("twin of a", 0.9))
    filled, answer = _read(language_model), range(40, 60)
    found = attribute(language_model, bank, filled, answer, mixture)
    slow, _ = _loop_over_subsets(language_model, bank, filled, answer, mixture)
    np.testing.assert_allclose(found.shares, slow, atol=1e-5)


def test_one_expert_gets_everything() -> None:
    language_model, bank = _model_and_bank()
    found = attribute(language_model, bank, _read(language_model), range(40, 50), (("b", 1.0),))
    assert (found.shares[:, 0] == found.total).all()


@pytest.mark.parametrize("activation", ["answer", "prompt"])
@pytest.mark.parametrize(
    "logits_bytes", [pytest.param(1, marks=pytest.mark.slow), 8 * 300 * 5, 8 * 300 * 64]
)
def test_little_memory_changes_nothing(activation: str, logits_bytes: int) -> None:
    language_model, bank = _model_and_bank("gemma2")
    filled, answer = _read(language_model), tuple(range(40, 70))
    at_once = attribute(language_model, bank, filled, answer, THREE, activation=activation)
    in_parts = attribute(
        language_model,
        bank,
        filled,
        answer,
        THREE,
        activation=activation,
        logits_bytes=logits_bytes,
    )
    np.testing.assert_allclose(in_parts.shares, at_once.shares, atol=1e-5)
    np.testing.assert_allclose(
        in_parts.routed_log_probability, at_once.routed_log_probability, atol=1e-5
    )


def test_many_experts_are_sampled_with_an_error_that_holds() -> None:
    language_model, bank = _model_and_bank(names="abcdef")
    filled, answer = _read(language_model), tuple(range(40, 48))
    mixture = tuple((name, 1 / 6) for name in "abcdef")
    found = attribute(language_model, bank, filled, answer, mixture)
    exact, _ = _loop_over_subsets(language_model, bank, filled, answer, mixture)
    assert not found.exact
    assert 0 < found.error < np.abs(exact).max()
    assert np.abs(found.shares - exact).max() < 4 * found.error
    np.testing.assert_allclose(found.shares.sum(axis=1), found.total, atol=1e-9)
    again = attribute(language_model, bank, filled, answer, mixture)
    assert (again.shares == found.shares).all()
    other = attribute(language_model, bank, filled, answer, mixture, seed=1)
    assert (other.shares != found.shares).any()


def test_the_prompt_cache_can_be_used_again() -> None:
    language_model, bank = _model_and_bank()
    filled = _read(language_model)
    before = _decoded(language_model, bank, filled, [THREE])[0].token_ids
    held = [layer.keys.clone() for layer in fork(filled.cache).layers]
    attribute(language_model, bank, filled, before, THREE)
    for layer, keys in zip(filled.cache.layers, held, strict=True):
        assert torch.equal(layer.keys, keys)
    assert _decoded(language_model, bank, filled, [THREE])[0].token_ids == before


def test_an_answer_by_the_base_has_no_shares() -> None:
    language_model, bank = _model_and_bank()
    found = attribute(language_model, bank, _read(language_model), range(40, 45), ())
    assert found.shares.shape == (5, 0)
    assert (found.total == 0.0).all()


def test_an_empty_answer_has_no_tokens_to_share() -> None:
    language_model, bank = _model_and_bank()
    found = attribute(language_model, bank, _read(language_model), (), THREE)
    assert found.shares.shape == (0, 3)
    assert found.total.shape == (0,)


def test_an_expert_that_is_not_resident_is_named() -> None:
    language_model, bank = _model_and_bank()
    with pytest.raises(UnknownExpertError, match="stranger"):
        attribute(language_model, bank, _read(language_model), (77,), (("stranger", 1.0),))


def test_one_token_is_enough() -> None:
    language_model, bank = _model_and_bank()
    filled = _read(language_model)
    shares, _ = _loop_over_subsets(language_model, bank, filled, (77,), THREE)
    found = attribute(language_model, bank, filled, (77,), THREE)
    np.testing.assert_allclose(found.shares, shares, atol=1e-5)
