"""The drawings of a router's report, as matplotlib figures without any global state."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from adaptive_moe.measures.calibration import ReliabilityBin
from adaptive_moe.measures.statistics import wilson
from adaptive_moe.router.evaluation import PointReport, RouterReport


@dataclass(frozen=True, slots=True)
class _Look:
    """How a decision point is drawn everywhere; colours of Okabe & Ito 2008, never colour alone."""

    name: str
    entropy: str
    colour: str
    line: str
    marker: str


_BEFORE = _Look("before decoding", "first-token entropy", "#D55E00", "--", "s")
_AFTER = _Look("after decoding", "mean entropy", "#0072B2", "-", "o")
_RIGHT, _WRONG, _GREY = "#0072B2", "#E69F00", "#666666"


def reliability(report: RouterReport) -> Figure:
    """What was said beside what came true, with 95 % intervals; below, how many in every bin."""
    figure = Figure(figsize=(6.4, 6.4), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    upper.plot([0, 1], [0, 1], color=_GREY, linewidth=1, label="as often right as said")
    for point, look in _points(report):
        _draw_bins(upper, point.reliability, look)
        said = [each.mean_probability for each in point.reliability]
        counts = [each.count for each in point.reliability]
        lower.vlines(said, 0, counts, color=look.colour, linestyle=look.line, linewidth=1)
        lower.plot(said, counts, look.marker, color=look.colour, markersize=4)
    upper.set(title=_title(report), ylabel="share of right answers (0 to 1)", ylim=(-0.02, 1.02))
    lower.set(xlabel="probability of being right, as said (0 to 1)", xlim=(-0.02, 1.02))
    lower.set(ylabel="answers in a bin", ylim=(0, None))
    upper.legend(loc="upper left")
    return figure


def risk_coverage(report: RouterReport) -> Figure:
    """Errors among the surest answers, for every share of them that is given."""
    figure = Figure(figsize=(6.4, 4.8), layout="constrained")
    axes = figure.subplots()
    for point, look in _points(report):
        coverage, risk = np.transpose(point.curve)
        axes.plot(coverage, risk, look.line, color=look.colour, label=f"router, {look.name}")
        coverage, risk = np.transpose(point.entropy_curve)
        axes.plot(coverage, risk, ":", color=look.colour, linewidth=1.2, label=look.entropy)
    axes.set(title=_title(report), xlim=(0, 1), ylim=(0, None))
    axes.set(xlabel="coverage: share of the questions answered, surest first (0 to 1)")
    axes.set(ylabel="risk: share of errors among them (0 to 1)")
    axes.grid(visible=True, linewidth=0.4)
    axes.legend(loc="upper left")
    return figure


def confidence_histogram(report: RouterReport) -> Figure:
    """How often each probability was said, of right answers and of wrong ones."""
    figure = Figure(figsize=(8.4, 4.2), layout="constrained")
    figure.suptitle(_title(report))
    for axes, (point, look) in zip(
        figure.subplots(1, 2, sharey=True), _points(report), strict=True
    ):
        right, wrong = np.transpose(point.histogram)
        _draw_bars(axes, right, bottom=0 * right, colour=_RIGHT, hatch="", name="right")
        _draw_bars(axes, wrong, bottom=right, colour=_WRONG, hatch="///", name="wrong")
        axes.set(title=look.name, xlabel="probability of being right (0 to 1)", xlim=(0, 1))
        axes.label_outer()
        axes.legend(loc="upper center")
    figure.axes[0].set(ylabel="answers")
    return figure


DRAWINGS: Mapping[str, Callable[[RouterReport], Figure]] = {
    "reliability": reliability,
    "risk_coverage": risk_coverage,
    "confidence_histogram": confidence_histogram,
}
"""Drawings by the name of their file."""


def _points(report: RouterReport) -> tuple[tuple[PointReport, _Look], ...]:
    return (report.prefill, _BEFORE), (report.answer, _AFTER)


def _title(report: RouterReport) -> str:
    return f"{report.items:,} answers of the base, {report.base_accuracy:.0%} of them right"


def _draw_bins(axes: Axes, bins: tuple[ReliabilityBin, ...], look: _Look) -> None:
    """A marker for every bin, with the Wilson interval of its share of right answers."""
    said = np.array([each.mean_probability for each in bins])
    right = np.array([each.accuracy for each in bins])
    limits = [wilson(round(each.accuracy * each.count), each.count) for each in bins]
    below = np.maximum(right - [each.low for each in limits], 0)
    above = np.maximum([each.high for each in limits] - right, 0)
    axes.errorbar(
        said, right, yerr=(below, above), color=look.colour, linestyle=look.line,
        marker=look.marker, markersize=5, linewidth=1.2, elinewidth=0.7, capsize=2, label=look.name,
    )  # fmt: skip


def _draw_bars(
    axes: Axes, counts: np.ndarray, *, bottom: np.ndarray, colour: str, hatch: str, name: str
) -> None:
    """One bar for each of equal steps from 0 to 1."""
    step = 1 / counts.size
    left = np.arange(counts.size) * step
    axes.bar(
        left, counts, step, bottom, align="edge", color=colour, hatch=hatch, edgecolor="white",
        linewidth=0.5, label=name,
    )  # fmt: skip
