"""Whatever ends an answer early, the next one is what it would have been."""

import pytest
import torch

from adaptive_moe import AdaptiveMoE
from adaptive_moe.config.loading import load_settings
from adaptive_moe.engine.events import Token
from tests.support.interrupting import CtrlC, moments
from tests.support.random_experts import add_expert

QUESTIONS = ("What is the capital of France?", "hello", "What is the opposite of hot?")
TWO = ("one", "two")
SOME, MANY, TURNS = 4, 150, 40  # moments at which Ctrl-C is pressed
TALK = [
    {"role": "user", "content": QUESTIONS[0]},
    {"role": "assistant", "content": "Paris"},
    {"role": "user", "content": QUESTIONS[2]},
]
DEVICE_EXPERTS = 2


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("interrupted")
    with AdaptiveMoE.from_pretrained("pocket", store=folder / "store") as moe:
        for seed, name in enumerate((*TWO, "three", "four")):
            add_expert(moe, name, folder / name, seed=seed)
        add_expert(moe, "whole", folder / "whole", seed=5, header=False)
    return folder / "store"


@pytest.fixture
def moe(store):
    """With room for two experts: one that were still in use would be in the way of others."""
    overrides = [f"store={store}", f"cache.device_experts={DEVICE_EXPERTS}"]
    with AdaptiveMoE.from_settings(load_settings(overrides=overrides)) as runtime:
        yield runtime


def told(moe, experts, questions=QUESTIONS):
    """Texts and scores to a digit that no other way to compute them changes."""
    asked = {"max_new_tokens": 4, "eos_token_id": -1}
    answers = moe.generate([*questions], experts=experts, **asked)
    return [(each.text, round(each.confidence.scores["msp"], 3)) for each in answers]


def everything(moe):
    """Who could answer wrongly: the base, two at once, others, and one that reads the prompt."""
    return [told(moe, experts) for experts in ([], [*TWO], ["three", "four"], ["whole"])]


def assert_untouched(moe, expected):
    assert not any("forward" in module.__dict__ for module in moe.language_model.model.modules())
    assert everything(moe) == expected
    assert moe.cache_statistics().device_experts <= DEVICE_EXPERTS


def press_at(moe, places):
    """Ctrl-C at so many moments of a batch's answer, spread over all of it."""
    expected = everything(moe)
    assert len({str(each) for each in expected}) == len(expected)
    count = moments(lambda: told(moe, [*TWO]))
    stopped = 0
    for place in range(places):
        ctrl_c = CtrlC(at=place * count // places)
        stopped += ctrl_c.press_during(lambda: told(moe, [*TWO]))
        assert_untouched(moe, expected)
    return stopped


# Python drops an interrupt that arrives while a generator is being closed, with this warning.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_after_ctrl_c_at_some_moments_everyone_answers_as_before(moe):
    assert press_at(moe, SOME) >= 0.9 * SOME


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_after_ctrl_c_at_many_moments_everyone_answers_as_before(moe):
    assert press_at(moe, MANY) >= 0.9 * MANY


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("rule", ["weighted", "token", "logits"])
def test_after_ctrl_c_in_a_conversation_it_goes_on_as_before(store, rule):
    overrides = [f"store={store}", f"router.mixing={rule}"]
    with AdaptiveMoE.from_settings(load_settings(overrides=overrides)) as moe:

        def next_turn():
            answer = moe.generate(TALK, experts=[*TWO], max_new_tokens=4, eos_token_id=-1)
            return answer.text, round(answer.confidence.scores["msp"], 3)

        expected = everything(moe), next_turn()
        count = moments(next_turn)
        for place in range(TURNS):
            CtrlC(at=place * count // TURNS).press_during(next_turn)
            assert (everything(moe), next_turn()) == expected


@pytest.mark.parametrize("passes", [2, 5])
def test_after_an_error_in_a_layer_everyone_answers_as_before(moe, passes):
    expected = everything(moe)
    layer = moe.language_model.model.get_submodule(moe.language_model.layers[-1].name)
    seen = []

    def fail(*_arguments):
        seen.append(1)
        if len(seen) == passes:
            raise ArithmeticError("the device fell over")

    hook = layer.register_forward_hook(fail)
    with pytest.raises(ArithmeticError, match="fell over"):
        told(moe, [*TWO], ["a question that nobody has asked before"])
    hook.remove()
    assert_untouched(moe, expected)


@pytest.mark.parametrize("experts", [[], [*TWO], ["whole"]], ids=str)
def test_a_stream_that_nobody_reads_on_holds_nothing(moe, experts):
    expected = everything(moe)
    events = moe.stream(QUESTIONS[0], experts=experts, max_new_tokens=8, eos_token_id=-1)
    assert any(isinstance(event, Token) for event in events)
    events.close()
    assert_untouched(moe, expected)


def test_random_numbers_of_the_caller_go_on_after_ctrl_c(moe):
    before = torch.random.get_rng_state()
    CtrlC(at=2_000).press_during(
        lambda: moe.generate(QUESTIONS[0], do_sample=True, seed=1, max_new_tokens=8)
    )
    assert torch.equal(torch.random.get_rng_state(), before)
