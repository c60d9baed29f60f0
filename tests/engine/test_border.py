"""What a caller hands over is checked at the door, and refused in our own words."""

import json
import math
import subprocess
import sys

import pytest

from adaptive_moe import AdaptiveMoE
from adaptive_moe.config.settings import BaseModelSettings, GenerationSettings, Settings
from adaptive_moe.engine.border import Given, as_batch, request_of
from adaptive_moe.errors import ConfigurationError, DataError, ModelNotFoundError, PromptError

QUESTION = "What is the capital of France?"
GIVEN = Given("auto", attribution=False, seed=None)
MESSAGE = {"role": "user", "content": QUESTION}
ROWS = [{"prompt": f"What is the colour of {n}?", "response": f"blue {n}"} for n in range(60)]


@pytest.fixture(scope="module")
def moe(tmp_path_factory):
    with AdaptiveMoE.from_pretrained(store=tmp_path_factory.mktemp("home") / "store") as runtime:
        yield runtime


@pytest.fixture
def rows(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return file


def test_the_base_of_the_settings_is_loaded_unless_another_is_given(tmp_path):
    settings = Settings(base=BaseModelSettings(id=str(tmp_path / "absent")))
    for named in ({}, {"base": tmp_path / "absent"}):
        with pytest.raises(ModelNotFoundError, match="absent"):
            AdaptiveMoE.from_pretrained(**named, settings=settings, store=tmp_path / "store")
    with AdaptiveMoE.from_pretrained("pocket", settings=settings, store=tmp_path / "store") as moe:
        assert moe.settings.base.id == moe.language_model.name == "pocket"


@pytest.mark.parametrize("dtype", ["fp32", "auto", "float32"])
def test_a_dtype_may_be_abbreviated(tmp_path, dtype):
    with AdaptiveMoE.from_pretrained(dtype=dtype, device="cpu", store=tmp_path / "store") as moe:
        assert moe.language_model.numerics.dtype == "float32"


def test_settings_take_the_same_dtypes():
    def in_full(dtype):
        return BaseModelSettings(dtype=dtype).dtype

    assert [in_full(short) for short in ("fp32", "bf16", "fp16")] == [
        "float32",
        "bfloat16",
        "float16",
    ]
    assert in_full("auto") is in_full(None) is None


@pytest.mark.parametrize(
    ("word", "value"), [("dtype", "foo"), ("quantization", "int4"), ("device", "abacus")]
)
def test_an_unknown_word_for_the_base_is_named(word, value):
    with pytest.raises(ConfigurationError, match=f"{word}.*{value}"):
        AdaptiveMoE.from_pretrained(**{word: value})


@pytest.mark.parametrize(
    "settings",
    [
        {"max_new_tokens": 0},
        {"max_new_tokens": "many"},
        {"max_length": -1},
        {"stop_strings": 5},
        {"eos_token_id": "x"},
        {"early_stopping": "never"},
        {"temperature": "hot", "do_sample": True},
        {"num_return_sequences": 3},
        {"num_return_sequences": 0, "do_sample": True},
        {"num_beams": 4},
        {"cache_implementation": "static"},
        {"use_cache": False},
        {"output_scores": True},
        {"num_assistant_tokens": 4},
    ],
    ids=str,
)
def test_a_generation_setting_that_cannot_be_followed_is_named(moe, settings):
    with pytest.raises(ConfigurationError, match=next(iter(settings))):
        moe.generate(QUESTION, **settings)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"stop_strings": ""}, r"stop_strings.*=''.*at least 1 character"),
        ({"stop_strings": [""]}, r"stop_strings.*=''.*at least 1 character"),
        ({"stop_strings": ["", "zzz"]}, r"stop_strings.*=''.*at least 1 character"),
        ({"eos_token_id": []}, r"eos_token_id=\[\].*at least 1 item"),
        ({"eos_token_id": -2}, r"eos_token_id.*=-2.*equal to -1"),
        ({"eos_token_id": True}, r"eos_token_id.*=True.*integer"),
        ({"suppress_tokens": [-1]}, r"suppress_tokens.*=-1.*equal to 0"),
        ({"bad_words_ids": [[]]}, r"bad_words_ids.*=\[\].*at least 1 item"),
        ({"bad_words_ids": [[3, -1]]}, r"bad_words_ids.*=-1.*equal to 0"),
        ({"repetition_penalty": math.inf}, r"repetition_penalty=inf.*finite"),
        ({"repetition_penalty": math.nan}, r"repetition_penalty=nan.*finite"),
        ({"repetition_penalty": 0.0}, r"repetition_penalty=0\.0.*greater than 0"),
        ({"temperature": math.inf, "do_sample": True}, r"temperature=inf.*finite"),
        ({"top_p": math.nan, "do_sample": True}, r"top_p=nan.*finite"),
        ({"min_new_tokens": 5, "max_new_tokens": 4}, r"min_new_tokens=5 .* max_new_tokens=4"),
        ({"min_new_tokens": 1000}, r"min_new_tokens=1000 .* max_new_tokens=64"),
        ({"min_length": 30, "max_length": 20}, r"min_length=30 .* max_length=20"),
        ({"do_sample": "yes"}, r"do_sample='yes'.*boolean"),
        ({"max_new_tokens": True}, r"max_new_tokens=True.*integer"),
        ({"max_time": 0}, r"max_time=0.*greater than 0"),
        ({"exponential_decay_length_penalty": (3,)}, r"exponential_decay_length_penalty"),
        ({"exponential_decay_length_penalty": (3, 0.0)}, r"=0\.0.*greater than 0"),
        ({"exponential_decay_length_penalty": (3, "2")}, r"='2'.*valid number"),
        ({"sequence_bias": 5}, r"sequence_bias=5.*list"),
        ({"sequence_bias": {(3, -1): 2.0}}, r"sequence_bias.*=-1.*equal to 0"),
        ({"guidance_scale": 2.0}, r"guidance_scale=2\.0.*second pass"),
        ({"num_beams": 4}, r"num_beams=4.*beam search"),
        ({"disable_compile": True}, r"disable_compile=True.*base\.compile"),
        ({"bos_token_id": 1}, r"bos_token_id=1.*chat template"),
        ({"prompt_lookup_num_tokens": 3}, r"prompt_lookup_num_tokens=3.*assisted"),
        ({"use_cache": False}, r"use_cache=False.*cache"),
    ],
    ids=str,
)
def test_a_refused_value_is_told_with_what_is_allowed(settings, told):
    with pytest.raises(ConfigurationError, match=told):
        request_of(settings, GenerationSettings(), GIVEN)


@pytest.mark.parametrize(
    "settings",
    [
        {"eos_token_id": 5000},
        {"eos_token_id": [2, 5000]},
        {"suppress_tokens": [5000]},
        {"begin_suppress_tokens": [5000]},
        {"bad_words_ids": [[2, 5000]]},
        {"sequence_bias": [[[2, 5000], 1.0]]},
        {"sequence_bias": {(2, 5000): 1.0}},
    ],
    ids=str,
)
def test_a_token_outside_the_vocabulary_is_told_with_the_range(moe, settings):
    (name,) = settings
    with pytest.raises(ConfigurationError, match=f"{name}: token 5000 .* to 4095"):
        moe.generate(QUESTION, **settings)


def test_values_are_taken_as_transformers_takes_them():
    asked = {
        "eos_token_id": -1,
        "stop_strings": "zzz",
        "suppress_tokens": (299,),
        "repetition_penalty": 2,
        "exponential_decay_length_penalty": [3, 2],
    }
    config = request_of(asked, GenerationSettings(), GIVEN).generation
    assert (config.eos_token_id, config.stop_strings) == ([-1], ["zzz"])
    assert (config.suppress_tokens, config.repetition_penalty) == ([299], 2.0)
    assert config.exponential_decay_length_penalty == (3, 2.0)


def test_a_bias_is_followed_in_both_of_its_forms(moe):
    plain = moe.generate(QUESTION)
    first = moe.language_model.encode_answer(plain.text)[0]
    for bias in ({(first,): -math.inf}, [[[first], -math.inf]]):
        barred = moe.generate(QUESTION, sequence_bias=bias)
        assert plain.tokens[0] not in barred.tokens


def test_lengths_and_time_are_followed_on_the_routed_path(moe):
    plain = moe.generate(QUESTION)
    least = plain.usage.prompt_tokens + len(plain.tokens) + 5
    longer = moe.generate([QUESTION, "hello"], min_length=least)[0]
    assert longer.usage.prompt_tokens + len(longer.tokens) >= least
    assert longer.text == moe.generate(QUESTION, min_length=least).text
    hurried = moe.generate(QUESTION, max_time=1e-9)
    assert (len(hurried.tokens), hurried.finish_reason) == (1, "length")
    assert moe.generate(QUESTION, renormalize_logits=True).text == plain.text


def test_several_answers_to_a_prompt_are_those_to_a_list_of_it(moe):
    sampling = {"do_sample": True, "temperature": 2.0, "seed": 3, "max_new_tokens": 6}
    found = moe.generate(QUESTION, num_return_sequences=3, **sampling)
    listed = moe.generate([QUESTION] * 3, **sampling)
    assert [answer.text for answer in found] == [answer.text for answer in listed]
    assert len({answer.text for answer in found}) > 1
    together = moe.generate(["hello", QUESTION], num_return_sequences=3, **sampling)
    assert [answer.text for answer in together[3:]] == [answer.text for answer in found]


def test_a_stream_tells_one_answer(moe):
    with pytest.raises(ConfigurationError, match="one answer"):
        next(moe.stream(QUESTION, num_return_sequences=2, do_sample=True))


def test_a_seed_is_a_number_from_zero(moe):
    with pytest.raises(ConfigurationError, match="seed"):
        moe.generate(QUESTION, seed=-1)


def test_values_that_change_nothing_are_taken(moe):
    plain = moe.generate(QUESTION)
    assert moe.generate(QUESTION, num_return_sequences=1, use_cache=True).text == plain.text


def test_the_length_of_a_call_counts_instead_of_the_configured_one(moe):
    prompt_tokens = moe.generate(QUESTION).usage.prompt_tokens
    answer = moe.generate(QUESTION, max_length=prompt_tokens + 1)
    assert answer.finish_reason == "length"
    assert len(answer.tokens) == 1


@pytest.mark.parametrize(
    ("prompt", "reason"),
    [
        ([QUESTION, MESSAGE], "mixes messages with prompts"),
        ([MESSAGE, QUESTION], "mixes messages with prompts"),
        ("a\ud83d", r"character 2 .* \(U\+D83D\)"),
        ([{"role": "user", "content": "\udcffx"}], r"character 1 .* \(U\+DCFF\)"),
        ([QUESTION, "\ud83d"], "character 1"),
    ],
    ids=ascii,
)
def test_what_is_no_prompt_is_refused_with_the_reason(prompt, reason):
    with pytest.raises(PromptError, match=reason):
        as_batch(prompt)


def test_a_half_character_is_refused_before_anything_is_noted(moe):
    with pytest.raises(PromptError, match="character 1"):
        moe.generate("\ud83d")
    with pytest.raises(PromptError, match="character 1"):
        list(moe.stream("\ud83d"))


# Tests check types where a user's Python does not, so these calls are made by one of those.
WRONG_TYPES = """
import json, sys
from adaptive_moe import AdaptiveMoE
with AdaptiveMoE.from_pretrained(store=sys.argv[1]) as moe:
    calls = [
        lambda: moe.generate(None), lambda: moe.generate(7), lambda: moe.generate(b"text"),
        lambda: moe.generate(["a", None]), lambda: moe.generate([["a", "b"]]),
        lambda: moe.generate({"role": "user", "content": "a"}),
        lambda: moe.generate(["a", {"role": "user", "content": "b"}]),
        lambda: list(moe.stream(None)), lambda: list(moe.stream(["a"])),
        lambda: moe.generate("a", experts=5), lambda: moe.generate("a", experts=[5]),
        lambda: moe.generate("a", experts=b"auto"), lambda: moe.generate("a", seed="x"),
        lambda: moe.train_expert("x", 7), lambda: moe.plan_expert(7),
        lambda: moe.estimate_expert([7]), lambda: moe.router.fit(7),
        lambda: moe.router.evaluate(7), lambda: moe.train_expert("x", ".", rank="high"),
        lambda: AdaptiveMoE.from_pretrained(5), lambda: AdaptiveMoE.from_pretrained(store=5),
    ]
    for call in calls:
        try:
            call()
        except Exception as error:
            print(json.dumps([type(error).__name__, str(error)]))
        else:
            print(json.dumps(["nothing", ""]))
"""
EXPECTED_KINDS = [
    *["PromptError"] * 9,
    *["ConfigurationError"] * 4,
    *["DataError"] * 5,
    *["ConfigurationError"] * 3,
]


@pytest.mark.slow
def test_wrong_types_are_told_in_our_own_errors(tmp_path):
    command = [sys.executable, "-c", WRONG_TYPES, str(tmp_path / "store")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    told = [json.loads(line) for line in done.stdout.splitlines()]
    assert [kind for kind, _ in told] == EXPECTED_KINDS, told
    assert all("; " in message or ": " in message for _, message in told), told


def test_an_expert_named_twice_is_told_by_its_name(moe):
    with pytest.raises(ConfigurationError, match="'chemistry' is named twice; name each"):
        moe.generate(QUESTION, experts=["chemistry", "physics", "chemistry"])


def test_no_prompts_get_no_answers(moe):
    assert moe.generate([]) == []


def test_a_conversation_alone_or_in_a_batch_is_one_prompt(moe):
    assert moe.generate([MESSAGE]).text == moe.generate(QUESTION).text
    assert [answer.text for answer in moe.generate([[MESSAGE], QUESTION])] == ["Paris", "Paris"]


@pytest.mark.parametrize(("ranks", "rank"), [("nope", None), (None, 999)])
def test_ranks_that_do_not_exist_are_named(moe, rows, ranks, rank):
    with pytest.raises(ConfigurationError, match=f"training: .*{ranks or rank}"):
        moe.train_expert("x", rows, ranks=ranks, rank=rank)


def test_gradient_ranks_without_material_say_what_to_give(moe):
    with pytest.raises(ConfigurationError, match="--data"):
        moe.plan_expert(ranks="gradient")


def test_material_is_one_path_or_several(moe, rows):
    plans = [
        moe.plan_expert(data, ranks="gradient", rank=2)
        for data in (rows, str(rows), [rows], (str(rows),))
    ]
    assert plans == plans[:1] * len(plans)


def test_one_absent_file_is_told_by_its_name(moe):
    for ask in (
        lambda data: moe.train_expert("x", data),
        moe.plan_expert,
        moe.estimate_expert,
        moe.router.fit,
        moe.router.evaluate,
    ):
        with pytest.raises(DataError, match=r"absent\.md"):
            ask("absent.md")
