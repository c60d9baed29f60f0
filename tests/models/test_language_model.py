"""Conversations become ids that are cut exactly at the generation header, and answers end once."""

import pytest
import torch

from adaptive_moe.errors import (
    DataError,
    EmptyPromptError,
    PromptError,
    PromptTooLongError,
    UnsupportedModelError,
)
from adaptive_moe.models.chat_format import PLAIN_HEADER
from adaptive_moe.models.loading import adopt
from tests.support.tiny_models import tiny_language_model, tiny_model

CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello"},
    {"role": "user", "content": "Who?"},
]
USER_ONLY = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'system' %}"
    "{{ raise_exception('no system turns') }}{% elif m['role'] == 'user' %}"
    "[INST] {{ m['content'] }} [/INST]{% else %} {{ m['content'] }}{{ eos_token }}{% endif %}"
    "{% endfor %}"
)


def with_template(template):
    model, tokenizer = tiny_model("llama")
    tokenizer.chat_template = template
    return adopt(model, tokenizer)


@pytest.fixture
def llama():
    return tiny_language_model("llama")


def test_prompt_and_header_are_the_template_with_its_generation_prompt(llama):
    encoded = llama.encode(CHAT)
    whole = llama.tokenizer.apply_chat_template(CHAT, add_generation_prompt=True)["input_ids"]
    without = llama.tokenizer.apply_chat_template(CHAT, add_generation_prompt=False)["input_ids"]
    assert list(encoded.prompt_ids) == without
    assert [*encoded.prompt_ids, *encoded.header_ids] == whole
    assert encoded.header_ids == llama.header_ids == (5,)
    assert encoded.text == "Who?"
    assert encoded.length == len(whole)


def test_bos_stands_once_with_and_without_a_template(llama):
    assert llama.encode("Hi").prompt_ids.count(1) == 1
    model, tokenizer = tiny_model("llama", chat_template=False)
    assert adopt(model, tokenizer).encode("Hi").prompt_ids.count(1) == 0  # adds none by itself


def test_a_string_is_one_user_turn(llama):
    assert llama.encode("Hi") == llama.encode([{"role": "user", "content": "Hi"}])


def test_without_a_template_a_fixed_header_of_ours_follows_the_text():
    plain = tiny_language_model("gpt2", chat_template=False)
    encoded = plain.encode("What is iron?")
    assert plain.decode(encoded.prompt_ids) == "What is iron?"
    assert plain.decode(encoded.header_ids) == PLAIN_HEADER
    turns = plain.encode(CHAT)
    assert plain.decode(turns.prompt_ids) == f"Be brief.\n\nHi{PLAIN_HEADER}Hello\n\nWho?"


def test_a_template_that_appends_nothing_lends_the_end_all_its_questions_share():
    model = with_template(USER_ONLY)
    assert model.decode(model.header_ids) == " [/INST]"
    assert model.decode(model.encode("Hi").prompt_ids) == "[INST] Hi"


def test_a_refused_system_turn_moves_into_the_first_user_turn():
    model = with_template(USER_ONLY)
    assert model.decode(model.encode(CHAT[:2]).prompt_ids) == "[INST] Be brief.\n\nHi"


def test_a_conversation_the_template_refuses_is_a_prompt_error():
    model = with_template(
        "{% if messages | length > 1 and messages[0]['role'] == 'user' and "
        "messages[1]['role'] == 'user' %}{{ raise_exception('roles must alternate') }}{% endif %}"
        "{% for m in messages %}{{ m['content'] }}<|end|>{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )
    with pytest.raises(PromptError, match="roles must alternate"):
        model.encode([CHAT[1], CHAT[3]])


def test_an_answer_ends_in_exactly_one_end_token(llama):
    ids = llama.encode_answer("Fe")
    assert ids[-1] == llama.tokenizer.eos_token_id
    assert sum(token in llama.eos_ids for token in ids) == 1
    assert llama.decode_answer(ids) == "Fe"


def test_an_answer_is_tokenised_as_the_template_writes_it_after_the_header():
    model = with_template(USER_ONLY)
    ids = model.encode_answer("Fe")
    whole = model.tokenizer.apply_chat_template(
        [CHAT[1], {"role": "assistant", "content": "Fe"}], tokenize=True
    )["input_ids"]
    encoded = model.encode("Hi")
    assert [*encoded.prompt_ids, *encoded.header_ids, *ids] == whole
    assert model.decode(ids) == " Fe"
    assert model.decode_answer(ids) == "Fe"


def test_an_answer_may_not_hold_the_header_or_an_end_token(llama):
    for text in ("a<|assistant|>b", "a<|end|>b"):
        with pytest.raises(DataError, match="may not contain"):
            llama.encode_answer(text)
    with pytest.raises(DataError):
        tiny_language_model("gpt2", chat_template=False).encode_answer(f"a{PLAIN_HEADER}b")


@pytest.mark.parametrize("prompt", ["", "  \n", [], [{"role": "user", "content": " "}]])
def test_an_empty_prompt_is_refused(llama, prompt):
    with pytest.raises(EmptyPromptError):
        llama.encode(prompt)


@pytest.mark.parametrize(
    "prompt",
    [[{"role": "robot", "content": "a"}], [{"role": "user"}], CHAT[:3]],
)
def test_turns_that_are_no_conversation_are_refused(llama, prompt):
    with pytest.raises(PromptError):
        llama.encode(prompt)


def test_prompt_and_answer_must_fit_into_the_context(llama):
    free = llama.context_length - llama.encode("a").length
    assert llama.encode("a", max_new_tokens=free)
    with pytest.raises(PromptTooLongError, match="256"):
        llama.encode("a", max_new_tokens=free + 1)
    with pytest.raises(PromptTooLongError):
        llama.encode("a " * 300)


def test_lone_surrogates_do_no_harm(llama):
    assert llama.decode(llama.encode("a\ud800b").prompt_ids).startswith("a")


def test_it_is_frozen_and_in_eval_mode(llama):
    assert not llama.model.training
    assert not any(parameter.requires_grad for parameter in llama.model.parameters())
    assert (llama.hidden_size, llama.layer_count, llama.vocab_size) == (32, 2, 300)
    assert llama.dtype == torch.float32
    assert llama.device.type == "cpu"


@pytest.mark.parametrize(("depth", "expected"), [(2, (1, 1, 1)), (4, (1, 2, 3)), (6, (2, 3, 4))])
def test_states_are_taken_at_a_third_a_half_and_two_thirds(depth, expected):
    assert tiny_language_model("llama", layers=depth).state_layers == expected


def test_a_model_without_an_end_token_is_refused():
    model, tokenizer = tiny_model("llama")
    tokenizer.eos_token = None
    model.config.eos_token_id = None
    model.generation_config.eos_token_id = None
    with pytest.raises(UnsupportedModelError, match="end-of-sequence"):
        adopt(model, tokenizer)
