"""With room for two experts on the device: batches are answered in parts, pins hold."""

import pytest

from adaptive_moe import AdaptiveMoE
from adaptive_moe.config.loading import load_settings
from adaptive_moe.errors import BankFullError
from tests.support.random_experts import add_expert

NAMES = ("one", "two", "three", "four")
QUESTIONS = ("hello", "What is the capital of France?", "What is the opposite of hot?")
QUESTIONS += ("What is the capital of Japan?",)
ASKED = {"max_new_tokens": 4, "eos_token_id": -1}


@pytest.fixture
def moe(tmp_path):
    settings = load_settings(overrides=[f"store={tmp_path / 'store'}", "cache.device_experts=2"])
    with AdaptiveMoE.from_settings(settings) as runtime:
        for seed, name in enumerate(NAMES):
            add_expert(runtime, name, tmp_path / name, seed=seed)
        yield runtime


def test_a_batch_of_more_experts_than_fit_is_answered_in_parts(moe, monkeypatch):
    alone = [
        moe.generate(question, experts=[name], **ASKED).text
        for question, name in zip(QUESTIONS, NAMES, strict=True)
    ]
    assert len({*alone}) == len(alone)
    wanted = iter(NAMES)
    chooser = moe._answerer._chooser
    decide = type(chooser)._decide

    def each_another(evidence, request, broken):
        named = type(request)(request.generation, experts=[next(wanted)])
        return decide(chooser, evidence, named, broken)

    monkeypatch.setattr(chooser, "_decide", each_another)
    together = moe.generate([*QUESTIONS], **ASKED)
    assert [answer.text for answer in together] == alone
    assert [answer.route.experts[0].name for answer in together] == list(NAMES)


def test_an_answer_by_more_experts_than_fit_is_refused(moe):
    with pytest.raises(BankFullError, match="2 experts"):
        moe.generate(QUESTIONS[0], experts=list(NAMES[:3]), **ASKED)
    assert moe.generate(QUESTIONS[0], experts=list(NAMES[:2]), **ASKED).text


def test_a_pin_goes_over_to_the_next_version(moe, tmp_path):
    moe.pin_expert("one")
    add_expert(moe, "one", tmp_path / "again", seed=9)
    moe.generate(QUESTIONS[0], experts=["one"], **ASKED)
    for name in NAMES[1:]:
        moe.generate(QUESTIONS[0], experts=[name], **ASKED)
    misses = moe.cache_statistics().misses
    moe.generate(QUESTIONS[0], experts=["one"], **ASKED)
    assert moe.cache_statistics().misses == misses
    moe.pin_expert("one", pinned=False)
    for name in NAMES[1:]:
        moe.generate(QUESTIONS[0], experts=[name], **ASKED)
    moe.generate(QUESTIONS[0], experts=["one"], **ASKED)
    assert moe.cache_statistics().misses > misses + len(NAMES[1:])
