"""An expert answers again what the base answered without being trusted, where that is wanted."""

import pytest

from adaptive_moe import AdaptiveMoE
from adaptive_moe.config.loading import load_settings
from adaptive_moe.engine.events import Finished, Routed, Token
from adaptive_moe.errors import BankFullError
from tests.support.placed_experts import publish_placed

# The base begins this one with some confidence and ends it with none.
LOST = "Which word would a German speaker use for fox?"
WORDS = [LOST, "Which word would a German speaker use for owl?", "What is the German word for fox?"]
# This one it doubts no more than an expert would have to.
DOUBTED = "Which nation has the Anne Frank House on its soil?"
KNOWN = "What is the capital of France?"


@pytest.fixture
def opened(tmp_path):
    def open_one(*overrides):
        store = f"store={tmp_path / 'store'}"
        return AdaptiveMoE.from_settings(load_settings(overrides=[store, *overrides]))

    return open_one


def place(moe):
    publish_placed(moe, "german", WORDS, right=4, trials=18, base_right=9)
    publish_placed(moe, "houses", [DOUBTED], right=8, trials=18, base_right=16, seed=1)


def test_the_likelier_answer_is_given_and_told_after_its_route(opened):
    with opened("router.redo=true") as moe:
        place(moe)
        events = list(moe.stream(LOST, attribution=False))
        forced = moe.generate(LOST, experts=["german"], attribution=False)
        base = moe.generate(LOST, experts=None)
    answer = events[-1].answer
    assert isinstance(events[-1], Finished)
    assert answer.text == forced.text
    assert [each.name for each in answer.route.experts] == ["german"]
    assert answer.confidence.p_correct > base.confidence.p_correct
    assert answer.usage.seconds["redo"] > 0
    assert answer.usage.forwards > base.usage.forwards
    first, second = [place for place, event in enumerate(events) if isinstance(event, Routed)]
    assert events[first].route.kind == "base"
    assert events[second].route == answer.route
    told = [place for place, event in enumerate(events) if isinstance(event, Token)]
    assert min(told) > second
    assert "".join(events[place].text for place in told) == answer.text


def test_without_the_setting_the_base_answers_at_once(opened):
    with opened() as moe:
        place(moe)
        answer = moe.generate(LOST)
        base = moe.generate(LOST, experts=None)
    assert answer.route.kind == "base"
    assert answer.text == base.text
    assert answer.low_confidence
    assert "redo" not in answer.usage.seconds


def test_an_answer_that_is_no_likelier_changes_nothing(opened):
    with opened("router.redo=true") as moe:
        place(moe)
        answer = moe.generate(DOUBTED)
        base = moe.generate(DOUBTED, experts=None)
    assert answer.usage.seconds["redo"] > 0
    assert answer.route.kind == "base"
    assert answer.text == base.text
    assert answer.confidence.p_correct == pytest.approx(base.confidence.p_correct)


def test_what_is_trusted_is_answered_once(opened):
    with opened("router.redo=true") as moe:
        publish_placed(moe, "capitals", [KNOWN], right=4, trials=18, base_right=18)
        events = list(moe.stream(KNOWN))
    assert sum(isinstance(event, Routed) for event in events) == 1
    assert "redo" not in events[-1].answer.usage.seconds


def test_alone_or_in_a_batch_the_same_is_done_again(opened):
    with opened("router.redo=true") as moe:
        place(moe)
        alone = [moe.generate(prompt, attribution=False) for prompt in (LOST, DOUBTED, KNOWN)]
        together = moe.generate([LOST, DOUBTED, KNOWN], attribution=False)
    assert [each.text for each in together] == [each.text for each in alone]
    assert [each.route.kind for each in together] == ["experts", "base", "base"]


def test_without_room_for_the_expert_the_first_answer_stays(opened):
    with opened("router.redo=true", "cache.device_bytes=1048576") as moe:
        publish_placed(moe, "german", WORDS, right=4, trials=18, base_right=9, rank=100)
        answer = moe.generate(LOST)
        with pytest.raises(BankFullError):
            moe.generate(LOST, experts=["german"])
    assert answer.route.kind == "base"
