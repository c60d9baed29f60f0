"""An expert whose answers people mark wrong is no longer chosen; its next version starts anew."""

import numpy as np
import pytest

from adaptive_moe import AdaptiveMoE
from adaptive_moe.config.loading import load_settings
from adaptive_moe.engine.verdicts import Verdicts, cluster_of
from adaptive_moe.router.domains import Domain
from tests.flows.lighthouses import ISLES
from tests.support.placed_experts import publish_placed

QUESTIONS = [f"Which keeper does {light} have?" for light in ISLES]


@pytest.fixture
def opened(tmp_path):
    def start():
        # No gap is suspected, so none is checked by sampling.
        quiet = ("gaps.min_prompts=99", "gaps.suspect_prompts=99")
        store = f"store={tmp_path / 'store'}"
        return AdaptiveMoE.from_settings(load_settings(overrides=[store, *quiet]))

    return start


def ask(moe, questions=QUESTIONS):
    return moe.generate(questions, max_new_tokens=1, attribution=False)


def givers(answer):
    return [(each.name, each.version) for each in answer.route.experts]


def record(moe, name="lights"):
    """Answers of an expert that were judged, and right ones."""
    (found,) = [arm for arm in moe.experts.arms() if arm.name == name]
    return tuple(map(sum, zip(*found.judged, strict=True))) if found.judged else (0.0, 0.0)


def test_blame_makes_another_expert_answer_until_a_new_version_comes(opened):
    with opened() as moe:
        publish_placed(moe, "lights", QUESTIONS, right=17, trials=18)
        publish_placed(moe, "spare", QUESTIONS, right=14, trials=18, seed=1)
        answers = ask(moe)
        assert {tuple(givers(answer)) for answer in answers} == {(("lights", 1),)}
        moe.gaps.feedback(answers[0], correct=True)
        for answer in answers[1:]:
            moe.gaps.feedback(answer, correct=False)
        assert record(moe) == (16.0, 1.0)
        assert {tuple(givers(answer)) for answer in ask(moe)} == {(("spare", 1),)}
    with opened() as moe:
        assert record(moe) == (16.0, 1.0)
        assert record(moe, "spare") == (0.0, 0.0)
        publish_placed(moe, "lights", QUESTIONS, right=17, trials=18, seed=2)
        assert record(moe) == (0.0, 0.0)
        assert givers(ask(moe)[0]) == [("lights", 2)]


def test_a_forced_answer_does_not_touch_the_record(opened):
    with opened() as moe:
        publish_placed(moe, "lights", QUESTIONS, right=15, trials=18)
        answer = moe.generate(
            "What is the capital of France?", experts=["lights"], max_new_tokens=1
        )
        moe.gaps.feedback(answer, correct=False)
        assert record(moe) == (0.0, 0.0)


def test_a_shared_answer_counts_by_its_gates(opened):
    with opened() as moe:
        for seed, name in enumerate(("one", "two")):
            publish_placed(moe, name, QUESTIONS, right=15, trials=18, seed=seed)
        (answer,) = ask(moe, QUESTIONS[:1])
        gates = {each.name: each.gate for each in answer.route.experts}
        assert sorted(gates) == ["one", "two"]
        moe.gaps.feedback(answer, correct=False)
        assert {name: record(moe, name) for name in gates} == {
            name: (pytest.approx(gate), 0.0) for name, gate in gates.items()
        }


def test_what_was_said_in_another_state_space_belongs_to_no_cluster():
    domain = Domain("lights", np.eye(2, 3, dtype=np.float32), 1.0, "here")
    assert cluster_of(domain, np.array([0.1, 0.9, 0.0], dtype=np.float32)) == "here:1"
    verdicts = Verdicts()
    said = {"here:1": (3.0, 1.0), "there:0": (2.0, 2.0), "there:7": (0.5, 0.0)}
    verdicts.learn({"lights": said})
    assert verdicts.of("lights", domain) == ((0.0, 0.0), (3.0, 1.0), (2.5, 2.0))
    assert verdicts.of("others", domain) == ()
    verdicts.learn({"lights": dict(said)})
    assert verdicts.lessons == 1
