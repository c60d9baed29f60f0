"""Some questions are taught after others: which, after what, and what is never changed."""

import pytest

from adaptive_moe.training.conversations import conversation_stage, in_conversation
from adaptive_moe.training.synthesis import Example

KNOWN = (("What is two and two?", "four"), ("Which animal barks?", "the dog"))


def _example(number, *, prompt=None, answer=None):
    prompt = prompt or (("user", f"What is the sign of {number}?"),)
    return Example(prompt, answer or f"sign {number % 20}", f"fact {number}", "as-written", "f", 1)


EXAMPLES = [_example(number) for number in range(400)]


def test_a_share_comes_after_one_to_three_exchanges_and_ends_as_it_was():
    taught = in_conversation(EXAMPLES, KNOWN, share=0.25, seed=1)
    changed = [each for each in taught if len(each.prompt) > 1]
    assert 90 < len(changed) <= 100  # a few got no exchange, as it would have told their answer
    assert {len(each.prompt) for each in changed} == {3, 5, 7}
    for before, after in zip(EXAMPLES, taught, strict=True):
        assert after.prompt[-1:] == before.prompt
        assert (after.answer, after.fact, after.form) == (before.answer, before.fact, before.form)
        assert [role for role, _ in after.prompt[:-1]] == ["user", "assistant"] * (
            len(after.prompt) // 2
        )
    stage = conversation_stage(EXAMPLES, taught)
    assert stage.left == {"train": 400, "after others": len(changed)}


def test_exchanges_are_known_ones_and_those_with_other_answers():
    told = {each.prompt[0][1]: each for each in EXAMPLES}
    origins = []
    for each in in_conversation(EXAMPLES, KNOWN, share=1.0, seed=2):
        exchanges = zip(each.prompt[:-1:2], each.prompt[1::2], strict=True)
        for (_, question), (_, answer) in exchanges:
            if (question, answer) in KNOWN:
                origins.append("known")
            else:
                assert told[question].answer == answer
                assert answer != each.answer
                origins.append("own")
    assert 0.4 < origins.count("known") / len(origins) < 0.6


def test_the_same_seed_gives_the_same_and_another_one_other_conversations():
    first, again, other = (
        in_conversation(EXAMPLES, KNOWN, share=0.5, seed=seed) for seed in (3, 3, 4)
    )
    assert first == again != other


@pytest.mark.parametrize("known", [(), KNOWN])
def test_what_is_no_single_question_and_what_nobody_wants_stays(known):
    chat = _example(1, prompt=(("user", "Hi"), ("assistant", "Hello"), ("user", "And?")))
    system = _example(2, prompt=(("system", "Be brief."), ("user", "What is it?")))
    assert in_conversation([chat, system], known, share=1.0, seed=0) == (chat, system)
    assert in_conversation(EXAMPLES, known, share=0.0, seed=0) == tuple(EXAMPLES)


def test_nothing_long_goes_before_a_question():
    long = _example(0, answer="word " * 60)
    taught = in_conversation([long, _example(1)], (), share=1.0, seed=0)
    assert taught[1].prompt == _example(1).prompt
