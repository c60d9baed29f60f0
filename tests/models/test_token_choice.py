"""What is chosen is what transformers' processors and samplers choose, or is refused."""

import pytest
import torch
from transformers import GenerationConfig

from adaptive_moe.errors import ConfigurationError
from adaptive_moe.models.decoding import decode, expand, prefill
from tests.models.test_decoding import GREEDY, QUESTIONS, answer, reference, steps
from tests.support.tiny_models import tiny_language_model

ENDS = list(range(40, 200))


@pytest.fixture(scope="module")
def llama():
    return tiny_language_model("llama")


@pytest.fixture(scope="module")
def prompts(llama):
    return [llama.encode(question) for question in QUESTIONS]


@pytest.mark.parametrize(
    "settings",
    [
        {"repetition_penalty": 1.3},
        {"no_repeat_ngram_size": 1},
        {"no_repeat_ngram_size": 3},
        {"min_new_tokens": 20},
        {"suppress_tokens": [90, 91, 92]},
        {"begin_suppress_tokens": [90, 91, 92]},
        {"bad_words_ids": [[90], [91, 92]]},
        {"eos_token_id": ENDS},
        {"stop_strings": ["e", "zz"]},
        {"stop_strings": "<|user|>"},
        {"stop_strings": "or", "min_new_tokens": 3},
        {"min_length": 40, "max_new_tokens": 60, "eos_token_id": ENDS},
        {"min_length": 70, "max_new_tokens": 70, "eos_token_id": ENDS},
        {"min_length": 20, "min_new_tokens": 2, "eos_token_id": ENDS},
        {"exponential_decay_length_penalty": (3, 1.4)},
        {"exponential_decay_length_penalty": (0, 1.1), "repetition_penalty": 1.2},
        {"renormalize_logits": True, "repetition_penalty": 1.2},
    ],
)
def test_settings_do_what_they_do_in_generate(llama, prompts, settings):
    settings = {"max_new_tokens": 24, "eos_token_id": [2], **settings}
    together = answer(llama, prompts, **settings)
    for prompt, completion in zip(prompts, together, strict=True):
        assert completion.token_ids == reference(llama, prompt, **settings)
        assert completion.token_ids == answer(llama, [prompt], **settings)[0].token_ids


def test_an_end_that_never_comes_leaves_length_settings_without_effect(llama, prompts):
    free = answer(llama, prompts, eos_token_id=-1, **GREEDY)
    for settings in ({"min_length": 60}, {"exponential_decay_length_penalty": (1, 2.0)}):
        found = answer(llama, prompts, eos_token_id=-1, **settings, **GREEDY)
        assert [x.token_ids for x in found] == [x.token_ids for x in free]


def test_a_minimal_length_counts_a_rows_own_tokens(llama, prompts):
    least = prompts[1].length + 2
    ends = list(range(llama.vocab_size - 1))  # whatever may end does, as soon as it may
    found = answer(llama, prompts, min_length=least, eos_token_id=ends, max_new_tokens=90)
    for prompt, completion in zip(prompts, found, strict=True):
        assert prompt.length + len(completion.token_ids) > least
        assert set(completion.token_ids[: least - prompt.length]) == {llama.vocab_size - 1}


def test_sampling_depends_on_the_seed_and_not_on_the_batch(llama, prompts):
    settings = {"do_sample": True, "temperature": 1.5, "top_p": 0.9, "max_new_tokens": 16}
    together = [x.token_ids for x in answer(llama, prompts, seed=7, **settings)]
    assert together == [x.token_ids for x in answer(llama, prompts, seed=7, **settings)]
    assert together != [x.token_ids for x in answer(llama, prompts, seed=8, **settings)]
    alone = [answer(llama, [prompt], seed=7, **settings)[0].token_ids for prompt in prompts]
    assert together == alone
    unseeded = {answer(llama, prompts[:1], **settings)[0].token_ids for _ in range(4)}
    assert len(unseeded) > 1


def test_equal_prompts_in_one_batch_draw_differently(llama, prompts):
    read = expand(prefill(llama, prompts[:1]), 4)
    *_, last = steps(llama, read, seed=1, do_sample=True, max_new_tokens=12)
    assert len({completion.token_ids for completion in last.completions}) == 4


def test_draws_follow_the_distribution(llama, prompts):
    read = expand(prefill(llama, prompts[:1]), 2000)
    *_, last = steps(llama, read, seed=1, do_sample=True, max_new_tokens=1, top_k=3)
    drawn = [completion.token_ids[0] for completion in last.completions]
    best = read.first_logits[0].topk(3)
    expected = torch.softmax(best.values, dim=-1)
    for token, share in zip(best.indices.tolist(), expected.tolist(), strict=True):
        assert drawn.count(token) / 2000 == pytest.approx(share, abs=0.04)
    assert set(drawn) <= set(best.indices.tolist())


@pytest.mark.parametrize(
    "settings",
    [
        {"num_beams": 3},
        {"constraints": ["x"]},
        {"penalty_alpha": 0.6},
        {"prompt_lookup_num_tokens": 3},
        {"guidance_scale": 2.0},
        {"forced_eos_token_id": 2},
        {"suppress_tokens": [7, 300]},
        {"sequence_bias": [[[7, 300], 1.0]]},
        {"max_new_tokens": 0},
        {"repetition_penalty": -1.0},
        {"do_sample": True, "temperature": 0.0},
        {"do_sample": True, "top_p": 3.0},
    ],
)
def test_what_this_loop_cannot_do_is_refused_before_the_first_step(llama, prompts, settings):
    generation = GenerationConfig()
    for name, value in {"max_new_tokens": 5, **settings}.items():
        setattr(generation, name, value)  # past transformers' own checks
    read = prefill(llama, prompts)
    with pytest.raises(ConfigurationError, match=list(settings)[-1]):
        decode(
            llama,
            read.header_cache,
            read.first_logits,
            attention_mask=read.attention_mask,
            prompts=prompts,
            generation=generation,
        )
