"""What a dry run foretells, from moments at which measured steps were over."""

import pytest

from adaptive_moe.config.settings import TrainingSettings
from adaptive_moe.training.foretelling import foretold_seconds

SETTINGS = TrainingSettings(max_steps=100, evaluate_every=40)


def test_steps_and_evaluations_are_counted_and_what_warms_up_is_not():
    # Steps of 5, 1, 2 and 3 s; the last one took 2.5 s with the 0.25 s of an evaluation behind it.
    told = [10.0, 15.0, 16.0, 18.0, 21.0, 23.75]
    median, evaluation = 2.5, 0.25
    expected = 7.0 + 100 * median + 3 * evaluation
    assert foretold_seconds(told, SETTINGS, reading_seconds=7.0) == pytest.approx(expected)


def test_a_last_step_that_was_quicker_than_others_leaves_evaluations_nothing():
    assert foretold_seconds([0.0, 2.0, 4.0, 5.0], SETTINGS, reading_seconds=0.0) == 200.0
