"""The gate's figures tell how good an expert is, and not only that it was admitted."""

import dataclasses
import io

from rich.console import Console

from adaptive_moe.cli.gate_view import gate_parts
from adaptive_moe.measures.statistics import Interval
from adaptive_moe.training.gate import GateReport
from adaptive_moe.training.held_out import HeldOutFigures, VersionFigures
from adaptive_moe.training.retrieval import RetrievalFigures
from adaptive_moe.training.side_effects import RoutedFigures

GAIN = Interval(1.0, 0.9, 1.1)
HELD_OUT = HeldOutFigures("generalise", "loss", 13, 0.0, 0.0, 6.0, 5.0, 13, GAIN)
REPORT = GateReport(
    accepted=True, reasons=(), held_out=HELD_OUT, other=None, guard=None, guard_forced=None,
    guard_limit=0.01, retrieval=RetrievalFigures(None, 0, "none"), split_digest="",
)  # fmt: skip


def shown(**changed):
    file = io.StringIO()
    console = Console(file=file, width=200, markup=False, emoji=False, highlight=False)
    console.print(*gate_parts(dataclasses.replace(REPORT, **changed)))
    return file.getvalue()


def test_an_admitted_expert_that_is_seldom_right_is_warned_of():
    assert (
        "Exactly right are none of its 13 held-out answers; it was admitted because they" in shown()
    )
    one, most = (dataclasses.replace(HELD_OUT, exact_after=right / 13) for right in (1, 6))
    assert "Exactly right are 1 of its 13" in shown(held_out=one)
    assert "Exactly right are 6 of its 13" in shown(held_out=most)
    few = dataclasses.replace(HELD_OUT, exact_after=2 / 13)
    assert "Exactly right are 2 of its 13" in shown(held_out=few)
    by_answers = dataclasses.replace(few, metric="exact")
    assert "it was admitted because the base gets fewer right" in shown(held_out=by_answers)
    some_right = dataclasses.replace(HELD_OUT, exact_after=0.5)
    assert "Exactly right" not in shown(held_out=some_right)
    assert "Exactly right" not in shown(accepted=False, reasons=("no gain",))


def test_an_admitted_expert_that_is_seldom_asked_is_warned_of():
    assert "Sent to it are 2 of 20 held-out questions" in shown(routed=RoutedFigures(20, 2))
    assert "Sent to it are none of 20 held-out questions" in shown(routed=RoutedFigures(20, 0))
    assert "held-out questions" not in shown(routed=RoutedFigures(20, 10))
    refused = shown(routed=RoutedFigures(20, 2), accepted=False, reasons=("no gain",))
    assert "held-out questions" not in refused


def test_both_versions_figures_are_shown_and_who_had_the_advantage():
    versions = VersionFigures(2, 12, 9, 0.25, 0.5, 6.0, 5.0, GAIN)
    right, loss = [
        line.split() for line in shown(versions=versions).splitlines() if "version" in line
    ]
    assert right == ["against", "version", "2:", "right", "answers", "12", "25.0%", "50.0%"]
    assert " ".join(loss) == (
        "against version 2: loss, nats/token 6.000 5.000 +1.000 (+0.900 to +1.100); version 2 was "
        "taught 9 of them"
    )
