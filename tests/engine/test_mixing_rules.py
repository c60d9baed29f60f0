"""By every mixing rule experts answer together, in any batch, and their shares add up."""

import numpy as np
import pytest

from adaptive_moe import AdaptiveMoE
from adaptive_moe.config.loading import load_settings
from adaptive_moe.integration.mixing import RULES
from tests.support.random_experts import add_expert

QUESTIONS = ["hello", "What is the capital of France?", "What is the opposite of hot?"]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mixing")
    with AdaptiveMoE.from_pretrained("pocket", store=folder / "store") as moe:
        for seed, name in enumerate(("one", "two")):
            add_expert(moe, name, folder / name, seed=seed)
    return folder / "store"


@pytest.mark.parametrize("rule", RULES)
def test_answers_are_the_same_alone_and_in_a_batch_and_add_up(store, rule):
    settings = load_settings(overrides=[f"store={store}", f"router.mixing={rule}"])
    asked = {"experts": ["one", "two"], "max_new_tokens": 6}
    with AdaptiveMoE.from_settings(settings) as moe:
        together = moe.generate(QUESTIONS, **asked)
        for question, answer in zip(QUESTIONS, together, strict=True):
            alone = moe.generate(question, **asked)
            assert alone.text == answer.text
            recorded = answer.confidence.token_scores["log_probability"]
            explained = answer.attribution
            count = len(explained.shares)
            np.testing.assert_allclose(
                explained.routed_log_probability, recorded[:count], atol=1e-4
            )
            added = explained.base_log_probability + explained.shares.sum(axis=1)
            np.testing.assert_allclose(added, recorded[:count], atol=1e-4)
            assert (explained.responsibilities is not None) == (rule == "logits")
            answering = [expert.name for expert in answer.route.experts]
            assert answering == (["one"] if rule == "top1" else ["one", "two"])
            assert list(explained.experts) == answering
            assert explained.shares.shape[1] == len(answering)
            assert sum(expert.gate for expert in answer.route.experts) == pytest.approx(1)


def test_nothing_is_explained_when_nobody_asks(store):
    with AdaptiveMoE.from_pretrained("pocket", store=store) as moe:
        with_it, without = (
            moe.generate(QUESTIONS[0], experts=["one"], attribution=wanted, max_new_tokens=6)
            for wanted in (True, False)
        )
    assert with_it.attribution is not None
    assert without.attribution is None
    assert without.text == with_it.text
    assert without.usage.seconds.keys() == with_it.usage.seconds.keys() - {"attribution"}


@pytest.mark.parametrize("end", [5, -1])
def test_other_end_tokens_are_the_only_ones_that_are_not_explained(store, end):
    with AdaptiveMoE.from_pretrained("pocket", store=store) as moe:
        model = moe.language_model
        answer = moe.generate(QUESTIONS[1], experts=["one"], max_new_tokens=30, eos_token_id=end)
    recorded = answer.confidence.token_scores["log_probability"]
    assert len(answer.tokens) == len(answer.attribution.shares) == len(recorded)
    assert len(recorded) > len(model.encode_answer(answer.text))
    np.testing.assert_allclose(answer.attribution.routed_log_probability, recorded, atol=1e-4)


def test_one_expert_is_itself_by_any_rule(store):
    answers = {}
    for rule in RULES:
        settings = load_settings(overrides=[f"store={store}", f"router.mixing={rule}"])
        with AdaptiveMoE.from_settings(settings) as moe:
            answers[rule] = moe.generate(QUESTIONS, experts=["one"], max_new_tokens=6)
    texts = {tuple(answer.text for answer in found) for found in answers.values()}
    assert len(texts) == 1


def test_a_mixture_of_distributions_tells_each_experts_part_in_every_token(store):
    settings = load_settings(overrides=[f"store={store}", "router.mixing=logits"])
    with AdaptiveMoE.from_settings(settings) as moe:
        answer = moe.generate(QUESTIONS[0], experts=["one", "two"], max_new_tokens=6)
    parts = answer.attribution.responsibilities
    np.testing.assert_allclose(parts.sum(axis=1), 1.0, atol=1e-6)
    assert answer.to_dict()["attribution"]["responsibilities"][0] == pytest.approx(list(parts[0]))
