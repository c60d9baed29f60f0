"""Our loop decodes what transformers' generate does, in any batch, with exact statistics."""

import itertools
import math
import time

import numpy as np
import pytest
import torch
from transformers import GenerationConfig
from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

from adaptive_moe.errors import PromptTooLongError
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


def answer(model, prompts, *, seed=None, stop=None, clock=time.monotonic, **settings):
    """Decode all prompts in one batch; returns the completions."""
    read = prefill(model, prompts)
    *_, last = steps(model, read, seed=seed, stop=stop, clock=clock, **settings)
    return last.completions


def steps(model, read, *, seed=None, stop=None, clock=time.monotonic, **settings):
    return decode(
        model,
        fork(read.header_cache),
        read.first_logits,
        attention_mask=read.attention_mask,
        prompts=read.prompts,
        generation=GenerationConfig(**settings),
        seed=seed,
        stop=stop,
        clock=clock,
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


def test_answers_end_at_the_limit_when_their_time_is_over(llama, prompts):
    free = answer(llama, prompts, **GREEDY)
    clock = itertools.count()  # one second passes with every token
    limited = answer(llama, prompts, clock=lambda: next(clock), max_time=2.5, **GREEDY)
    for completion, whole in zip(limited, free, strict=True):
        assert completion.finish_reason == "length"
        assert completion.token_ids == whole.token_ids[:3]


def test_a_row_that_ended_before_its_time_was_over_is_finished(llama, prompts):
    (free,) = answer(llama, prompts[:1], **GREEDY)
    clock = itertools.count()
    (found,) = answer(
        llama,
        prompts[:1],
        clock=lambda: next(clock),
        max_time=0.5,
        eos_token_id=free.token_ids[0],
        **GREEDY,
    )
    assert found.finish_reason == "stop"


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
