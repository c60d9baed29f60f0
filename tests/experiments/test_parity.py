"""The comparison with PEFT notices a difference, and tells apart what rounding may decide."""

import math

import pytest
import torch

from adaptive_moe.experiments import against_peft, bases, batch_parity, untouched_base
from adaptive_moe.experiments.against_peft import count_differing
from adaptive_moe.experiments.machine import working_conditions
from adaptive_moe.experiments.plan import Plan

PLAN = Plan(models=("pocket",), prompt_tokens=32, new_tokens=4, rank=2, threads=1, batches=(1, 2))


@pytest.fixture(scope="module")
def pocket():
    return bases.load("pocket", "cpu")


def values(figures) -> dict[str, float]:
    return {figure.name: figure.value for figure in figures}


def test_rows_part_where_the_margin_was_clear_or_where_rounding_chose():
    ours, theirs = [[1, 2, 3], [1, 2, 3], [4, 4, 4]], [[1, 2, 3], [1, 9, 9], [9, 4, 4]]
    margins = [[1.0, 1.0, 1.0], [1.0, 0.5, 1.0], [1e-4, 1.0, 1.0]]
    assert count_differing(ours, theirs, margins) == (1, 3 + 2 + 1)


def test_the_pocket_model_agrees_with_peft_in_both_precisions(pocket):
    with working_conditions(threads=1):
        found = list(against_peft.figures(pocket, PLAN, title="pocket"))
    assert {figure.verdict(contended=True) for figure in found} == {"met"}
    assert "the experts themselves move logits by" in found[0].note


def test_a_base_that_was_touched_is_noticed(pocket, monkeypatch):
    changes = untouched_base.largest_changes(pocket, PLAN)
    assert set(changes.values()) == {0.0}
    assert len(changes) == 7

    def drift(bank, expert_id):
        weight.data += 0.01

    weight = pocket.model.model.norm.weight
    before = weight.clone()
    monkeypatch.setattr("adaptive_moe.experts.bank.LoraBank.evict", drift)
    try:
        changes = untouched_base.largest_changes(pocket, PLAN)
    finally:
        weight.data = before
    assert changes["experts used"] == 0.0
    assert changes["experts evicted"] > 0.0


def test_batches_and_padding_change_no_score(pocket):
    found = list(batch_parity.figures(pocket, PLAN, title="pocket"))
    assert {figure.verdict(contended=True) for figure in found} == {"met", ""}
    assert 0 < values(found)["scores, largest difference"] <= 1e-4


def test_a_margin_of_logits_follows_from_two_probabilities():
    logits = torch.tensor([[2.0, 0.5, -1.0], [50.0, -60.0, -60.0]])
    from adaptive_moe.models.token_trace import TokenTrace, token_statistics

    trace = TokenTrace(*token_statistics(logits, logits.argmax(dim=-1)).numpy())
    assert batch_parity._margins(trace) == (pytest.approx(1.5, abs=1e-5), math.inf)
