"""A conversation is read from where it differs on, and its answers are those of reading it all."""

import json

import numpy as np
import pytest

from adaptive_moe import AdaptiveMoE
from adaptive_moe.config.loading import load_settings
from adaptive_moe.models.growing_cache import new_cache
from adaptive_moe.models.prefilling import forward, left_pad, prefill, prefill_on
from adaptive_moe.models.prompt_memory import PromptMemory
from tests.support.tiny_models import tiny_language_model

ROWS = [{"prompt": f"What is the colour of {n}?", "response": f"blue {n}"} for n in range(24)]
TURNS = (
    "What is the capital of France?",
    "And what is the capital of Japan?",
    "What is the opposite of hot?",
)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A store with one expert of the pocket model, trained for a few steps."""
    folder = tmp_path_factory.mktemp("conversations")
    rows = folder / "rows.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    quick = ["training.max_steps=4", "training.rank=2", "training.guard_prompts=0"]
    settings = load_settings(overrides=[f"store={folder / 'store'}", *quick])
    with AdaptiveMoE.from_settings(settings) as moe:
        outcome = moe.train_expert("colours", rows, force=True)
        moe.store.activate(outcome.record.expert_id)
    return folder / "store"


def opened(store, *overrides):
    return AdaptiveMoE.from_settings(load_settings(overrides=[f"store={store}", *overrides]))


def held(moe, routes, turns=TURNS):
    """Ask turn after turn; every answer goes into the conversation."""
    messages, answers = [], []
    for text, route in zip(turns, routes, strict=True):
        messages.append({"role": "user", "content": text})
        answers.append(moe.generate(messages, experts=route))
        messages.append({"role": "assistant", "content": answers[-1].text})
    return answers


@pytest.mark.parametrize(
    "routes",
    [
        (None, None, None),
        (["colours"], None, ["colours"]),
        (None, ["colours"], ["colours"]),
    ],
    ids=["base", "expert first", "expert later"],
)
def test_answers_are_those_of_a_runtime_that_remembers_nothing(store, routes):
    with opened(store) as moe, opened(store, "cache.prompt_bytes=0") as forgetful:
        found, expected = held(moe, routes), held(forgetful, routes)
    assert [answer.text for answer in found] == [answer.text for answer in expected]
    for mine, other in zip(found, expected, strict=True):
        for name, score in other.confidence.scores.items():
            np.testing.assert_allclose(mine.confidence.scores[name], score, atol=1e-4)
        if other.attribution is not None:
            np.testing.assert_allclose(mine.attribution.shares, other.attribution.shares, atol=1e-4)
    assert [answer.usage.known_tokens for answer in expected] == [0, 0, 0]


def test_after_the_base_only_what_is_new_is_read(store):
    with opened(store) as moe:
        first, second, _ = held(moe, (None, None, None))
    said = first.usage.prompt_tokens + first.usage.completion_tokens
    # All but the token that ended the answer, which nothing was read after.
    assert second.usage.known_tokens == said - 1
    assert first.usage.known_tokens == 0


def test_what_an_expert_said_is_read_by_the_base(store):
    with opened(store) as moe:
        first, second, third = held(moe, (["colours"], None, None))
        header = len(moe.language_model.header_ids)
    assert second.usage.known_tokens == first.usage.prompt_tokens - header
    assert third.usage.known_tokens > second.usage.prompt_tokens


def test_another_conversation_shares_nothing_but_its_beginning(store):
    system = {"role": "system", "content": "Answer in one word, and never explain yourself."}
    with opened(store, "cache.prompt_bytes=0") as forgetful:
        other = [system, {"role": "user", "content": "What is the opposite of hot?"}]
        expected = forgetful.generate(other, experts=None)
    with opened(store) as moe:
        moe.generate([system, {"role": "user", "content": TURNS[0]}], experts=None)
        found = moe.generate(other, experts=None)
    assert found.text == expected.text
    assert 0 < found.usage.known_tokens < found.usage.prompt_tokens


def test_memory_that_runs_out_forgets_first(store):
    with opened(store) as moe:
        held(moe, (None, None, None))
        failed = []

        def full_once(*_):
            if not failed:
                failed.append(True)
                raise RuntimeError("out of memory")

        hook = moe.language_model.model.register_forward_pre_hook(full_once)
        try:
            messages = [{"role": "user", "content": TURNS[0]}]
            messages += [{"role": "assistant", "content": "Paris"}]
            messages += [{"role": "user", "content": TURNS[1]}]
            answer = moe.generate(messages, experts=None)
        finally:
            hook.remove()
    assert answer.usage.known_tokens == 0
    assert answer.text == "Tokyo"


def read(model, ids):
    """A cache of these ids, read by the base."""
    cache = new_cache(model)
    row, _ = left_pad(model, [ids])
    forward(model, row, cache=cache, attention_mask=None)
    return cache


@pytest.mark.parametrize("architecture", ["llama", "mistral", "gpt2"])
def test_reading_on_gives_what_reading_all_gives(architecture):
    model = tiny_language_model(architecture)
    prompt = model.encode(
        [
            {"role": "user", "content": "the symbol of iron"},
            {"role": "assistant", "content": "Fe"},
            {"role": "user", "content": "and the capital of France"},
        ]
    )
    whole = prefill(model, [prompt])
    for tokens in (9, len(prompt.prompt_ids)):
        known = read(model, prompt.prompt_ids[:tokens])
        part = prefill_on(model, prompt, known, tokens=tokens)
        np.testing.assert_allclose(part.first_logits, whole.first_logits, atol=1e-4)
        np.testing.assert_allclose(part.header_states, whole.header_states, atol=1e-4)
        assert part.cache.get_seq_length() == whole.cache.get_seq_length()


def test_the_longest_unused_are_forgotten_first():
    model = tiny_language_model("llama")
    size = sum(
        layer.keys.nbytes + layer.values.nbytes for layer in read(model, range(5, 25)).layers
    )
    memory = PromptMemory(model, capacity_bytes=2 * size)
    for start in (30, 60, 90):
        ids = range(start, start + 20)
        memory.keep(ids, read(model, ids))
        assert memory.longest(range(30, 50)) is not None
    assert memory.longest(range(60, 80)) is None
    assert memory.used_bytes == 2 * size
    assert memory.clear()
    assert memory.longest(range(30, 50)) is None


def test_a_longer_entry_takes_the_place_of_its_beginning():
    model = tiny_language_model("llama")
    memory = PromptMemory(model, capacity_bytes=1 << 20)
    memory.keep(range(20, 30), read(model, range(20, 30)))
    shorter = memory.used_bytes
    memory.keep(range(20, 40), read(model, range(20, 40)))
    assert memory.used_bytes == 2 * shorter
    _, tokens = memory.longest(range(20, 35))
    assert tokens == 15


def test_windows_that_slide_are_only_used_whole():
    model = tiny_language_model("mistral")
    memory = PromptMemory(model, capacity_bytes=1 << 20)
    memory.keep(range(20, 40), read(model, range(20, 40)))
    assert memory.longest(range(20, 35)) is None
    cache, tokens = memory.longest(range(20, 60))
    assert (tokens, cache.get_seq_length()) == (20, 20)
