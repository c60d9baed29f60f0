"""Weights become gates: they sum to one, keep their order, and lose what is too small to matter."""

import pytest

from adaptive_moe.errors import ConfigurationError
from adaptive_moe.integration.mixing import RULES, top1, weighted

RULE_NAMES = sorted(RULES)


def test_top1_gives_everything_to_the_largest_weight() -> None:
    assert top1([("a", 0.2), ("b", 0.7), ("c", 0.1)]) == (("b", 1.0),)


def test_top1_takes_the_first_of_equals() -> None:
    assert top1([("late", 0.5), ("early", 0.5)]) == (("late", 1.0),)


def test_weighted_is_proportional_and_largest_first() -> None:
    mixture = weighted([("a", 0.2), ("b", 0.6)])
    assert [name for name, _ in mixture] == ["b", "a"]
    assert [gate for _, gate in mixture] == pytest.approx([0.75, 0.25])


def test_weighted_drops_a_gate_far_below_the_largest_and_shares_out_the_rest() -> None:
    mixture = dict(weighted([("a", 0.6), ("b", 0.2), ("c", 0.6 * 0.049)]))
    assert mixture == pytest.approx({"a": 0.75, "b": 0.25})


def test_many_equal_experts_all_stay() -> None:
    mixture = weighted([(str(number), 0.001) for number in range(40)])
    assert [gate for _, gate in mixture] == pytest.approx([1 / 40] * 40)


def test_weights_too_small_to_add_up_still_make_gates() -> None:
    assert dict(weighted([("a", 5e-324), ("b", 5e-324)])) == {"a": 0.5, "b": 0.5}


@pytest.mark.parametrize("rule", RULE_NAMES)
def test_gates_sum_to_one(rule: str) -> None:
    mixture = RULES[rule].gates([("a", 0.31), ("b", 0.27), ("c", 0.9)])
    assert sum(gate for _, gate in mixture) == pytest.approx(1.0)


@pytest.mark.parametrize("rule", RULE_NAMES)
def test_without_a_positive_weight_the_base_answers(rule: str) -> None:
    assert RULES[rule].gates([]) == ()
    assert RULES[rule].gates([("a", 0.0), ("b", 0.0)]) == ()


@pytest.mark.parametrize("rule", RULE_NAMES)
@pytest.mark.parametrize("weight", [-0.1, float("nan"), float("inf")])
def test_impossible_weights_are_refused(rule: str, weight: float) -> None:
    with pytest.raises(ConfigurationError, match="'b'"):
        RULES[rule].gates([("a", 0.5), ("b", weight)])


def test_an_expert_given_twice_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="twice"):
        weighted([("a", 0.5), ("a", 0.1)])
