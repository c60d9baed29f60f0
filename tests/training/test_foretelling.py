"""What a dry run foretells, from moments at which measured steps were over."""

from itertools import accumulate

import pytest

from adaptive_moe.config.settings import TrainingSettings
from adaptive_moe.training import foretelling
from adaptive_moe.training.foretelling import foretold_seconds, measuring, moments_of

SETTINGS = TrainingSettings(max_steps=100, evaluate_every=40)


def test_steps_and_evaluations_are_counted_and_what_comes_before_them_once():
    # Reading, an evaluation and a first step: 20 s; an evaluation of 4 s after the sixth step.
    seconds = [20.0, 1.0, 2.0, 3.0, 2.0, 6.0, 2.0]
    told = list(accumulate(seconds, initial=7.0))
    assert foretold_seconds(told, SETTINGS) == pytest.approx(20 + 99 * 2 + 2 * 4)


def test_evaluations_that_cost_nothing_take_nothing_away():
    told = list(accumulate([5.0, 2.0, 2.0, 2.0, 2.0, 1.0], initial=0.0))
    assert foretold_seconds(told, SETTINGS) == pytest.approx(5 + 99 * 2)


def test_it_is_measured_until_there_are_seconds_enough_and_one_evaluation(monkeypatch):
    clock = iter(range(1000))
    monkeypatch.setattr(foretelling.time, "perf_counter", lambda: float(next(clock)))

    def train(listener):
        for _ in range(measuring(SETTINGS).max_steps):
            listener(None)

    assert moments_of(train) == [0, 1, 2, 3, 4, 5, 6]
    monkeypatch.setattr(foretelling, "_ENOUGH_SECONDS", 20.0)
    assert len(moments_of(train)) == 22
    monkeypatch.setattr(foretelling, "_ENOUGH_SECONDS", 1e9)
    assert len(moments_of(train)) == 1 + 60
