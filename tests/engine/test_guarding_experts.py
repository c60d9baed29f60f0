"""What an expert spoils of the base's knowledge is seen at the gate, by routed answers."""

import json

import pytest
import torch

from adaptive_moe import AdaptiveMoE
from adaptive_moe.config.loading import load_settings
from adaptive_moe.engine.judging import Judge
from adaptive_moe.engine.shelf import Trial
from adaptive_moe.engine.states import state_reader
from adaptive_moe.experts.manifest import Manifest
from adaptive_moe.experts.weights import LoraPair
from adaptive_moe.measures.statistics import Interval
from adaptive_moe.pocket import model_path
from adaptive_moe.router.domains import fit_domain
from adaptive_moe.training.guarding import GuardItem, measure_guard
from adaptive_moe.training.held_out import HeldOutFigures

SURE = HeldOutFigures("recall", "exact", 20, 0.0, 1.0, 5.0, 0.1, 20, Interval(1.0, 1.0, 1.0))


def guards(domain, count):
    lines = (model_path() / "router" / "guard.jsonl").read_text().splitlines()
    rows = [row for row in map(json.loads, lines) if (row["domain"] == "currencies") == domain]
    return [GuardItem((("user", row["prompt"]),), row["answer"]) for row in rows[:count]]


def one_that_spoils(moe, prompts, folder):
    """Its domain is around the prompts, and what it says is noise."""
    base, layer = moe.language_model, moe.language_model.layers[-1]
    generator = torch.Generator().manual_seed(0)
    noise = LoraPair(
        torch.randn(4, layer.in_features, generator=generator),
        torch.randn(4, layer.out_features, generator=generator),
    )
    states = state_reader(base, moe._bank)(prompts)
    domain = fit_domain("money", states, moe.router.current.whitening, seed=0)
    manifest = Manifest(
        base_id=base.base_id,
        numerics=base.numerics.to_dict(),
        activation="answer",
        header_ids=base.header_ids,
        modules={},
        gate={},
    )
    return Trial.of("money", manifest, folder=folder, weights={layer.name: noise}, domain=domain)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("store")
    own, others = guards(True, 12), guards(False, 120)
    with AdaptiveMoE.from_settings(load_settings(overrides=[f"store={folder}"])) as moe:
        judge = Judge(moe._answerer, moe.settings.router, folder=folder)
        trial = one_that_spoils(moe, [item.prompt[0][1] for item in own], folder)
        with moe._answerer.shelf.on_trial(trial) as arm:
            asked = judge._respondents(trial, arm)
            guard = measure_guard(
                [*others, *own],
                asked.live(SURE),
                base=asked.base,
                before=asked.before,
                count=200,
                seed=0,
            )
    return guard, {item.prompt for item in own}


def test_what_it_answers_wrong_in_the_bases_place_is_lost(found):
    guard, own = found
    assert guard.figures.items >= 130
    lost = {item.prompt for item in guard.lost}
    assert len(lost & own) >= 2
    assert guard.figures.lost == len(lost)


def test_the_nearest_are_those_of_its_own_kind(found):
    guard, own = found
    assert {item.prompt for item in guard.items[: len(own)]} == own
    assert guard.figures.near_items == 100
    assert guard.figures.near_lost >= 2
