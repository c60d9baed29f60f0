"""What a router is fitted and measured on: every prompt once, none too long, none seen before."""

import json
import logging

import numpy as np
import pytest

from adaptive_moe import AdaptiveMoE
from adaptive_moe.config.loading import load_settings
from adaptive_moe.engine.background_places import outside_of, worded
from adaptive_moe.engine.grading import BaseGrader
from adaptive_moe.engine.question_files import read_questions
from adaptive_moe.errors import DataError, NoUsableRowsError, RouterError
from adaptive_moe.measures.sampling import evenly
from adaptive_moe.pocket.asking import write_known_questions
from adaptive_moe.router.scores import consistency
from tests.support.tiny_models import save_tiny

LONG = "many words " * 200  # more than the 256 tokens of a tiny model's context


def by_reference(_answer, reference):
    """A user's own grader: right is what the file says."""
    return float(reference == "yes")


def write(file, rows):
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return file


def rows(start, stop):
    """Every third one is right."""
    return [
        {"prompt": f"what is {number}", "answer": "no" if number % 3 else "yes", "domain": "n"}
        for number in range(start, stop)
    ]


def opened(folder, *overrides, base=None):
    model = base or save_tiny("llama", folder / "model")
    words = [f"base.id={model}", f"store={folder / 'store'}", *overrides]
    return AdaptiveMoE.from_settings(load_settings(overrides=words))


@pytest.fixture(scope="module")
def moe(tmp_path_factory):
    with opened(tmp_path_factory.mktemp("desk")) as moe:
        yield moe


@pytest.fixture(scope="module")
def fitted(moe, tmp_path_factory):
    """A router, now in service, fitted on 66 prompts: two came again, one more was too long."""
    folder = tmp_path_factory.mktemp("fitted")
    again = [{"prompt": "What is 3?", "answer": "yes"}, {"prompt": " what  is 4", "answer": "no"}]
    long = {"prompt": LONG, "answer": "no"}
    file = write(folder / "learned.jsonl", [*rows(0, 40), long, *rows(40, 66), *again])
    router = moe.router.fit(file, grader=by_reference, output=folder / "router")
    return router, folder


def test_a_users_grader_decides_what_is_right(fitted):
    learned = fitted[0].model.learned
    assert learned.labels == 66
    assert learned.accuracy == pytest.approx((22 + 1) / (66 + 2))
    assert fitted[0].is_calibrated


def test_a_router_brings_where_its_background_lies(tmp_path):
    """So that no training has to read that many questions first."""
    file = write(tmp_path / "learned.jsonl", rows(0, 440))
    folder = tmp_path / "router"
    with opened(tmp_path) as moe:
        moe.router.fit(file, grader=by_reference, output=folder)
        base = (moe.language_model, moe._bank)
    questions = read_questions([folder / "background.jsonl"])
    texts = worded(questions)
    kept, read = (outside_of(texts, *base, folder=each) for each in (folder, None))
    assert (folder / "background.safetensors").is_file()
    assert np.array_equal(kept.prompts.states, read.prompts.states)


def test_repeated_and_overlong_prompts_are_left_out_and_counted(fitted):
    lessons = fitted[0].model.learned.fitted_on
    assert (lessons.target, lessons.repeated, lessons.left_out) == ("answers", 2, 1)
    assert len(lessons.prompts) == 66


def test_where_nothing_fits_the_reason_is_told(moe, tmp_path):
    file = write(tmp_path / "long.jsonl", [{"prompt": LONG, "answer": "no"}])
    expected = rf"not one of 1 prompts can be asked; {file}:1: the prompt takes \d+ tokens"
    with pytest.raises(NoUsableRowsError, match=expected):
        moe.router.fit(file)


def test_one_prompt_with_two_answers_is_refused_by_file_and_line(moe, tmp_path):
    file = write(
        tmp_path / "two.jsonl",
        [
            {"prompt": "What is the symbol of iron?", "answer": "Fe"},
            {"prompt": "what is the symbol of tin?", "answer": "Sn"},
            {"prompt": "What is  the symbol of iron", "answer": "Ir"},
            {"prompt": "What is the symbol of tin?", "answer": "sn."},
        ],
    )
    expected = rf"1 prompts come again with another answer: {file}:1 and {file}:3; keep"
    for ask in (moe.router.fit, moe.router.evaluate):
        with pytest.raises(DataError, match=expected):
            ask(file)
    # To the letter "Sn" and "sn." are two answers.
    with pytest.raises(DataError, match=rf"2 prompts .*:1 and {file}:3, {file}:2 and {file}:4;"):
        moe.router.fit(file, grader="exact")


def test_labels_all_alike_are_refused_and_an_overlong_prompt_is_named(moe, tmp_path, caplog):
    file = write(tmp_path / "alike.jsonl", [{"prompt": LONG, "answer": "no"}, *rows(0, 60)])
    with (
        caplog.at_level(logging.WARNING),
        pytest.raises(RouterError, match=r"60 labels \(60 right, 0 wrong\) .* one-sided"),
    ):
        moe.router.fit(file, grader=lambda *_: 1.0)
    assert f"1 of 61 prompts cannot be asked and are left out; {file}:1:" in caplog.text


def test_what_it_was_fitted_on_does_not_measure_it(moe, fitted):
    learned = fitted[1] / "learned.jsonl"
    with pytest.raises(RouterError, match=r"fitted on 66 of 66 questions .*learned\.jsonl:1, "):
        moe.router.evaluate(learned, grader=by_reference)


@pytest.mark.slow
def test_what_it_was_fitted_on_is_left_out_with_other_words_for_it(moe, fitted, caplog):
    other = {"prompt": "tell me of three", "answer": "yes", "source": "what is 3"}
    file = write(fitted[1] / "mixed.jsonl", [*rows(60, 66), *rows(200, 260), other])
    with caplog.at_level(logging.WARNING):
        report = moe.router.evaluate(file, grader=by_reference)
    assert (report.items, report.left_out, report.target) == (60, 7, "answers")
    assert f"fitted on 7 of 67 questions ({file}:1, " in caplog.text


def test_a_router_of_another_base_is_refused_by_name_or_forced(fitted, tmp_path):
    other = save_tiny("llama", tmp_path / "other", layers=3)
    folder = f"router.folder={fitted[1] / 'router'}"
    with pytest.raises(RouterError, match=r"was fitted on base \S+, this model is \S+; .*--force"):
        opened(tmp_path, folder, base=other)
    with opened(tmp_path, folder, "router.force_uncalibrated=true", base=other) as moe:
        confidence = moe.generate("what is 3", max_new_tokens=2).confidence
        assert not moe.router.threshold(target_risk=0.9).certified
    assert confidence.p_correct is not None
    assert not confidence.calibrated


def test_states_of_another_size_cannot_be_forced(tmp_path):
    from adaptive_moe.pocket import model_path

    folder = f"router.folder={model_path() / 'router'}"
    with pytest.raises(RouterError, match=r"looks at \d+ numbers .* has 192, so it cannot be used"):
        opened(tmp_path, folder, "router.force_uncalibrated=true")


@pytest.fixture(scope="module")
def known(tmp_path_factory):
    """Ninety questions about what the pocket model was taught, more or less often."""
    file = tmp_path_factory.mktemp("known") / "known.jsonl"
    write_known_questions(file, splits=["train_router"])
    return write(file, map(json.loads, evenly(file.read_text().splitlines(), 90)))


@pytest.fixture(scope="module")
def agreeing(known):
    """The pocket model with a router that learned when its samples agree, and its folder."""
    words = [f"store={known.parent / 'store'}", "router.consistency_samples=2"]
    with AdaptiveMoE.from_settings(load_settings(overrides=words)) as moe:
        moe.router.fit_unlabelled(known, output=known.parent / "router")
        yield moe, known.parent / "router"


def test_without_answers_agreement_is_learned_and_said_so(agreeing):
    moe, folder = agreeing
    lessons = moe.router.current.model.learned.fitted_on
    assert (lessons.target, lessons.samples, len(lessons.prompts)) == ("agreement", 2, 90)
    assert '"target": "agreement"' in (folder / "router.json").read_text()
    answer = moe.generate("What is the capital of France?", max_new_tokens=4)
    assert answer.confidence.p_correct is not None
    assert not answer.confidence.calibrated
    assert "the base would say the same again with probability" in answer.route.reasons[0]


def test_agreement_is_that_of_answers_drawn_one_prompt_after_the_other(agreeing, known):
    moe, _ = agreeing
    questions = read_questions([known])[:16]  # with five answers each, more than one slice of rows
    labelled, own = BaseGrader(moe.language_model, moe._bank).agreements(questions, samples=5)
    for place in (0, 7, 15):
        drawn = moe.generate(
            questions[place].question, experts=None, max_new_tokens=32, do_sample=True,
            temperature=1.0, top_k=0, num_return_sequences=5, seed=0,
        )  # fmt: skip
        apart = consistency([answer.text for answer in drawn], reference=own[place].answer)
        assert labelled[place].agreement == pytest.approx(1 - apart)
    assert len({row.agreement for row in labelled}) > 3


def test_what_was_said_again_guards_later_trainings(agreeing):
    moe, folder = agreeing
    lines = (folder / "guard.jsonl").read_text().splitlines()
    questions = [json.loads(line) for line in lines]
    answers = moe.generate([each["prompt"] for each in questions], max_new_tokens=32)
    assert [answer.text for answer in answers] == [each["answer"] for each in questions]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("prompts.txt", "Who is it?\n\n  Where is it?\n"),
        ("prompts.jsonl", '{"prompt": "Who is it?", "answer": "me"}\n{"question": "Where is it?"}'),
        ("prompts", '{"prompt": "Who is it?"}\n{"prompt": "who is it"}\n{"query": "Where is it?"}'),
    ],
)
def test_prompts_are_json_lines_or_plain_text(agreeing, tmp_path, name, text):
    (tmp_path / name).write_text(text)
    expected = r"2 labels \(\d with agreement, \d without\) from 2 sources are too few"
    with pytest.raises(RouterError, match=expected):
        agreeing[0].router.fit_unlabelled(tmp_path / name)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Who is it?", "1: not JSON"),
        ('{"answer": "me"}', "1: needs a prompt"),
        ("", "no questions"),
    ],
)
def test_what_is_no_prompt_is_told_by_file_and_line(agreeing, tmp_path, text, expected):
    (tmp_path / "bad.jsonl").write_text(text)
    with pytest.raises(DataError, match=expected):
        agreeing[0].router.fit_unlabelled(tmp_path / "bad.jsonl")
