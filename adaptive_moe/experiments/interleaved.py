"""Times variants of one thing against each other so that a noisy machine bothers all alike.

Every round runs every variant once, in random order; a variant is judged by the median of its
ratio to its reference within the same round. On a CPU the clock counts the CPU seconds of the
process divided by its threads, so others on the machine cost little; on CUDA it is the wall.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.stats import binom

from adaptive_moe.experiments.figures import LEAST_ROUNDS, NARROW, Figure
from adaptive_moe.experiments.plan import Tell

Run = Callable[[], int]
"""Does the work once; returns the tokens produced per row, so that nobody wins by doing less."""


@dataclass(frozen=True, slots=True)
class Variant:
    """One way of doing the work at one batch size."""

    name: str
    batch: int
    run: Run

    @property
    def key(self) -> str:
        """Name and batch size: unique in one run."""
        return f"{self.name}/{self.batch}"


@dataclass(frozen=True, slots=True)
class Comparison:
    """A variant against its reference, for one row of the table.

    `target` is the largest ratio we want; peers have none. After `most_rounds` it is settled
    even if its interval is wide.
    """

    row: str
    variant: Variant
    reference: Variant
    target: float | None = None
    most_rounds: int | None = None
    is_peer: bool = False
    note: str = ""


@dataclass(frozen=True, slots=True)
class Median:
    """A median with its distribution-free 95 % interval (order statistics)."""

    value: float
    low: float
    high: float

    @property
    def is_narrow(self) -> bool:
        """Whether the interval lies within +-.01 of the median."""
        return max(self.high - self.value, self.value - self.low) <= NARROW


def median_of(values: Iterable[float]) -> Median:
    """The median of some values, at least one, with its interval."""
    ordered = np.sort(np.fromiter(values, dtype=np.float64))
    outside = max(0, int(binom.ppf(0.025, len(ordered), 0.5)) - 1)
    low, high = ordered[outside], ordered[len(ordered) - 1 - outside]
    return Median(float(np.median(ordered)), float(low), float(high))


def paired_ratio(seconds: Sequence[float], reference: Sequence[float]) -> Median:
    """The median of seconds / reference, round by round; the reference may have run longer."""
    return median_of(own / other for own, other in zip(seconds, reference, strict=False))


def milliseconds(seconds: Iterable[float]) -> Median:
    """The median of some durations, in milliseconds."""
    return median_of(1e3 * each for each in seconds)


def timing(
    row: str,
    name: str,
    model: str,
    median: Median,
    *,
    rounds: int,
    unit: str = "ms",
    target: float | None = None,
    is_peer: bool = False,
) -> Figure:
    """A median as a figure for the table."""
    return Figure(
        row,
        name,
        model,
        median.value,
        unit=unit,
        low=median.low,
        high=median.high,
        rounds=rounds,
        target=target,
        is_peer=is_peer,
    )


def measure(
    comparisons: Sequence[Comparison],
    *,
    rounds: int,
    seed: int,
    clock: Callable[[Run], float],
    tell: Tell,
    is_late: Callable[[], bool] = lambda: False,
) -> dict[str, list[float]]:
    """Seconds of every variant by key, one entry a round; round n of all is the same round.

    A comparison is settled after `rounds`, after its own `most_rounds`, or as soon as its
    interval is narrow (not before ten). A variant runs as long as a comparison needs it. After
    ten rounds all end once `is_late`.
    """
    generator = np.random.default_rng(seed)
    seconds: dict[str, list[float]] = {
        each.key: [] for item in comparisons for each in (item.variant, item.reference)
    }
    open_ones = list(comparisons)
    for number in range(1, rounds + 1):
        needed = {each.key: each for item in open_ones for each in (item.variant, item.reference)}
        variants = list(needed.values())
        tell(f"round {number} of at most {rounds}, {len(variants)} variants")
        for index in generator.permutation(len(variants)):
            variant = variants[int(index)]
            seconds[variant.key].append(clock(variant.run))
        open_ones = [item for item in open_ones if not _is_settled(item, seconds)]
        if not open_ones or (number >= LEAST_ROUNDS and is_late()):
            break
    return seconds


def figures(
    comparisons: Sequence[Comparison], seconds: Mapping[str, Sequence[float]], *, model: str
) -> list[Figure]:
    """One figure per comparison: the paired median ratio, its interval, its rounds."""
    found = []
    for item in comparisons:
        own = seconds[item.variant.key]
        ratio = paired_ratio(own, seconds[item.reference.key])
        found.append(
            Figure(
                item.row,
                item.variant.name,
                model,
                ratio.value,
                unit=f"x {item.reference.name}",
                batch=item.variant.batch,
                low=ratio.low,
                high=ratio.high,
                rounds=len(own),
                target=item.target,
                is_peer=item.is_peer,
                note=item.note,
            )
        )
    return found


def summary(seconds: Mapping[str, Sequence[float]]) -> dict[str, dict[str, float]]:
    """Rounds, and least and median seconds, of every variant."""
    return {
        key: {"rounds": len(own), "min": min(own), "median": float(np.median(own))}
        for key, own in seconds.items()
    }


def stopwatch(device: torch.device) -> Callable[[Run], float]:
    """Times one run: CPU seconds over threads; on CUDA wall seconds until the card is done."""
    return wall_clock(device) if device.type == "cuda" else _processor_seconds


def wall_clock(device: torch.device) -> Callable[[Callable[[], object]], float]:
    """Times something in wall seconds, until the device is done."""

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    def timed(run: Callable[[], object]) -> float:
        wait()
        started = time.perf_counter()
        run()
        wait()
        return time.perf_counter() - started

    return timed


def _processor_seconds(run: Run) -> float:
    started = time.process_time()
    run()
    return (time.process_time() - started) / torch.get_num_threads()


def _is_settled(item: Comparison, seconds: Mapping[str, Sequence[float]]) -> bool:
    own, reference = seconds[item.variant.key], seconds[item.reference.key]
    if item.most_rounds is not None and len(own) >= item.most_rounds:
        return True
    return len(own) >= LEAST_ROUNDS and paired_ratio(own, reference).is_narrow
