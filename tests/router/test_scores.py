"""Scores of distributions that can be worked out by hand, and their orientation."""

import math

import numpy as np
import pytest
import torch

from adaptive_moe.models.token_trace import TokenTrace, token_statistics
from adaptive_moe.router.scores import (
    SCORES,
    answer_scores,
    consistency,
    prefill_scores,
    prefill_scores_by_row,
    token_scores,
)

UNIFORM = torch.zeros(4)
TWO_POINT = torch.log(torch.tensor([0.75, 0.25, 1e-30, 1e-30]))
ONE_HOT = torch.tensor([200.0, 0.0, 0.0, 0.0])


def trace_of(*steps: tuple[torch.Tensor, int]) -> TokenTrace:
    logits = torch.stack([step for step, _ in steps])
    table = token_statistics(logits, torch.tensor([token for _, token in steps])).numpy()
    return TokenTrace(*(line.astype(np.float32) for line in table))


EMPTY = TokenTrace(*[np.zeros(0, dtype=np.float32)] * 7)


@pytest.mark.parametrize(
    ("name", "uniform", "two_point", "one_hot"),
    [
        ("msp", 2 * math.log(4), -math.log(0.75) - math.log(0.25), 0.0),
        ("perplexity", math.log(4), -(math.log(0.75) + math.log(0.25)) / 2, 0.0),
        ("mean_entropy", math.log(4), -0.75 * math.log(0.75) - 0.25 * math.log(0.25), 0.0),
        ("max_entropy", math.log(4), -0.75 * math.log(0.75) - 0.25 * math.log(0.25), 0.0),
        ("min_margin", 1.0, 0.5, 0.0),
        (
            "self_certainty",
            0.0,
            math.log(4) + (math.log(0.75) + math.log(0.25) + 2 * math.log(1e-30)) / 4,
            math.log(4) - 150.0,
        ),
        (
            "renyi",
            0.0,
            2 * math.log(math.sqrt(0.75 / 4) + math.sqrt(0.25 / 4)),
            -math.log(4),
        ),
        ("energy", -math.log(4), 0.0, -200.0),
    ],
)
def test_score_by_hand(name: str, uniform: float, two_point: float, one_hot: float) -> None:
    score = SCORES[name]
    assert score(trace_of((UNIFORM, 0), (UNIFORM, 3))) == pytest.approx(uniform, abs=1e-5)
    assert score(trace_of((TWO_POINT, 0), (TWO_POINT, 1))) == pytest.approx(two_point, abs=1e-5)
    assert score(trace_of((ONE_HOT, 0), (ONE_HOT, 0))) == pytest.approx(one_hot, abs=1e-4)


@pytest.mark.parametrize("name", sorted(SCORES))
def test_higher_means_more_uncertain(name: str) -> None:
    unsure, sure = trace_of((UNIFORM, 0)), trace_of((ONE_HOT, 0))
    assert SCORES[name](unsure) > SCORES[name](sure)


@pytest.mark.parametrize("name", sorted(SCORES))
def test_no_token_is_maximally_uncertain_and_finite(name: str) -> None:
    empty = SCORES[name](EMPTY)
    assert math.isfinite(empty)
    assert empty >= SCORES[name](trace_of((UNIFORM, 0), (UNIFORM, 1)))


def test_sums_grow_with_length_and_means_do_not() -> None:
    once, thrice = trace_of((UNIFORM, 0)), trace_of(*[(UNIFORM, 0)] * 3)
    assert SCORES["msp"](thrice) == pytest.approx(3 * SCORES["msp"](once))
    assert SCORES["perplexity"](thrice) == pytest.approx(SCORES["perplexity"](once))


def test_extremes_are_taken_at_the_least_certain_step() -> None:
    mixed = trace_of((ONE_HOT, 0), (UNIFORM, 0), (ONE_HOT, 0))
    assert SCORES["max_entropy"](mixed) == pytest.approx(math.log(4), abs=1e-5)
    assert SCORES["min_margin"](mixed) == pytest.approx(1.0)
    assert SCORES["mean_entropy"](mixed) == pytest.approx(math.log(4) / 3, abs=1e-5)


def test_prefill_scores_are_those_of_the_likeliest_first_token() -> None:
    found = prefill_scores(TWO_POINT)
    expected = answer_scores(trace_of((TWO_POINT, 0)))
    assert found["first_token_entropy"] == pytest.approx(expected["mean_entropy"])
    assert found["first_token_msp"] == pytest.approx(-math.log(0.75), abs=1e-6)
    assert found["first_token_margin"] == pytest.approx(0.5)
    assert found["first_token_renyi"] == pytest.approx(expected["renyi"])
    assert found["first_token_energy"] == pytest.approx(0.0, abs=1e-6)


def test_prefill_scores_do_not_depend_on_the_batch() -> None:
    batch = torch.stack([UNIFORM, TWO_POINT, ONE_HOT])
    assert prefill_scores_by_row(batch)[1] == prefill_scores(TWO_POINT)


def test_masked_words_have_no_weight() -> None:
    """Half and half over two words, two more masked: by hand, with 0 log 0 = 0."""
    trace = trace_of((torch.tensor([1.0, 1.0, -math.inf, -math.inf]), 0))
    assert trace.entropy == pytest.approx([math.log(2)], abs=1e-6)
    assert trace.log_probability == pytest.approx([-math.log(2)], abs=1e-6)
    assert trace.margin == pytest.approx([0.0], abs=1e-6)
    assert trace.max_probability == pytest.approx([0.5], abs=1e-6)
    assert trace.renyi == pytest.approx([math.log(4) - math.log(2)], abs=1e-6)
    assert trace.log_sum_exp == pytest.approx([1 + math.log(2)], abs=1e-6)
    # log sum exp less the mean logit (1 + 1 + two of -9999) / 4, less log V
    assert trace.self_certainty == pytest.approx([math.log(2) + 5000 - math.log(4)], rel=1e-6)
    assert all(math.isfinite(score) for score in answer_scores(trace).values())


def test_one_word_left_by_the_mask_is_certain() -> None:
    trace = trace_of((torch.tensor([-math.inf, 3.0, -math.inf]), 1))
    assert trace.entropy == pytest.approx([0.0], abs=1e-6)
    assert trace.max_probability == pytest.approx([1.0])
    assert trace.margin == pytest.approx([1.0])
    assert trace.renyi == pytest.approx([math.log(3)], abs=1e-6)


def test_a_masked_word_that_is_forced_has_a_finite_probability() -> None:
    trace = trace_of((torch.tensor([0.0, 0.0, -math.inf]), 2))
    assert trace.log_probability == pytest.approx([-1e4 - math.log(2)], rel=1e-6)


def test_words_that_are_ruled_out_leave_every_score_finite() -> None:
    logits = torch.tensor([0.0, 0.0, -math.inf, -math.inf])
    found = prefill_scores(logits)
    assert all(math.isfinite(value) for value in found.values())
    assert found["first_token_entropy"] == pytest.approx(math.log(2), abs=1e-6)


def test_consistency_by_hand() -> None:
    assert consistency(["iron", "Iron.", "the iron"]) == 0.0
    assert consistency(["iron", "gold"]) == 1.0
    # Pairs: iron-iron 0, iron-gold 1, iron-gold 1.
    assert consistency(["iron", "iron", "gold"]) == pytest.approx(2 / 3)
    assert consistency(["iron", "gold"], reference="iron") == pytest.approx(0.5)


def test_nothing_to_compare_is_maximally_inconsistent() -> None:
    assert consistency([]) == consistency(["iron"]) == consistency([], reference="iron") == 1.0


def test_token_scores_have_one_value_for_every_token() -> None:
    scores = token_scores(trace_of((UNIFORM, 0), (ONE_HOT, 0)))
    assert {len(values) for values in scores.values()} == {2}
    assert scores["log_probability"] == pytest.approx((-math.log(4), 0.0))
    assert token_scores(EMPTY)["entropy"] == ()
