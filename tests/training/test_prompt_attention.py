"""Prompts' key-values stay apart from the answers' where the model's code allows it, only there."""

import pytest
import torch

from adaptive_moe.training import prompt_attention
from adaptive_moe.training.answer_loss import AnswerLoss
from adaptive_moe.training.encoding import encode_examples
from adaptive_moe.training.prompt_attention import (
    PromptLayer,
    can_attend_over_prompts,
    over_prompts,
)
from tests.support.tiny_models import tiny_language_model


@pytest.mark.parametrize("architecture", ["llama", "mistral", "qwen2"])
def test_models_that_look_attention_up_keep_prompts_apart(architecture):
    assert can_attend_over_prompts(tiny_language_model(architecture))


def test_a_model_of_another_attention_does_not_and_is_left_as_it_was():
    language_model = tiny_language_model("llama")
    language_model.model.config._attn_implementation = "eager"
    assert not can_attend_over_prompts(language_model)
    assert language_model.model.config._attn_implementation == "eager"


def test_a_model_whose_blocks_do_more_with_their_keys_does_not(monkeypatch):
    language_model = tiny_language_model("llama")
    updated = PromptLayer.update
    monkeypatch.setattr(
        PromptLayer, "update", lambda *given: tuple(each * 1 for each in updated(*given))
    )
    assert not can_attend_over_prompts(language_model)


def test_the_model_has_its_own_attention_again_whatever_happens():
    language_model = tiny_language_model("llama")

    def fail():
        with over_prompts(language_model):
            assert language_model.model.config._attn_implementation != "sdpa"
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert language_model.model.config._attn_implementation == "sdpa"


def test_many_weights_are_never_written_down(monkeypatch, examples, make_bank):
    language_model = tiny_language_model("llama")
    bank = make_bank(language_model)
    encoded = encode_examples(language_model, examples[:6]).examples
    loss = AnswerLoss(
        language_model, bank, encoded, activation="answer", prompt_cache_bytes=1 << 20
    )
    totals = []
    for most in (1 << 21, 0):
        monkeypatch.setattr(prompt_attention, "_MOST_WEIGHTS", most)
        with loss.active({}):
            prompts = loss.prompts(range(6))
            assert {type(layer) for layer in prompts.cache.layers} == {PromptLayer}
            totals.append(loss.compute(range(6), prompts).total)
    assert torch.allclose(*totals, rtol=1e-5)
