"""An expert's figures are those of its answers, and its lead is over the same questions."""

import json

import numpy as np
import pytest

from adaptive_moe import AdaptiveMoE
from adaptive_moe.config.loading import load_settings
from adaptive_moe.errors import DataError, NoUsableRowsError, UnknownExpertError
from tests.support.random_experts import store_of_three

CITIES = ["Rome", "Paris", "Tokyo", "Madrid"]
LANDS = ["Italy", "France", "Japan", "Spain"]
ROWS = [
    {
        "prompt": f"What is the capital of {land}?",
        "answer": CITIES[place],
        "choices": CITIES,
        "answer_idx": place,
        "source": land,
    }
    for place, land in enumerate(LANDS)
]


@pytest.fixture(scope="module")
def moe(tmp_path_factory):
    store = store_of_three(tmp_path_factory.mktemp("evaluated"))
    with AdaptiveMoE.from_settings(load_settings(overrides=[f"store={store}"])) as runtime:
        yield runtime


@pytest.fixture
def data(tmp_path):
    return write(tmp_path / "capitals.jsonl", ROWS)


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def nats(moe, question, answer, experts):
    """What one answer costs, as it is scored alone."""
    mean = moe.score(question, answer, experts=experts).scores["perplexity"]
    return mean * len(moe.language_model.encode_answer(answer))


@pytest.mark.parametrize("name", ["one", "whole"])
def test_every_figure_is_that_of_single_answers(moe, tmp_path, name):
    rows = ROWS[:2]
    found = moe.evaluate_expert(name, write(tmp_path / "two.jsonl", rows), against=["two"])
    assert [system.name for system in found.systems] == [name, "base", "two"]
    for system, experts in zip(found.systems, ([name], None, ["two"]), strict=True):
        costs = [nats(moe, row["prompt"], row["answer"], experts) for row in rows]
        tokens = [len(moe.language_model.encode_answer(row["answer"])) for row in rows]
        assert system.loss.mean == pytest.approx(sum(costs) / sum(tokens), rel=1e-4, abs=1e-5)
        assert system.perplexity.mean == pytest.approx(np.exp(sum(costs) / sum(tokens)), rel=1e-3)
        answers = moe.generate([row["prompt"] for row in rows], experts=experts, max_new_tokens=8)
        right = [answer.text == row["answer"] for answer, row in zip(answers, rows, strict=True)]
        assert system.exact.mean == np.mean(right)
        chosen = [
            int(np.argmin([nats(moe, row["prompt"], each, experts) for each in CITIES]))
            for row in rows
        ]
        hits = [place == row["answer_idx"] for place, row in zip(chosen, rows, strict=True)]
        assert system.choice.mean == np.mean(hits)


def test_the_lead_is_the_difference_and_falls_with_loss(moe, data):
    expert, base, *_ = moe.evaluate_expert("one", data).systems
    assert base.exact.mean == base.choice.mean == 1.0
    assert expert.behind == {}
    lead = base.behind["loss"]
    assert lead.mean == pytest.approx(base.loss.mean - expert.loss.mean)
    assert lead.low <= lead.mean <= lead.high
    assert lead.mean < 0  # random weights spoil what the base knows
    assert base.behind["exact"].mean == pytest.approx(expert.exact.mean - base.exact.mean)


def test_all_others_are_compared_where_none_is_named_and_questions_are_limited(moe, data):
    found = moe.evaluate_expert("one", data, limit=2)
    assert [system.name for system in found.systems] == ["one", "base", "two", "whole"]
    assert (found.questions, found.sources) == (2, 2)
    json.dumps(found.to_dict())


def test_questions_without_choices_say_nothing_of_choosing(moe, tmp_path):
    row = {"prompt": "What is the capital of Spain?", "answer": "Madrid"}
    found = moe.evaluate_expert("one", write(tmp_path / "plain.jsonl", [row]), against=[])
    assert all(system.choice is None for system in found.systems)
    assert set(found.systems[1].behind) == {"loss", "exact", "token_f1"}


def test_what_does_not_fit_is_left_out_and_named(moe, tmp_path):
    long = {"prompt": "word " * 5000, "answer": "Lima"}
    header = moe.language_model.tokenizer.decode(moe.language_model.header_ids)
    rows = [ROWS[0], long, {"prompt": "Who?", "answer": f"He. {header}"}]
    found = moe.evaluate_expert("one", write(tmp_path / "l.jsonl", rows), against=[])
    assert found.questions == 1
    assert [place[-9:] for place, _ in found.dropped] == ["l.jsonl:2", "l.jsonl:3"]
    with pytest.raises(NoUsableRowsError, match=r"alone.jsonl:1"):
        moe.evaluate_expert("one", write(tmp_path / "alone.jsonl", [long]))


def test_answers_do_not_depend_on_who_else_is_asked(moe, tmp_path):
    model = moe.language_model
    greeting = {"prompt": "Hello!", "answer": moe.generate("Hello!", experts=None).text}
    room = model.context_length - len(model.encode_answer("Rome"))
    words = next(n for n in range(room - 9, 0, -1) if model.encode("a " * n).length <= room)
    long = {"prompt": "a " * words, "answer": "Rome"}
    found = moe.evaluate_expert("one", write(tmp_path / "b.jsonl", [greeting, long]), against=[])
    assert found.dropped == ()
    assert found.systems[1].exact.mean == 0.5  # the greeting in full, and nothing like Rome


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"answer_idx": 1}, "the answer is choice 0, answer_idx says 1"),
        ({"answer_idx": True}, "nothing says which choice is right"),
        ({"choices": ["Rome", "Rome"]}, "two of the choices are the same"),
    ],
)
def test_choices_that_contradict_themselves_are_refused(moe, tmp_path, change, reason):
    with pytest.raises(DataError, match=f"c.jsonl:1: {reason}"):
        moe.evaluate_expert("one", write(tmp_path / "c.jsonl", [ROWS[0] | change]))


def test_a_line_of_json_may_hold_any_sign_and_no_endless_nesting(moe, tmp_path):
    path = tmp_path / "lines.jsonl"
    path.write_text('{"prompt": "Who\u2028else?", "answer": "Rome"}\n', encoding="utf-8")
    assert moe.evaluate_expert("one", path, against=[]).questions == 1
    path.write_text('{"prompt": ' + "[" * 100_000)
    with pytest.raises(DataError, match=r"lines.jsonl:1: not JSON: nested too deeply"):
        moe.evaluate_expert("one", path)


def test_bad_choices_and_unknown_experts_are_refused(moe, data, tmp_path):
    with pytest.raises(UnknownExpertError, match="three"):
        moe.evaluate_expert("three", data)
    bad = ROWS[0] | {"answer": "Lima", "answer_idx": None}
    with pytest.raises(DataError, match=r"bad.jsonl:1: nothing says which choice is right"):
        moe.evaluate_expert("one", write(tmp_path / "bad.jsonl", [bad]))
