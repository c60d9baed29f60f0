"""What an expert in service knows is no gap, and an answer without a word says nothing of one."""

import pytest

from adaptive_moe import AdaptiveMoE
from adaptive_moe.config.loading import load_settings
from adaptive_moe.engine.routing_misses import RoutingMisses
from adaptive_moe.gaps.states import GapState
from tests.flows.lighthouses import ISLES
from tests.support.placed_experts import publish_placed

UNKNOWN = [f"Which keeper does {light} have?" for light in ISLES]
KNOWN = [f"What is the capital of {land}?" for land in ("France", "Peru", "Norway", "Spain")]


class KnowsAllBut:
    """An expert that knows every prompt but the first of those it is asked for."""

    def known(self, prompts):
        return "lights", (False, *(True for _ in prompts[1:]))


@pytest.fixture
def moe(tmp_path):
    settings = load_settings(overrides=[f"store={tmp_path / 'store'}"])
    with AdaptiveMoE.from_settings(settings) as runtime:
        yield runtime


def test_an_expert_that_nearly_answered_and_knows_the_prompts_is_found(moe):
    misses = RoutingMisses(moe._answerer)
    assert misses.known(KNOWN) is None
    publish_placed(moe, "capitals", KNOWN, right=18, trials=18)
    assert misses.known(KNOWN) is None  # it answers them itself: nothing was passed over
    publish_placed(moe, "spare", KNOWN, right=16, trials=18, seed=1)
    name, is_known = misses.known(KNOWN)
    assert name == "spare"
    assert is_known[0]
    assert sum(is_known) >= 2


def test_an_expert_that_doubts_its_answers_does_not_know_them(moe):
    publish_placed(moe, "lights", UNKNOWN, right=2, trials=18)
    publish_placed(moe, "spare", UNKNOWN, right=1, trials=18, seed=1)
    assert RoutingMisses(moe._answerer).known(UNKNOWN) is None


def test_what_an_expert_knows_is_left_out_of_a_gap_and_that_is_told(moe):
    moe._watch._misses = KnowsAllBut()
    for prompt in UNKNOWN[:8]:
        answer = moe.generate(prompt, max_new_tokens=8, attribution=False)
    (gap,) = [gap for gap in moe.gaps.list() if gap.misses]
    assert gap.state is GapState.SUSPECTED
    assert gap.misses >= 4
    assert gap.failures + gap.successes == len(gap.members)
    assert len(gap.members) + gap.misses == 8
    assert any("a routing miss" in line for line in moe.gaps.explain(gap.id))
    assert answer.low_confidence


def test_an_answer_without_a_word_is_no_evidence(moe):
    tokenizer = moe.language_model.tokenizer
    texts = [tokenizer.decode([token]) for token in range(moe.language_model.vocab_size)]
    words = [token for token, text in enumerate(texts) if any(map(str.isalnum, text))]
    found = [
        moe.generate(prompt, attribution=False, max_new_tokens=1, suppress_tokens=words)
        for prompt in UNKNOWN[:6]
    ]
    assert not any(character.isalnum() for answer in found for character in answer.text)
    assert all(answer.gap is None for answer in found)
