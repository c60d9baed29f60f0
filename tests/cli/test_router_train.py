"""`router train`: what it takes, what it refuses, and what it says of a router nobody graded."""

import json

import pytest

from adaptive_moe import AdaptiveMoE
from adaptive_moe.measures.sampling import evenly
from adaptive_moe.pocket.asking import write_known_questions
from tests.cli.running import run
from tests.support.tiny_models import save_tiny


def train(file, tmp_path, *words):
    place = ("--output", tmp_path / "router", "--store", tmp_path / "store")
    return run("router", "train", file, *place, *words)


def write(file, rows):
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return file


@pytest.mark.slow
@pytest.mark.parametrize(
    ("grader", "reference", "right"),
    [
        ("exact", "Paris", 1),
        ("exact", "paris", 0),
        ("normalised", "paris", 1),
        ("normalised", "Paris, France", 0),
        ("token_f1", "Paris, France", 1),
        ("numeric", "Paris", 0),
        ("choice", "Paris", 0),
    ],
)
def test_the_grader_is_chosen_by_name(tmp_path, grader, reference, right):
    # The pocket model answers: Paris.
    row = {"prompt": "What is the capital of France?", "answer": reference}
    done = train(write(tmp_path / "one.jsonl", [row]), tmp_path, "--grader", grader)
    assert done.exit_code == 2
    assert f"1 labels ({right} right, {1 - right} wrong) from 1 sources are too few" in done.stderr


def test_an_unknown_grader_is_told_with_the_known_ones(tmp_path):
    row = {"prompt": "What is the capital of France?", "answer": "Paris"}
    done = train(write(tmp_path / "one.jsonl", [row]), tmp_path, "--grader", "best")
    assert done.exit_code == 2
    assert "no grader 'best'; take one of exact, normalised, numeric, token_f1" in done.stderr
    assert not (tmp_path / "router").exists()


def test_what_nobody_grades_takes_no_grader(tmp_path):
    done = train(tmp_path / "any.txt", tmp_path, "--unlabelled", "--grader", "exact")
    assert done.exit_code == 2
    assert "--grader exact: with --unlabelled nothing is graded" in done.stderr


def test_labels_all_alike_are_told_with_what_to_add(tmp_path):
    base = save_tiny("llama", tmp_path / "model")
    rows = [{"prompt": f"what is {number}", "answer": "no"} for number in range(60)]
    done = train(write(tmp_path / "alike.jsonl", rows), tmp_path, "--base", base)
    assert done.exit_code == 2
    assert "60 labels (0 right, 60 wrong) from 60 sources are one-sided" in done.stderr
    assert "add prompts that the base gets right" in done.stderr
    assert len(done.stderr.splitlines()) <= 3


@pytest.mark.slow
def test_a_router_without_answers_says_what_it_is(tmp_path):
    write_known_questions(tmp_path / "all.jsonl", splits=["train_router"])
    lines = evenly((tmp_path / "all.jsonl").read_text().splitlines(), 120)
    prompts = [json.loads(line)["prompt"] for line in lines]
    (tmp_path / "prompts.txt").write_text("\n".join([*prompts, prompts[0].upper()]))
    done = train(tmp_path / "prompts.txt", tmp_path, "--unlabelled")
    assert done.exit_code == 0, done.stderr
    assert "120 prompts; 1 that repeat others and 0 that cannot be asked" in done.stdout
    assert "Nobody graded these answers. Its probabilities say whether 5" in done.stdout
    use = ("--set", f"router.folder={tmp_path / 'router'}", "--store", tmp_path / "store")
    asked = json.loads(run("ask", "What is the capital of France?", *use, "--json").stdout)
    assert asked["confidence"]["calibrated"] is False
    refused = run("router", "threshold", "--target-risk", "0.2", *use)
    assert refused.exit_code == 2
    assert "which nobody graded, so it knows no errors" in refused.stderr
    write_known_questions(tmp_path / "other.jsonl", splits=["calibration"])
    others = evenly((tmp_path / "other.jsonl").read_text().splitlines(), 120)
    (tmp_path / "other.jsonl").write_text("\n".join(others))
    measured = json.loads(
        run("router", "evaluate", tmp_path / "other.jsonl", *use, "--json").stdout
    )
    assert (measured["target"], measured["calibrated"]) == ("agreement", False)
    assert measured["metrics"]["auroc"] > 0.7


@pytest.mark.slow
def test_a_router_of_another_base_must_be_forced(tmp_path):
    one, other = (save_tiny("llama", tmp_path / str(layers), layers=layers) for layers in (2, 3))
    answers = ["yes" if number % 3 else "no" for number in range(66)]
    rows = [{"prompt": f"what is {n}", "answer": answer} for n, answer in enumerate(answers)]
    with AdaptiveMoE.from_pretrained(one, store=tmp_path / "store") as moe:
        moe.router.fit(
            write(tmp_path / "rows.jsonl", rows),
            grader=lambda _, reference: float(reference == "yes"),
            output=tmp_path / "router",
        )
    words = (
        "ask", "hi", "--base", other, "--max-new-tokens", "2", "--store", tmp_path / "store",
        "--set", f"router.folder={tmp_path / 'router'}", "--json",
    )  # fmt: skip
    refused = run(*words)
    assert refused.exit_code == 2
    assert "was fitted on base" in refused.stderr
    assert "--force-uncalibrated" in refused.stderr
    forced = run(*words, "--force-uncalibrated")
    assert forced.exit_code == 0, forced.stderr
    confidence = json.loads(forced.stdout)["confidence"]
    assert confidence["p_correct"] is not None
    assert confidence["calibrated"] is False
