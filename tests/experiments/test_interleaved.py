"""Ratios are paired by round, and measuring stops where the figures stand."""

import pytest

from adaptive_moe.experiments.figures import Figure
from adaptive_moe.experiments.interleaved import (
    Comparison,
    Variant,
    figures,
    measure,
    median_of,
    paired_ratio,
)


class Clockwork:
    """Gives every variant the seconds that stand for it, round by round, the last one for ever."""

    def __init__(self, **seconds: list[float]) -> None:
        self.seconds = seconds
        self.told: list[str] = []

    def variant(self, name: str) -> Variant:
        return Variant(name, 1, lambda: self._last(name))

    def __call__(self, run) -> float:
        return self.seconds[self.name_of(run)].pop(0)

    def name_of(self, run) -> str:
        run()
        return self.called

    def _last(self, name: str) -> int:
        self.called = name
        return 1

    def measure(self, comparisons, *, rounds: int, **options) -> dict[str, list[float]]:
        tell = self.told.append
        return measure(comparisons, rounds=rounds, seed=0, clock=self, tell=tell, **options)


def test_a_ratio_is_the_median_of_the_rounds_ratios():
    ratio = paired_ratio([2.0, 3.0, 8.0], [1.0, 2.0, 2.0])
    assert (ratio.value, ratio.low, ratio.high) == (2.0, 1.5, 4.0)


def test_rounds_that_the_reference_ran_alone_do_not_count():
    assert paired_ratio([2.0, 2.0], [1.0, 1.0, 100.0]).value == 2.0


def test_a_noisy_machine_bothers_both_sides_of_a_round_alike():
    noise = [1.0, 5.0, 2.0, 9.0]
    ratio = paired_ratio([1.1 * each for each in noise], noise)
    assert ratio.value == pytest.approx(1.1)
    assert ratio.is_narrow


def test_the_interval_of_a_median_is_made_of_order_statistics():
    # Of ten coin tosses fewer than two are heads with probability 11 / 1024 < .025, so the second
    # smallest and the second largest bound the median with at least 95 %.
    median = median_of([float(each) for each in range(10, 0, -1)])
    assert (median.value, median.low, median.high) == (5.5, 2.0, 9.0)


def test_a_variant_stops_when_its_interval_is_narrow_and_its_reference_goes_on():
    wobbly = [1.0, 1.5] * 10
    clock = Clockwork(bare=[1.0] * 20, steady=[1.2] * 20, wobbly=wobbly.copy())
    bare, steady, other = map(clock.variant, ("bare", "steady", "wobbly"))
    seconds = clock.measure(
        [Comparison("one", steady, bare), Comparison("two", other, bare)], rounds=20
    )
    assert {key: len(each) for key, each in seconds.items()} == {
        "steady/1": 10, "bare/1": 20, "wobbly/1": 20,
    }  # fmt: skip
    assert seconds["wobbly/1"] == wobbly
    assert clock.told[-1] == "round 20 of at most 20, 2 variants"


def test_time_that_is_up_ends_all_rounds_but_the_first_ten():
    clock = Clockwork(bare=[1.0] * 20, wobbly=[1.0, 1.5] * 10)
    bare, other = map(clock.variant, ("bare", "wobbly"))
    compared = [Comparison("one", other, bare)]
    seconds = clock.measure(compared, rounds=20, is_late=lambda: len(clock.told) > 3)
    assert len(seconds["wobbly/1"]) == 10


def test_a_peer_stops_after_its_rounds_however_wide_its_interval():
    clock = Clockwork(bare=[1.0] * 9, peer=[1.0, 3.0, 9.0])
    bare, peer = clock.variant("bare"), clock.variant("peer")
    seconds = clock.measure([Comparison("one", peer, bare, most_rounds=3, is_peer=True)], rounds=9)
    assert len(seconds["peer/1"]) == 3


def test_a_figure_carries_what_a_reader_needs_to_judge_it():
    bare, ours = Variant("bare", 8, lambda: 1), Variant("no expert", 8, lambda: 1)
    found = figures(
        [Comparison("no_expert", ours, bare, target=1.02)],
        {"bare/8": [1.0] * 10, "no expert/8": [1.01] * 10},
        model="pocket",
    )
    assert found == [
        Figure(
            "no_expert", "no expert", "pocket", 1.01, unit="x bare", batch=8,
            low=1.01, high=1.01, rounds=10, target=1.02,
        )
    ]  # fmt: skip
