"""Our loop decodes what transformers' generate does, in any batch, with exact statistics."""

import math

import numpy as np
import pytest
import torch
from transformers import GenerationConfig
from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

from adaptive_moe.errors import ConfigurationError, PromptTooLongError
from adaptive_moe.models import decoding
from adaptive_moe.models.decoding import (
    decode,
    expand,
    fork,
    prefill,
    prefill_whole,
    run_header,
    take_rows,
)
from tests.support.tiny_models import ARCHITECTURES, tiny_language_model

QUESTIONS = ("hi", "the capital of France is what, tell me now please", "symbol of iron")
GREEDY = {"max_new_tokens": 24}


def answer(model, prompts, *, seed=None, stop=None, **settings):
    """Decode all prompts in one batch; returns the completions."""
    read = prefill(model, prompts)
    *_, last = steps(model, read, seed=seed, stop=stop, **settings)
    return last.completions


def steps(model, read, *, seed=None, stop=None, **settings):
    return decode(
        model,
        fork(read.header_cache),
        read.first_logits,
        attention_mask=read.attention_mask,
        prompts=read.prompts,
        generation=GenerationConfig(**settings),
        seed=seed,
        stop=stop,
    )


def reference(model, prompt, **settings):
    """The same answer by transformers, one prompt at a time."""
    ids = torch.tensor([[*prompt.prompt_ids, *prompt.header_ids]])
    if settings.get("stop_strings"):
        settings["tokenizer"] = model.tokenizer
    found = model.model.generate(
        ids, attention_mask=torch.ones_like(ids), pad_token_id=0, do_sample=False, **settings
    )
    return tuple(found[0, ids.shape[1] :].tolist())


@pytest.fixture(scope="module")
def llama():
    return tiny_language_model("llama")


@pytest.fixture(scope="module")
def prompts(llama):
    return [llama.encode(question) for question in QUESTIONS]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_greedy_tokens_are_those_of_generate_in_any_batch(architecture):
    model = tiny_language_model(architecture)
    encoded = [model.encode(question) for question in QUESTIONS]
    together = answer(model, encoded, **GREEDY)
    for prompt, completion in zip(encoded, together, strict=True):
        assert completion.token_ids == reference(model, prompt, **GREEDY)
        (alone,) = answer(model, [prompt], **GREEDY)
        assert completion.token_ids == alone.token_ids
        assert completion.text == alone.text
        for name in completion.trace.__slots__:
            mine, other = getattr(completion.trace, name), getattr(alone.trace, name)
            np.testing.assert_allclose(mine, other, atol=1e-4)


@pytest.mark.parametrize("architecture", ["llama", "gpt_neo", "opt", "bloom", "gemma2"])
def test_prefill_keeps_the_states_that_transformers_reports(architecture):
    model = tiny_language_model(architecture, layers=4)
    encoded = [model.encode(question) for question in QUESTIONS]
    read = prefill(model, encoded)
    for row, prompt in enumerate(encoded):
        ids = torch.tensor([[*prompt.prompt_ids, *prompt.header_ids]])
        with torch.inference_mode():
            output = model.model(ids, output_hidden_states=True)
        for place, layer in enumerate(model.state_layers):
            states = output.hidden_states[layer][0]
            mean = states[: len(prompt.prompt_ids)].mean(dim=0)
            torch.testing.assert_close(read.pooled[row, place], mean, atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(
                read.header_states[row, place], states[-1], atol=1e-4, rtol=1e-4
            )
        torch.testing.assert_close(read.first_logits[row], output.logits[0, -1], atol=1e-4, rtol=0)


def test_prefill_leaves_no_hook_behind(llama, prompts):
    prefill(llama, prompts)
    assert not any(block._forward_hooks for block in llama.blocks)


@pytest.mark.parametrize("architecture", ["llama", "mistral"])
def test_continuing_one_fork_leaves_the_other_as_it_was(architecture):
    model = tiny_language_model(architecture)
    encoded = [model.encode(question) for question in QUESTIONS]
    read = prefill(model, encoded)
    before = [(layer.keys.clone(), layer.values.clone()) for layer in read.cache.layers]
    first = [completion.token_ids for completion in answer(model, encoded, **GREEDY)]
    for _ in range(2):  # from the same prefill, twice
        cache, logits = run_header(model, read)
        torch.testing.assert_close(logits, read.first_logits, atol=1e-4, rtol=0)
        *_, last = decode(
            model,
            cache,
            logits,
            attention_mask=read.attention_mask,
            prompts=read.prompts,
            generation=GenerationConfig(**GREEDY),
        )
        assert [completion.token_ids for completion in last.completions] == first
    for layer, (keys, values) in zip(read.cache.layers, before, strict=True):
        assert torch.equal(layer.keys, keys)
        assert torch.equal(layer.values, values)


def test_a_fork_shares_tensors_only_where_layers_concatenate():
    class Overwriting(DynamicLayer):
        """A layer kind that we know nothing about."""

    for kind, is_shared in (
        (DynamicLayer(), True),
        (DynamicSlidingWindowLayer(sliding_window=4), True),
        (Overwriting(), False),
    ):
        cache = DynamicCache()
        cache.layers = [kind]
        cache.update(torch.ones(1, 1, 2, 3), torch.ones(1, 1, 2, 3), 0)
        twin = fork(cache)
        same = twin.layers[0].keys.data_ptr() == cache.layers[0].keys.data_ptr()
        assert same == is_shared
        twin.update(torch.ones(1, 1, 5, 3), torch.ones(1, 1, 5, 3), 0)
        assert cache.get_seq_length() == 2


@pytest.mark.parametrize("architecture", ["llama", "mistral", "gpt_neo"])
def test_rows_taken_from_a_batch_go_on_as_in_the_batch(architecture):
    model = tiny_language_model(architecture)
    encoded = [model.encode(question) for question in QUESTIONS]
    read = prefill(model, encoded)
    *_, whole = steps(model, read, **GREEDY)
    *_, part = steps(model, take_rows(read, [2, 0]), **GREEDY)
    chosen = [whole.completions[row].token_ids for row in (2, 0)]
    assert [completion.token_ids for completion in part.completions] == chosen
    assert [prompt.text for prompt in expand(read, 2).prompts] == [
        x for x in QUESTIONS for _ in "ab"
    ]


def test_reading_prompt_and_header_at_once_gives_the_same(llama, prompts):
    cache, mask, logits = prefill_whole(llama, prompts)
    torch.testing.assert_close(logits, prefill(llama, prompts).first_logits, atol=1e-4, rtol=0)
    *_, last = decode(
        llama,
        cache,
        logits,
        attention_mask=mask,
        prompts=prompts,
        generation=GenerationConfig(**GREEDY),
    )
    expected = [completion.token_ids for completion in answer(llama, prompts, **GREEDY)]
    assert [completion.token_ids for completion in last.completions] == expected


def slow_statistics(logits, token):
    """Every statistic by its definition, in double precision and plain Python."""
    values = logits.double().tolist()
    highest = max(values)
    energy = highest + math.log(sum(math.exp(v - highest) for v in values))
    p = [math.exp(v - energy) for v in values]
    size = len(p)
    first, second = sorted(p, reverse=True)[:2]
    return {
        "log_probability": values[token] - energy,
        "entropy": -sum(x * math.log(x) for x in p if x > 0),
        "margin": first - second,
        "max_probability": first,
        "self_certainty": sum(math.log(1 / (size * x)) / size for x in p),
        "renyi": 1 / (0.5 - 1) * math.log(sum(x**0.5 * (1 / size) ** 0.5 for x in p)),
        "log_sum_exp": energy,
    }


SETTINGS = [
    {},
    {"repetition_penalty": 1.7, "no_repeat_ngram_size": 2},
    {"do_sample": True, "temperature": 2.0, "top_k": 5},
]


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("block_bytes", [1, 10_000, 1 << 20])
def test_statistics_are_of_the_raw_logits(llama, prompts, settings, block_bytes, monkeypatch):
    monkeypatch.setattr("adaptive_moe.models.token_trace._BLOCK_BYTES", block_bytes)
    completions = answer(llama, prompts, seed=3, max_new_tokens=12, **settings)
    for prompt, completion in zip(prompts, completions, strict=True):
        start = prompt.length - 1
        ids = [*prompt.prompt_ids, *prompt.header_ids, *completion.token_ids]
        with torch.inference_mode():
            logits = llama.model(torch.tensor([ids])).logits[0]
        assert len(completion.trace) == len(completion.token_ids)
        for step, token in enumerate(completion.token_ids):
            for name, expected in slow_statistics(logits[start + step], token).items():
                found = getattr(completion.trace, name)[step]
                assert found == pytest.approx(expected, abs=1e-4), (name, step)


def test_statistics_stand_the_right_way_up():
    flat, peaked = torch.zeros(1, 8), torch.tensor([[30.0, *[0.0] * 7]])
    uniform, certain = (
        dict(
            zip(
                decoding.TokenTrace.__slots__,
                decoding.token_statistics(x, torch.tensor([0]))[:, 0].tolist(),
                strict=True,
            )
        )
        for x in (flat, peaked)
    )
    assert uniform["entropy"] == pytest.approx(math.log(8))
    assert certain["entropy"] == pytest.approx(0, abs=1e-6)
    for name in ("renyi", "self_certainty", "margin"):
        assert uniform[name] == pytest.approx(0, abs=1e-6)
    assert certain["renyi"] == pytest.approx(math.log(8), abs=1e-4)
    assert certain["margin"] == certain["max_probability"] == pytest.approx(1)
    assert uniform["max_probability"] == pytest.approx(1 / 8)


def test_two_equal_maxima_have_no_margin():
    logits = torch.tensor([[2.0, 5.0, 5.0, 1.0]])
    margin = decoding.token_statistics(logits, torch.tensor([0]))[2]
    assert margin.item() == 0.0


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
        {"eos_token_id": [40, 41, 42, 43, 44, 45, 46, 47, 48, 49, 50]},
        {"stop_strings": ["e", "zz"]},
        {"stop_strings": "<|user|>"},
        {"stop_strings": "or", "min_new_tokens": 3},
    ],
)
def test_settings_do_what_they_do_in_generate(llama, prompts, settings):
    settings = {"max_new_tokens": 24, "eos_token_id": [2], **settings}
    together = answer(llama, prompts, **settings)
    for prompt, completion in zip(prompts, together, strict=True):
        assert completion.token_ids == reference(llama, prompt, **settings)


def test_a_stop_string_ends_its_row_and_stays_in_the_text(llama, prompts):
    (free,) = answer(llama, prompts[:1], **GREEDY)
    middle = llama.decode(free.token_ids[3:6])
    (stopped,) = answer(llama, prompts[:1], stop_strings=middle, **GREEDY)
    assert stopped.finish_reason == "stop"
    assert middle in stopped.text
    assert len(stopped.token_ids) < len(free.token_ids)


def test_rows_end_on_their_own_and_the_batch_with_the_last(llama, prompts):
    free = answer(llama, prompts, **GREEDY)
    ends = [row.token_ids[place] for row, place in zip(free, (2, 9, 5), strict=True)]
    seen = list(steps(llama, prefill(llama, prompts), eos_token_id=ends, **GREEDY))
    completions = seen[-1].completions
    assert all(step.completions is None for step in seen[:-1])
    assert len(seen) == max(len(x.token_ids) for x in completions) < 24
    for row, completion in enumerate(completions):
        assert completion.finish_reason == "stop"
        assert completion.token_ids[-1] in ends
        streamed = [step.token_ids[row] for step in seen]
        assert [x for x in streamed if x is not None] == list(completion.token_ids)
        assert streamed[len(completion.token_ids) :] == [None] * (
            len(seen) - len(completion.token_ids)
        )


def test_limits_count_a_rows_own_tokens(llama, prompts):
    (short, long, _) = answer(llama, prompts, max_length=prompts[1].length + 2, eos_token_id=[])
    assert (len(long.token_ids), long.finish_reason) == (2, "length")
    assert len(short.token_ids) == prompts[1].length + 2 - prompts[0].length


@pytest.mark.parametrize("architecture", ["gpt2", "opt", "gpt_neo"])
def test_no_position_past_the_context_is_asked_for(architecture):
    model = tiny_language_model(architecture)
    encoded = [model.encode("a"), model.encode("a " * 60)]
    short, long = answer(model, encoded, eos_token_id=[])
    assert encoded[1].length + len(long.token_ids) == model.context_length
    if not model.has_fixed_mask:
        assert encoded[0].length + len(short.token_ids) == model.context_length
    assert long.finish_reason == short.finish_reason == "length"


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


def test_an_interrupted_answer_is_kept(llama, prompts):
    polls = iter([False, False, True])
    completions = answer(llama, prompts, stop=lambda: next(polls), max_new_tokens=24)
    free = answer(llama, prompts, **GREEDY)
    for completion, whole in zip(completions, free, strict=True):
        assert completion.finish_reason == "interrupted"
        assert completion.token_ids == whole.token_ids[:3]
        assert len(completion.trace) == 3


def test_between_two_steps_the_callers_own_mode_holds(llama, prompts):
    for _ in steps(llama, prefill(llama, prompts), **GREEDY):
        assert not torch.is_inference_mode_enabled()


@pytest.mark.parametrize(
    "settings",
    [
        {"num_beams": 3},
        {"constraints": ["x"]},
        {"penalty_alpha": 0.6},
        {"prompt_lookup_num_tokens": 3},
        {"guidance_scale": 2.0},
        {"min_length": 5},
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


def test_a_full_context_leaves_no_answer(llama):
    prompt = llama.encode("a" * (llama.context_length - 6))
    filler = llama.context_length - prompt.length
    full = decoding.EncodedPrompt((*prompt.prompt_ids, *[9] * filler), prompt.header_ids, "")
    with pytest.raises(PromptTooLongError):
        answer(llama, [full], max_new_tokens=1)


@pytest.mark.gpu
def test_on_cuda_the_tokens_are_those_of_the_cpu(llama, prompts):
    device = tiny_language_model("llama")
    device.model.to("cuda")
    on_cpu = [x.token_ids for x in answer(llama, prompts, **GREEDY)]
    assert [x.token_ids for x in answer(device, prompts, **GREEDY)] == on_cpu
