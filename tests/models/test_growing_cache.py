"""A cache with room at its end holds what a concatenating one would, whoever shares it."""

import pytest
import torch
from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

from adaptive_moe.models.growing_cache import (
    GrowingLayer,
    can_be_cut,
    fork,
    growing,
    new_cache,
    without_last,
)
from tests.support.tiny_models import tiny_language_model


def states(time, *, seed=0, batch=2):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, 3, time, 4, generator=generator)


def filled(time=5):
    cache = DynamicCache()
    cache.layers = [DynamicLayer()]
    cache.update(states(time), states(time, seed=1), 0)
    return cache


def content(cache):
    return cache.layers[0].keys.clone(), cache.layers[0].values.clone()


def same(left, right):
    return all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


@pytest.mark.parametrize("steps", [[1] * 200, [3, 1, 70, 1, 300, 1]])
def test_it_holds_what_concatenation_would(steps):
    plain, grown = filled(), growing(filled())
    for number, time in enumerate(steps):
        new = states(time, seed=number), states(time, seed=-number - 1)
        expected, found = plain.update(*new, 0), grown.update(*new, 0)
        assert same(expected, found)
    assert grown.get_seq_length() == plain.get_seq_length() == 5 + sum(steps)
    assert same(content(plain), content(grown))


def test_it_may_begin_empty():
    cache = DynamicCache()
    cache.layers = [GrowingLayer()]
    assert cache.get_seq_length() == 0
    cache.update(states(5), states(5, seed=1), 0)
    assert same(content(cache), content(filled()))


def test_a_token_is_written_into_the_room_that_is_there():
    cache = growing(filled())
    cache.update(states(1), states(1), 0)
    before = cache.layers[0].keys.data_ptr()
    cache.update(states(1, seed=2), states(1, seed=3), 0)
    assert cache.layers[0].keys.data_ptr() == before


def test_decoding_on_leaves_what_was_begun_from():
    begun = filled()
    before = content(begun)
    cache = growing(begun)
    for _ in range(3):
        cache.update(states(1), states(1), 0)
    assert same(content(begun), before)
    assert begun.get_seq_length() == 5


def test_forks_of_a_growing_cache_go_their_own_ways():
    cache = growing(filled())
    cache.update(states(1, seed=4), states(1, seed=5), 0)
    twin = fork(cache)
    at_fork = content(cache)
    cache.update(states(1, seed=6), states(1, seed=7), 0)
    assert same(content(twin), at_fork)
    mine = content(cache)
    twin.update(states(2, seed=8), states(2, seed=9), 0)
    assert same(content(cache), mine)
    assert torch.equal(twin.layers[0].keys[:, :, 6:], states(2, seed=8))


def test_cutting_gives_back_what_came_before():
    cache = filled(3)
    before = content(cache)
    cache.update(states(2, seed=4), states(2, seed=5), 0)
    for longer in (cache, growing(cache)):
        shorter = without_last(longer, 2)
        assert same(content(shorter), before)
        shorter.update(states(1, seed=6), states(1, seed=7), 0)
        assert longer.get_seq_length() == 5
        assert torch.equal(longer.layers[0].keys[:, :, 3:], states(2, seed=4))
    assert without_last(cache, 0).get_seq_length() == 5


def test_rows_can_be_chosen_and_repeated():
    cache = growing(filled())
    cache.update(states(1, seed=4), states(1, seed=5), 0)
    rows = content(cache)[0]
    chosen = fork(cache)
    chosen.batch_select_indices(torch.tensor([1]))
    chosen.batch_repeat_interleave(2)
    chosen.update(states(1, seed=6), states(1, seed=7), 0)
    assert torch.equal(chosen.layers[0].keys[0, :, :6], rows[1])
    assert torch.equal(chosen.layers[0].keys[1, :, :6], rows[1])
    assert torch.equal(cache.layers[0].keys, rows)


def test_only_full_attention_can_be_cut():
    cache = DynamicCache()
    cache.layers = [DynamicLayer(), GrowingLayer()]
    assert can_be_cut(cache)
    cache.layers.append(DynamicSlidingWindowLayer(sliding_window=4))
    assert not can_be_cut(cache)


@pytest.mark.parametrize(("architecture", "once"), [("llama", True), ("mistral", False)])
def test_a_prompt_is_read_in_one_pass_where_its_cache_can_be_cut(architecture, once):
    model = tiny_language_model(architecture)
    assert can_be_cut(new_cache(model)) == once
