"""In the grey band sampled answers decide whether one is trusted."""

import pytest

from adaptive_moe import AdaptiveMoE
from adaptive_moe.config.loading import load_settings
from adaptive_moe.errors import ConfigurationError
from tests.support.random_experts import store_of_three

KNOWN, UNKNOWN = "What is the capital of France?", "What is the chemical symbol of iron?"
EVERYTHING = "router.grey_band=[0, 1]"


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return store_of_three(tmp_path_factory.mktemp("second"))


def opened(store, *overrides):
    return AdaptiveMoE.from_settings(load_settings(overrides=[f"store={store}", *overrides]))


def test_without_a_band_nothing_is_sampled(store):
    with opened(store) as moe:
        answer = moe.generate(KNOWN)
    assert "consistency" not in answer.confidence.scores
    assert "second_look" not in answer.usage.seconds


def test_what_is_repeated_is_trusted_and_what_is_contradicted_is_not(store):
    with opened(store, EVERYTHING, "router.threshold=1.0") as moe:
        known = moe.generate(KNOWN)
    with opened(store, EVERYTHING, "router.threshold=0.0") as moe:
        unknown = moe.generate(UNKNOWN)
    assert known.confidence.scores["consistency"] <= 0.2
    assert not known.low_confidence
    assert unknown.confidence.scores["consistency"] > 0.5
    assert unknown.low_confidence
    assert known.usage.seconds["second_look"] > 0


def test_outside_of_the_band_the_threshold_decides(store):
    with opened(store, "router.grey_band=[0.0, 0.01]", "router.threshold=1.0") as moe:
        answer = moe.generate(KNOWN)
    assert answer.confidence.p_correct > 0.01
    assert "consistency" not in answer.confidence.scores
    assert answer.low_confidence


@pytest.mark.parametrize(
    ("mixing", "experts"),
    [
        ("weighted", ["whole"]),
        ("weighted", ["one", "two"]),
        ("token", ["one", "two"]),
        ("logits", ["one", "two"]),
    ],
    ids=str,
)
def test_alone_or_in_a_batch_the_same_is_sampled(store, mixing, experts):
    with opened(store, EVERYTHING, f"router.mixing={mixing}") as moe:
        together = moe.generate([UNKNOWN, KNOWN, UNKNOWN], experts=experts, max_new_tokens=6)
        alone = moe.generate(UNKNOWN, experts=experts, max_new_tokens=6)
    found = [answer.confidence.scores["consistency"] for answer in (*together, alone)]
    assert found[0] == found[2] == pytest.approx(found[3])


def test_a_band_that_is_upside_down_is_refused(store):
    with pytest.raises(ConfigurationError, match="grey_band"):
        load_settings(overrides=["router.grey_band=[0.7, 0.4]"])
