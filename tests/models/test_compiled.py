"""A compiled pass gives what an eager one gives, and is compiled once, whoever the experts are."""

import pytest
import torch
from torch._dynamo.testing import CompileCounter
from transformers import GenerationConfig

from adaptive_moe.experts.bank import LoraBank
from adaptive_moe.models.compiled import CompiledSteps, can_compile
from adaptive_moe.models.decoding import decode, prefill, run_header
from tests.experts.reference import random_weights
from tests.support.tiny_models import ARCHITECTURES, tiny_language_model

QUESTIONS = ("hi", "the symbol of iron is", "in the other land")
COMPILED = tuple(name for name in ARCHITECTURES if can_compile(tiny_language_model(name)))
RANKS = (3, 7, 1, 5)


pytestmark = pytest.mark.usefixtures("compilable")


def world(architecture="llama"):
    model = tiny_language_model(architecture)
    bank = LoraBank(model.model, model.layers, capacity_bytes=1 << 20, dtype=torch.float32)
    for number, rank in enumerate(RANKS):
        bank.load(f"e{number}", random_weights(model.layers, seed=number, ranks=(rank, 0, rank)))
    return model, bank


def tokens(model, bank, rows, *, compiled=None, questions=QUESTIONS, new_tokens=5):
    filled = prefill(model, [model.encode(question) for question in questions])
    with bank.activate(rows, static=compiled is not None):
        cache, logits = filled.header_cache, filled.first_logits
        if any(rows):
            cache, logits = run_header(model, filled)
        *_, last = decode(
            model,
            cache,
            logits,
            attention_mask=filled.attention_mask,
            prompts=filled.prompts,
            generation=GenerationConfig(max_new_tokens=new_tokens, eos_token_id=-1),
            compiled=compiled,
        )
    return [completion.token_ids for completion in last.completions]


def test_the_usual_architectures_can_be_compiled():
    assert {"llama", "qwen2", "qwen3", "phi3", "gpt_neox"} <= set(COMPILED)


@pytest.mark.parametrize(
    "architecture",
    [pytest.param(name, marks=[pytest.mark.slow] if name != "llama" else []) for name in COMPILED],
)
def test_tokens_are_those_of_eager_passes(architecture):
    model, bank = world(architecture)
    counter = CompileCounter()
    compiled = CompiledSteps(model, backend=counter)
    for rows in ([()] * 3, [(("e0", 1.0),), (), (("e1", 0.5), ("e2", 0.5))]):
        expected = tokens(model, bank, rows)
        assert tokens(model, bank, rows, compiled=compiled) == expected
        assert tokens(model, bank, rows, compiled=compiled) == expected
    assert counter.frame_count == 2  # the base, and the base with experts


def test_switching_experts_compiles_nothing():
    model, bank = world()
    counter = CompileCounter()
    compiled = CompiledSteps(model, backend=counter)
    batches = [
        [(("e0", 1.0),)] * 3,
        [(("e1", 1.0),), (("e2", 1.0),), (("e3", 1.0),)],
        [(("e3", 0.25), ("e2", 0.5)), (), (("e0", 1.0),)],
        [(), (("e2", 1.0),), ()],
    ]
    expected = [tokens(model, bank, rows) for rows in batches]
    for _ in range(2):
        found = [tokens(model, bank, rows, compiled=compiled) for rows in batches]
        assert found == expected
    assert counter.frame_count == 1


def test_an_expert_that_took_anothers_place_is_not_confused_with_it():
    model, bank = world()
    compiled = CompiledSteps(model, backend=CompileCounter())
    rows = [(("e0", 1.0),)] * 3
    before = tokens(model, bank, rows, compiled=compiled)
    bank.evict("e0")
    bank.load("e0", random_weights(model.layers, seed=9, ranks=(3,)))
    after = tokens(model, bank, rows, compiled=compiled)
    assert after == tokens(model, bank, rows)
    assert after != before


def test_lengths_within_one_cache_and_other_prompts_compile_nothing():
    model, bank = world()
    counter = CompileCounter()
    compiled = CompiledSteps(model, backend=counter)
    for questions in (QUESTIONS, QUESTIONS[::-1], ("a longer one than any other here",) * 3):
        rows = [()] * len(questions)
        found = tokens(model, bank, rows, compiled=compiled, questions=questions)
        assert found == tokens(model, bank, rows, questions=questions)
    assert counter.frame_count == 1


def test_another_batch_size_or_a_larger_rank_is_compiled_for_itself():
    model, bank = world()
    counter = CompileCounter()
    compiled = CompiledSteps(model, backend=counter)
    bank.load("wide", random_weights(model.layers, seed=7, ranks=(12,)))
    tokens(model, bank, [(("e0", 1.0),)] * 3, compiled=compiled)
    tokens(model, bank, [(("e0", 1.0),)], compiled=compiled, questions=QUESTIONS[:1])
    assert counter.frame_count == 2
    tokens(model, bank, [(("wide", 1.0),)] * 3, compiled=compiled)
    assert counter.frame_count == 3
    tokens(model, bank, [(("e1", 1.0),)] * 3, compiled=compiled)
    assert counter.frame_count == 3


def test_models_that_attend_otherwise_are_not_compiled():
    assert not can_compile(tiny_language_model("mistral"))
    assert not can_compile(tiny_language_model("bloom"))


@pytest.mark.gpu
def test_on_cuda_compiled_tokens_are_those_of_eager_passes():
    model, _ = world()
    model.model.to("cuda")
    bank = LoraBank(model.model, model.layers, capacity_bytes=1 << 20, dtype=torch.float32)
    for number in range(2):
        bank.load(f"e{number}", random_weights(model.layers, seed=number, ranks=(5,)))
    compiled = CompiledSteps(model)
    for rows in ([()] * 3, [(("e0", 1.0),), (), (("e1", 1.0),)], [(("e1", 1.0),)] * 3):
        assert tokens(model, bank, rows, compiled=compiled) == tokens(model, bank, rows)
