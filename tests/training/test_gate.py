"""The gate lets through what is proven to help and to harm nothing."""

import json

import pytest
import torch

from adaptive_moe.experts.weights import LoraPair
from adaptive_moe.training.documents import Passage
from adaptive_moe.training.gate import GuardItem, Predecessor, measure_guard, run_gate
from adaptive_moe.training.ranks import plan_ranks
from adaptive_moe.training.retrieval import measure_retrieval
from adaptive_moe.training.splits import Split
from adaptive_moe.training.trainer import train_lora
from tests.support.tiny_models import tiny_language_model


def guard(count):
    return [GuardItem((("user", f"known {i}?"),), f"Answer {i}.", i % 5 == 0) for i in range(count)]


def answerer(wrong=0):
    def answer(prompts):
        numbers = [prompt[-1][1].split()[1].rstrip("?") for prompt in prompts]
        return [f"answer {n}" if int(n) >= wrong else "no idea" for n in numbers]

    return answer


GUARD = guard(300)
RIGHT = answerer()


@pytest.fixture(scope="module")
def trained(make_bank, examples, quick):
    llama = tiny_language_model("llama")
    settings = quick.model_copy(update={"max_steps": 40, "evaluate_every": 20})
    bank = make_bank(llama)
    plan = plan_ranks(llama.layers, strategy="fixed", reference_rank=4)
    result = train_lora(
        llama, bank, plan, examples, held_out=examples[:12], settings=settings, seed=0
    )

    def gate(
        name="generalise", weights=result.weights, guards=GUARD, automatic=RIGHT, predecessor=None
    ):
        split = Split(name, tuple(examples), (), tuple(examples[:12]), "digest")
        return run_gate(
            llama,
            bank,
            weights,
            split,
            passages=(),
            guard=guards,
            answer_automatic=automatic,
            answer_forced=answerer(9),
            predecessor=predecessor,
            settings=settings,
            seed=0,
        )

    gate.weights = result.weights
    return gate


def test_a_proven_gain_without_loss_is_accepted(trained):
    report = trained()
    assert report.accepted
    assert report.reasons == ()
    assert report.held_out.metric == "loss"
    assert report.held_out.loss_after < report.held_out.loss_before
    assert report.held_out.gain.low > 0
    assert report.guard.bound == pytest.approx(0.00994, abs=1e-4)
    assert report.guard_forced.lost == 9
    json.dumps(report.to_dict(), allow_nan=False)


def test_the_better_version_serves(trained, examples):
    halved = {name: LoraPair(pair.a, pair.b * 0.5) for name, pair in trained.weights.items()}
    weaker = trained(predecessor=Predecessor(1, halved, "answer", frozenset()))
    assert weaker.accepted
    assert weaker.versions.gain.mean > 0
    assert weaker.versions.examples == 12

    better = trained(
        weights=halved, predecessor=Predecessor(1, trained.weights, "answer", frozenset())
    )
    assert better.held_out.gain.low > 0
    assert not better.accepted
    assert better.versions.gain.mean == pytest.approx(-weaker.versions.gain.mean)
    (reason,) = better.reasons
    assert reason.startswith("version 1, which serves, is better by ")

    equal = trained(predecessor=Predecessor(1, trained.weights, "answer", frozenset()))
    assert equal.accepted
    assert equal.versions.gain.mean == 0


def test_versions_are_compared_on_questions_that_are_new_to_both(trained, examples):
    halved = {name: LoraPair(pair.a, pair.b * 0.5) for name, pair in trained.weights.items()}
    taught = {example.prompt[-1][1] for example in examples[:12]}
    report = trained(
        weights=halved, predecessor=Predecessor(1, trained.weights, "answer", frozenset(taught))
    )
    assert report.accepted
    assert report.versions is None


def test_what_others_spoilt_before_is_not_held_against_an_expert():
    items = [GuardItem((("user", str(i)),), "yes", i < 10) for i in range(300)]

    def answering(wrong):
        return lambda prompts: ["no" if int(turns[0][1]) in wrong else "yes" for turns in prompts]

    figures = measure_guard(items, answering({1, 2, 50}), before=answering({2, 50, 77}))
    assert (figures.items, figures.lost) == (298, 1)
    assert (figures.near_items, figures.near_lost) == (9, 1)
    alone = measure_guard(items, answering({1, 2, 50}))
    assert (alone.items, alone.lost, alone.near_lost) == (300, 3, 2)


def test_weights_that_change_nothing_are_rejected(trained, llama):
    idle = {
        layer.name: LoraPair(torch.ones(2, layer.in_features), torch.zeros(2, layer.out_features))
        for layer in llama.layers
    }
    report = trained(weights=idle)
    assert not report.accepted
    assert "held-out gain of +0.000" in report.reasons[0]


def test_recall_is_judged_by_exact_answers(trained):
    report = trained(name="recall")
    assert report.held_out.metric == "exact"
    expected = report.held_out.exact_after - report.held_out.exact_before
    assert report.held_out.gain.mean == pytest.approx(expected)


def test_a_lost_guard_prompt_rejects_and_says_which_bound(trained):
    report = trained(automatic=answerer(wrong=1))
    assert not report.accepted
    assert report.guard.lost == report.guard.near_lost == 1
    assert "1 of 300 guard prompts" in report.reasons[0]
    assert "1.57%" in report.reasons[0]


def test_a_small_guard_set_cannot_prove_harmlessness(trained):
    report = trained(guards=guard(50))
    assert not report.accepted
    assert "holds only 50 prompts" in report.reasons[0]


def test_guard_answers_are_graded_after_normalisation():
    figures = measure_guard(guard(10), answerer(wrong=3))
    assert (figures.items, figures.lost, figures.near_items, figures.near_lost) == (10, 3, 2, 1)
    assert figures.rate == pytest.approx(0.3)


def test_retrieval_is_reported_beside_the_expert(examples):
    table = "| Lake | Depth |\n| --- | --- |\n| Garda | 346 |\n| Como | 410 |"
    passages = [Passage(table, ("Lakes",), "lakes.md", 1)]
    asked = [
        examples[0].__class__((("user", f"How deep is {lake}?"),), depth, lake, "x", "q", 1)
        for lake, depth in (("Garda", "346"), ("Como", "410"), ("Garda", "999"))
    ]
    figures = measure_retrieval(passages, (), asked)
    assert (figures.hits, figures.questions) == (2, 3)
