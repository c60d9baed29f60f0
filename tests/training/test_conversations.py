"""Some questions are taught after others: which, after what, and what is never changed."""

import functools

import pytest

from adaptive_moe.training import conversations
from adaptive_moe.training.conversations import conversation_stage
from adaptive_moe.training.synthesis import Example

KNOWN = (("What is two and two?", "four"), ("Which animal barks?", "the dog"))


def _example(number, *, prompt=None, answer=None, form="a form"):
    prompt = prompt or (("user", f"What is the sign of {number}?"),)
    return Example(prompt, answer or f"sign {number % 20}", f"fact {number}", form, "f", 1)


in_conversation = functools.partial(conversations.in_conversation, fits=lambda _: True)
EXAMPLES = [_example(number) for number in range(400)]


def test_a_share_comes_after_one_to_three_exchanges_and_ends_as_it_was():
    taught = in_conversation(EXAMPLES, KNOWN, share=0.25, seed=1)
    changed = [each for each in taught if len(each.prompt) > 1]
    assert 90 < len(changed) <= 100  # a few got no exchange, as it would have been their own
    assert {len(each.prompt) for each in changed} == {3, 5, 7}
    for before, after in zip(EXAMPLES, taught, strict=True):
        assert after.prompt[-1:] == before.prompt
        assert (after.answer, after.fact, after.form) == (before.answer, before.fact, before.form)
        assert [role for role, _ in after.prompt[:-1]] == ["user", "assistant"] * (
            len(after.prompt) // 2
        )
    stage = conversation_stage(EXAMPLES, taught)
    assert stage.left == {"train": 400, "after others": len(changed)}


def test_what_has_one_wording_is_taught_alone_as_well():
    rows = [_example(number, form="as-written") for number in range(400)]
    taught = in_conversation(rows, KNOWN, share=0.25, seed=1)
    alone, behind = taught[:400], taught[400:]
    assert list(alone) == rows
    assert 370 < len(behind) <= 400
    assert {len(each.prompt) for each in behind} == {3, 5, 7}
    assert {each.prompt[-1:] for each in behind} <= {each.prompt for each in rows}
    stage = conversation_stage(rows, taught)
    assert stage.left == {"train": len(taught), "after others": len(behind)}
    assert in_conversation(rows, KNOWN, share=0.0, seed=1) == tuple(rows)


@pytest.mark.parametrize(("share", "again"), [(0.2, 1000), (0.8, 1600)])
def test_of_many_rows_a_share_comes_again(share, again):
    rows = [_example(number, form="as-written") for number in range(2000)]
    behind = len(in_conversation(rows, KNOWN, share=share, seed=1)) - 2000
    assert 0.94 * again < behind <= again


def test_exchanges_are_known_ones_and_those_of_other_facts():
    told = {each.prompt[0][1]: each for each in EXAMPLES}
    origins = []
    for each in in_conversation(EXAMPLES, KNOWN, share=1.0, seed=2):
        exchanges = zip(each.prompt[:-1:2], each.prompt[1::2], strict=True)
        for (_, question), (_, answer) in exchanges:
            if (question, answer) in KNOWN:
                origins.append("known")
            else:
                assert told[question].answer == answer
                assert answer != each.answer  # one in twenty is no common answer
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


def test_with_two_answers_the_right_one_has_been_said_as_often_as_not():
    labels = [_example(number, answer=("yes", "no")[number % 2]) for number in range(200)]
    taught = in_conversation(labels, (), share=1.0, seed=0)
    said = [answer == each.answer for each in taught for _, answer in each.prompt[1:-1:2]]
    assert 0.4 < sum(said) / len(said) < 0.6


def test_what_would_not_fit_stays_single():
    taught = conversations.in_conversation(
        EXAMPLES, KNOWN, fits=lambda each: len(each.prompt) < 5, share=1.0, seed=0
    )
    assert {len(each.prompt) for each in taught} == {1, 3}
    assert [each.prompt[-1] for each in taught] == [each.prompt[0] for each in EXAMPLES]


def test_nothing_known_tells_the_answer():
    known = (("Which animal barks?", "sign 1"),)
    taught = in_conversation(EXAMPLES, known, share=1.0, seed=4)
    told = [each for each in taught if known[0][0] in [text for _, text in each.prompt]]
    assert told
    assert not [each for each in told if each.answer == "sign 1"]
