"""Rows run end to end where the model's code allows it, and only there."""

import pytest
import torch

from adaptive_moe.training import answer_loss, layouts, packing
from adaptive_moe.training.answer_loss import AnswerLoss
from adaptive_moe.training.encoding import encode_examples
from adaptive_moe.training.last_block import LastBlock
from adaptive_moe.training.layouts import lay_out
from adaptive_moe.training.packing import PackedLayer, can_pack, packed
from tests.support.tiny_models import tiny_language_model

_CPU = torch.device("cpu")


@pytest.mark.parametrize("architecture", ["llama", "mistral", "qwen2", "gpt2", "gpt_neox"])
def test_models_that_look_attention_up_are_packed(architecture):
    assert can_pack(tiny_language_model(architecture))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("architecture", ["llama", "mistral"])
def test_a_base_of_less_precision_is_packed_as_well(architecture, dtype):
    language_model = tiny_language_model(architecture)
    language_model.model.to(dtype)
    states = answer_loss._states_function(language_model)
    assert can_pack(language_model)
    assert LastBlock(language_model).gives_the_same(states[0])


@pytest.mark.parametrize("architecture", ["gemma2", "bloom"])
def test_models_of_another_attention_or_without_positions_are_not(architecture):
    assert not can_pack(tiny_language_model(architecture))


def test_a_model_of_another_attention_is_left_as_it_was():
    language_model = tiny_language_model("llama")
    language_model.model.config._attn_implementation = "eager"
    assert not can_pack(language_model)
    assert language_model.model.config._attn_implementation == "eager"


def test_a_model_whose_blocks_do_more_with_their_keys_is_not(monkeypatch):
    language_model = tiny_language_model("llama")
    updated = PackedLayer.update
    monkeypatch.setattr(
        PackedLayer, "update", lambda *given: tuple(each * 1 for each in updated(*given))
    )
    assert not can_pack(language_model)


def test_chunks_of_attention_are_no_windows():
    language_model = tiny_language_model("llama")
    language_model.model.config.layer_types = ["chunked_attention"] * 2
    language_model.model.config.attention_chunk_size = 16
    language_model.model.config.sliding_window = 16
    assert not can_pack(language_model)


def test_the_model_has_its_own_attention_again_whatever_happens():
    language_model = tiny_language_model("llama")

    def fail():
        with packed(language_model):
            assert language_model.model.config._attn_implementation != "sdpa"
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert language_model.model.config._attn_implementation == "sdpa"


def test_rows_of_like_length_lie_together():
    layout = lay_out((800, 3, 790, 4), (2, 5, 2, 1), device=_CPU)
    assert layout.order == (1, 3, 2, 0)
    short, long = layout.parts
    assert [(part.start, part.stop, part.width) for part in (short, long)] == [
        (0, 6, 5),
        (6, 10, 2),
    ]
    assert short.prompts.tolist() == [3, 4]
    assert short.places.tolist() == [0, 1, 2, 3, 4, 5]
    assert long.places is None
    assert layout.positions.tolist() == [[3, 4, 5, 6, 7, 4, 790, 791, 800, 801]]


def test_little_padding_is_worth_no_part():
    assert len(lay_out((10, 20, 15), (1, 1, 1), device=_CPU).parts) == 1


def test_a_token_sees_its_own_row_and_no_further_back_than_the_window():
    (part,) = lay_out((1, 2), (2, 2), device=_CPU).parts
    every = [[[0, 1, 1, 0], [0, 1, 1, 1]], [[1, 1, 1, 0], [1, 1, 1, 1]]]
    assert part.mask(None)[:, 0].int().tolist() == every
    two = [[[0, 1, 1, 0], [0, 0, 1, 1]], [[0, 1, 1, 0], [0, 0, 1, 1]]]
    assert part.mask(2)[:, 0].int().tolist() == two


def test_rows_of_a_slot_lie_end_to_end_and_are_attended_to_together():
    """Rows of 2, 1, 1 and 3 tokens, of slots 0, 1, 0 and 1: the third goes before the first."""
    layout = lay_out((0, 0, 0, 0), (2, 1, 1, 3), device=_CPU, slots=(0, 1, 0, 1))
    assert layout.order == (1, 2, 0, 3)
    assert layout.positions.tolist() == [[0, 0, 1, 0], [0, 0, 1, 2]]
    tokens = torch.tensor([11, 21, 31, 32, 41, 42, 43])
    assert layout.spread(tokens).tolist() == [[21, 31, 32, 0], [11, 41, 42, 43]]
    assert layout.taken(layout.spread(tokens).flatten()).tolist() == tokens.tolist()
    (part,) = layout.parts
    assert (part.start, part.stop, part.width) == (0, 7, 3)


@pytest.mark.parametrize("architecture", ["llama", "mistral"])
@pytest.mark.parametrize("activation", ["answer", "prompt"])
def test_parts_change_nothing(architecture, activation, monkeypatch, examples, make_bank):
    language_model = tiny_language_model(architecture)
    encoded = encode_examples(language_model, examples[:6]).examples
    loss = AnswerLoss(
        language_model,
        make_bank(language_model),
        encoded,
        activation=activation,
        prompt_cache_bytes=1 << 20,
    )
    found = []
    for worth in (1, 1 << 20):
        monkeypatch.setattr(layouts, "_WORTH_A_PART", worth)
        with loss.active({}):
            prompts = loss.prompts(range(6))
            found.append(loss.compute(range(6), prompts).per_example)
    assert len(prompts.layout.parts) == 1
    assert torch.allclose(*found, rtol=1e-5)


def test_many_weights_are_never_written_down(monkeypatch, examples, make_bank):
    language_model = tiny_language_model("llama")
    bank = make_bank(language_model)
    encoded = encode_examples(language_model, examples[:6]).examples
    loss = AnswerLoss(
        language_model, bank, encoded, activation="answer", prompt_cache_bytes=1 << 20
    )
    totals = []
    for most in (1 << 21, 0):
        monkeypatch.setattr(packing, "_MOST_WEIGHTS", most)
        with loss.active({}):
            prompts = loss.prompts(range(6))
            totals.append(loss.compute(range(6), prompts).total)
    assert torch.allclose(*totals, rtol=1e-5)


@pytest.mark.parametrize("activation", ["answer", "prompt"])
def test_a_model_whose_head_cannot_be_parted_gives_the_same_loss(
    activation, monkeypatch, examples, make_bank
):
    language_model = tiny_language_model("llama")
    bank = make_bank(language_model)
    encoded = encode_examples(language_model, examples[:6]).examples
    found = []
    for parts in (answer_loss._states_function, lambda _model: None):
        monkeypatch.setattr(answer_loss, "_states_function", parts)
        loss = AnswerLoss(
            language_model, bank, encoded, activation=activation, prompt_cache_bytes=1 << 20
        )
        with loss.active({}):
            found.append(loss.compute([4, 0, 5], loss.prompts([4, 0, 5])).per_example)
    assert torch.allclose(*found, rtol=1e-5)
