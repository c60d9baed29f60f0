"""Times variants of one thing against each other so that a noisy machine bothers all alike.

Every round runs every variant once, in random order; a variant is judged by the median of its
ratio to its reference within the same round. On a CPU the clock counts the CPU seconds of the
process divided by its threads, so colleagues on the machine cost little; on CUDA it is the wall.
"""

import os
import platform
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from scipy.stats import binom

CONTENDED_LOAD = 0.3
LEAST_ROUNDS = 10
NARROW = 0.01

_PACKAGES = ("torch", "transformers", "peft", "numpy")


@dataclass(frozen=True, slots=True)
class Variant:
    """One way of doing the work. `reference` names the variant it is compared with.

    `target` is the largest ratio we want, absent for references and peers. `run` returns the
    number of tokens it produced per row, so that nobody wins by doing less.
    """

    name: str
    batch: int
    run: Callable[[], int]
    reference: str
    target: float | None = None

    @property
    def key(self) -> str:
        """Name and batch size: unique in one run."""
        return f"{self.name}/{self.batch}"

    @property
    def reference_key(self) -> str:
        """Key of the variant it is compared with, at the same batch size."""
        return f"{self.reference}/{self.batch}"


@dataclass(frozen=True, slots=True)
class Ratio:
    """Median of paired ratios with its distribution-free 95 % interval (order statistics)."""

    median: float
    low: float
    high: float

    @property
    def is_narrow(self) -> bool:
        """Whether the interval lies within +-.01 of the median."""
        return max(self.high - self.median, self.median - self.low) <= NARROW


def measure(
    variants: Sequence[Variant], *, rounds: int, seed: int, device: torch.device
) -> dict[str, list[float]]:
    """Seconds of every variant by key, one entry a round.

    At most `rounds` rounds; fewer (at least 10) once every ratio's interval is narrow.
    """
    generator = np.random.default_rng(seed)
    seconds: dict[str, list[float]] = {variant.key: [] for variant in variants}
    for number in range(rounds):
        for index in generator.permutation(len(variants)):
            variant = variants[int(index)]
            seconds[variant.key].append(_timed(variant.run, device))
        print(f"\rround {number + 1} of at most {rounds}", end="", file=sys.stderr, flush=True)
        if number + 1 >= LEAST_ROUNDS and _all_narrow(variants, seconds):
            break
    print(file=sys.stderr)
    return seconds


def paired_ratio(seconds: Sequence[float], reference: Sequence[float]) -> Ratio:
    """The median of seconds / reference, round by round."""
    ratios = np.sort(np.asarray(seconds) / np.asarray(reference))
    outside = max(0, int(binom.ppf(0.025, len(ratios), 0.5)) - 1)
    return Ratio(
        float(np.median(ratios)), float(ratios[outside]), float(ratios[len(ratios) - 1 - outside])
    )


def report(
    variants: Sequence[Variant], seconds: dict[str, list[float]], *, contended: bool
) -> list[dict[str, object]]:
    """Per variant: seconds, ratio with interval, target, and whether it was met.

    On a contended machine nothing is judged: `met` is null there, and where there is no target.
    """
    rows: list[dict[str, object]] = []
    for variant in variants:
        own = seconds[variant.key]
        ratio = paired_ratio(own, seconds[variant.reference_key])
        is_judged = variant.target is not None and not contended
        rows.append(
            {
                "name": variant.name,
                "batch": variant.batch,
                "rounds": len(own),
                "seconds": {"min": min(own), "median": float(np.median(own))},
                "reference": variant.reference,
                "ratio": {"median": ratio.median, "low": ratio.low, "high": ratio.high},
                "ratio_of_minima": min(own) / min(seconds[variant.reference_key]),
                "target": variant.target,
                "met": ratio.median <= (variant.target or 0.0) if is_judged else None,
            }
        )
    return rows


def machine(device: torch.device) -> dict[str, object]:
    """Versions, device, threads, and the load before we began.

    The load average of the last minute lags behind, so the CPU time that others use within half
    a second counts too; the larger of the two decides whether the figures are contended.
    """
    load = max(os.getloadavg()[0], _busy_processors(seconds=0.5))
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "processor": platform.machine(),
        "processors": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in _PACKAGES},
        "load": round(load, 2),
        "contended": load >= CONTENDED_LOAD,
    }


def table(rows: Sequence[dict[str, object]]) -> str:
    """The report as lines for people."""
    lines = [f"{'variant':28}{'batch':>6}{'median s':>10}{'x':>8}  {'95 %':15}{'of':22}{'target'}"]
    for row in rows:
        seconds, ratio = row["seconds"], row["ratio"]
        assert isinstance(seconds, dict)
        assert isinstance(ratio, dict)
        interval = f"[{ratio['low']:.3f}, {ratio['high']:.3f}]"
        verdict = {True: "met", False: "missed", None: ""}[row["met"]]  # type: ignore[index]
        target = "" if row["target"] is None else f"{row['target']:.2f} {verdict}"
        lines.append(
            f"{row['name']:28}{row['batch']:>6}{seconds['median']:>10.4f}{ratio['median']:>8.3f}"
            f"  {interval:15} {row['reference']!s:22}{target}"
        )
    return "\n".join(lines)


def _timed(run: Callable[[], int], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        started = time.perf_counter()
        run()
        torch.cuda.synchronize(device)
        return time.perf_counter() - started
    started = time.process_time()
    run()
    return (time.process_time() - started) / torch.get_num_threads()


def _all_narrow(variants: Sequence[Variant], seconds: dict[str, list[float]]) -> bool:
    return all(
        paired_ratio(seconds[variant.key], seconds[variant.reference_key]).is_narrow
        for variant in variants
        if variant.key != variant.reference_key
    )


def _busy_processors(*, seconds: float) -> float:
    """How many processors are busy right now, where the system says so (Linux); else 0."""
    try:
        before = _processor_ticks()
        time.sleep(seconds)
        after = _processor_ticks()
    except (OSError, ValueError):
        return 0.0
    total = sum(after) - sum(before)
    idle = sum(after[3:5]) - sum(before[3:5])
    return (total - idle) / max(1, total) * (os.cpu_count() or 1)


def _processor_ticks() -> list[int]:
    return [int(ticks) for ticks in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
