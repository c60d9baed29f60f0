"""A given answer is scored as the same one would be if it had been generated."""

import pytest

from adaptive_moe import AdaptiveMoE
from adaptive_moe.config.loading import load_settings
from adaptive_moe.errors import DataError, PromptTooLongError, UnknownExpertError
from adaptive_moe.integration.mixing import RULES
from adaptive_moe.models.given_answers import trace_answer
from adaptive_moe.models.prefilling import prefill
from adaptive_moe.router.scores import SCORES, UNSCORABLE_NATS
from tests.support.random_experts import store_of_three
from tests.support.tiny_models import ARCHITECTURES, tiny_language_model

QUESTION = "What is the capital of France?"
TALK = [
    {"role": "user", "content": QUESTION},
    {"role": "assistant", "content": "Paris"},
    {"role": "user", "content": "What is the opposite of hot?"},
]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return store_of_three(tmp_path_factory.mktemp("given"))


@pytest.fixture(scope="module")
def moe(store):
    with AdaptiveMoE.from_pretrained("pocket", store=store) as runtime:
        yield runtime


def assert_alike(scored, generated):
    assert scored.scores == pytest.approx(generated.scores, abs=1e-4)
    for name, values in generated.token_scores.items():
        assert scored.token_scores[name] == pytest.approx(values, abs=1e-4)
    assert scored.p_prefill == pytest.approx(generated.p_prefill, abs=1e-4)
    assert scored.p_correct == pytest.approx(generated.p_correct, abs=1e-4)
    assert scored.calibrated == generated.calibrated


@pytest.mark.parametrize("experts", ["auto", None, ["one"], ["one", "two"], ["whole"]], ids=str)
@pytest.mark.parametrize("prompt", [QUESTION, TALK], ids=["question", "talk"])
def test_what_was_generated_scores_as_it_did_then(moe, prompt, experts):
    answer = moe.generate(prompt, experts=experts)
    assert answer.usage.completion_tokens > 1
    assert_alike(moe.score(prompt, answer.text, experts=experts), answer.confidence)


@pytest.mark.parametrize("rule", RULES)
def test_it_does_by_every_mixing_rule(store, rule):
    settings = load_settings(overrides=[f"store={store}", f"router.mixing={rule}"])
    with AdaptiveMoE.from_settings(settings) as moe:
        answer = moe.generate(QUESTION, experts=["one", "two"])
        found = moe.score(QUESTION, answer.text, experts=["one", "two"])
    assert_alike(found, answer.confidence)


def test_a_right_answer_is_trusted_more_than_a_wrong_one(moe):
    right, wrong = (moe.score(QUESTION, text) for text in ("Paris", "Tokyo"))
    assert right.p_correct > 0.9
    assert wrong.p_correct < 0.5
    assert right.scores["msp"] < wrong.scores["msp"]


def test_no_answer_is_as_uncertain_as_can_be(moe):
    found = moe.score(QUESTION, "")
    assert found.p_correct == 0.0
    assert found.scores["msp"] == found.scores["mean_entropy"] == UNSCORABLE_NATS
    assert all(values == () for values in found.token_scores.values())


def test_an_answer_that_ends_at_once_is_as_uncertain(moe):
    end = moe.language_model.eos_ids
    everything = range(moe.language_model.vocab_size)
    answer = moe.generate(QUESTION, suppress_tokens=[id_ for id_ in everything if id_ not in end])
    assert answer.text == ""
    assert answer.confidence.p_correct == 0.0
    assert answer.confidence.scores["msp"] == UNSCORABLE_NATS
    assert answer.low_confidence


def test_what_cannot_be_scored_is_told(moe):
    with pytest.raises(PromptTooLongError, match="context"):
        moe.score(QUESTION, "Paris " * 5000)
    with pytest.raises(DataError, match="end token"):
        moe.score(QUESTION, moe.language_model.tokenizer.eos_token)
    with pytest.raises(UnknownExpertError, match="nobody"):
        moe.score(QUESTION, "Paris", experts=["nobody"])


def test_scoring_is_no_evidence(moe):
    before = [gap.id for gap in moe.gaps.list()]
    moe.score("What is the chemical symbol of iron?", "Fe")
    assert [gap.id for gap in moe.gaps.list()] == before


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("logits_bytes", [1, 5000, 1 << 20])
def test_slices_of_any_size_say_the_same(architecture, logits_bytes):
    model = tiny_language_model(architecture)
    filled = prefill(model, [model.encode("hi")])
    ids = (5, 9, 3, 3, 17, 40, 8)
    traces = [
        trace_answer(model, filled.header_cache, filled.first_logits, ids, logits_bytes=budget)
        for budget in (logits_bytes, 1 << 30)
    ]
    one, other = ({name: score(trace) for name, score in SCORES.items()} for trace in traces)
    assert one == pytest.approx(other, abs=1e-4)
    assert len(traces[0]) == len(ids)
