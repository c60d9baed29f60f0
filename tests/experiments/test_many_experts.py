"""Every load is a real one, and every choice is among as many experts as it says."""

from itertools import pairwise

import pytest

from adaptive_moe.experiments import bases, choosing, loading, many_experts
from adaptive_moe.experiments.machine import working_conditions
from adaptive_moe.experiments.plan import Plan
from adaptive_moe.experiments.workload import random_experts
from adaptive_moe.pocket import model_path
from adaptive_moe.router.arm_index import index_arms
from adaptive_moe.router.router import Router


@pytest.fixture(scope="module")
def pocket():
    return bases.load("pocket", "cpu")


def test_every_load_copies_an_expert_and_evicts_another(pocket):
    library = random_experts(pocket, rank=2, seed=0, names=["a", "b", "c"])
    loader = loading._Loader(pocket, library, known=4)
    seen = []
    for _ in range(8):
        loader.load_next()
        seen.append(tuple(loader._bank.resident))
    assert all(len(resident) == 2 for resident in seen)
    assert len({resident[-1] for resident in seen}) == 4
    assert all(old != new for old, new in pairwise(seen))
    loader.close()


def test_the_router_weighs_the_experts_it_is_given(pocket):
    folder = model_path() / "router"
    router = Router.load(folder, base_id=pocket.base_id, numerics=pocket.numerics)
    evidence = choosing._evidence(pocket, choosing._questions()[0])
    arms = choosing._arms(router, evidence, count=50, seed=0)
    decision = router.decide(evidence, arms)
    assert decision.kind == "base"
    assert len({arm.domain.boundary.supports.tobytes() for arm in arms}) == 50
    distances = index_arms(router.model, arms).index.assign(evidence.states).ranking
    assert sum(key.startswith("expert:") for key, _ in distances) > 10
    assert all(distance <= choosing._RADIUS for _, distance in distances)


@pytest.mark.slow
def test_loading_and_choosing_are_measured_beside_peers():
    plan = Plan(models=("pocket",), quick=True, threads=1, rank=2)
    with working_conditions(threads=1):
        found = many_experts.run(plan, lambda _: None).figures
    assert {figure.row for figure in found} == {"loading", "choosing"}
    assert [figure.name for figure in found if figure.is_peer] == [
        "PEFT load_adapter, 2 resident", "PEFT load_adapter, 33 resident",
        "PEFT hotswap from files", "PEFT hotswap from RAM",
    ]  # fmt: skip
    assert all(figure.value is not None for figure in found)
