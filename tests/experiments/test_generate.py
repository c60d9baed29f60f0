"""The whole comparison, small: every row of the answers' part is filled, peers stand beside."""

from collections.abc import Sequence

import pytest
import torch

from adaptive_moe.experiments import bases, generate, peers
from adaptive_moe.experiments.compiled_variants import compiled_comparisons
from adaptive_moe.experiments.machine import working_conditions
from adaptive_moe.experiments.peer_variants import Peers
from adaptive_moe.experiments.plan import Plan
from adaptive_moe.experiments.workload import bank_with, prompts_of, random_experts

PLAN = Plan(models=("pocket",), rounds=1, prompt_tokens=16, new_tokens=4, threads=1, batches=(2,))
ANSWERS = {"no_expert", "one_expert", "four_mixed", "scores", "routed", "eight_experts"}


def peer_names(figures: Sequence) -> set[str]:
    return {figure.name for figure in figures if figure.is_peer}


def test_every_way_to_answer_is_measured_beside_its_peers():
    with working_conditions(threads=1):
        found = generate.run(PLAN, lambda _: None)
    assert {figure.row for figure in found.figures} == ANSWERS
    assert [figure for figure in found.figures if figure.value is None] == []
    assert peer_names(found.figures) == {
        "PEFT", "PEFT adapter_names", "PEFT, four at once", "PEFT add_weighted_adapter",
        "PEFT Arrow", "PEFT X-LoRA",
    }  # fmt: skip
    assert found.details["pocket"]["seconds"]["bare/2"]["rounds"] == 1
    judged = {figure.verdict(contended=False) for figure in found.figures if figure.target}
    assert judged == {"too few rounds"}


@pytest.fixture(scope="module")
def pocket():
    return bases.load("pocket", "cpu")


def test_a_peer_that_fails_is_reported_with_its_reason(pocket, tmp_path, monkeypatch):
    def refuse(*_: object, **__: object) -> None:
        raise TypeError("no such keyword")

    monkeypatch.setattr(peers, "arrow", refuse)
    monkeypatch.setattr(peers, "x_lora", refuse)
    experts = random_experts(pocket, rank=2, seed=0)
    theirs = Peers(pocket, PLAN, experts, title="pocket", folder=tmp_path)
    with working_conditions(threads=1):
        works, failed = theirs.comparisons(1, theirs.bare(1))
    assert [item.variant.name for item in works] == [
        "PEFT", "PEFT, four at once", "PEFT add_weighted_adapter",
    ]  # fmt: skip
    assert [(each.name, each.note) for each in failed] == [
        ("PEFT Arrow", "TypeError: no such keyword"),
        ("PEFT X-LoRA", "TypeError: no such keyword"),
    ]


def test_peers_leave_the_base_alone(pocket):
    weight = pocket.model.get_input_embeddings().weight
    wrapped = peers.in_peft(peers.twin(pocket.model), random_experts(pocket, rank=2, seed=0))
    assert wrapped.get_base_model().get_input_embeddings().weight is weight
    assert not any("lora" in name for name, _ in pocket.model.named_modules())
    assert bases.in_float64(pocket).dtype == torch.float64
    assert weight.dtype == torch.float32


@pytest.mark.parametrize("tokens", [12, 31, 64])
def test_prompts_have_exactly_the_length_asked_for(pocket, tokens):
    prompts = prompts_of(pocket, tokens, 3)
    assert [prompt.length for prompt in prompts] == [tokens] * 3
    assert len({prompt.prompt_ids for prompt in prompts}) == 3


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_compiled_ways_answer_as_long_as_the_others(compilable, pocket):
    bank = bank_with(pocket, random_experts(pocket, rank=2, seed=0))
    with working_conditions(threads=2):
        found = compiled_comparisons(pocket, bank, PLAN, 2)
        lengths = {each.variant.run() for each in found} | {found[0].reference.run()}
    assert lengths == {PLAN.new_tokens}
    assert {each.row for each in found} <= ANSWERS
