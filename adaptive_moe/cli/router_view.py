"""Shows how well a router judges: every figure beside that of plain entropy, and the controls."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from adaptive_moe.cli.safe_text import clean_line
from adaptive_moe.measures.judgements import LESS_IS_BETTER

if TYPE_CHECKING:
    from adaptive_moe.measures.statistics import Interval
    from adaptive_moe.router.controls import Controls
    from adaptive_moe.router.evaluation import PointReport, RouterReport

_NAMES = {
    "auroc": "AUROC",
    "auprc": "AUPRC of the errors",
    "prr": "PRR",
    "e_aurc": "E-AURC",
    "ece": "ECE",
    "brier": "Brier",
    "accuracy": "right verdicts",
}
_LEGEND = (
    "E-AURC, ECE and Brier: less is better. Differences: router less entropy, 95 % over sources; "
    "for ECE, Brier and verdicts entropy is calibrated like the router."
)


def report_parts(report: "RouterReport") -> tuple[RenderableType, ...]:
    """Both decision points, the domains left out, the controls, and what was not measured."""
    return (
        Text(
            f"{report.items:,} questions from {report.sources:,} sources; the base answers "
            f"{report.base_accuracy:.1%} right, so one verdict for all gets {report.majority:.1%}."
        ),
        Text(
            f"Routing and judging takes {report.milliseconds_per_prompt:.2f} ms a prompt; "
            f"{'calibrated' if report.calibrated else 'not calibrated'} for this base."
        ),
        _heading("Before decoding (p_prefill), beside first-token entropy"),
        _point_table(report.prefill),
        _heading("After decoding (p_correct), beside mean entropy"),
        _point_table(report.answer),
        Text(_LEGEND, style="dim"),
        *_control_parts(report),
    )


def _heading(text: str) -> Text:
    return Text(f"\n{text}", style="bold")


def _point_table(point: "PointReport") -> Table:
    table = _table("", "router", "entropy", "difference")
    for name, figure in point.figures.items():
        better = -1 if name in LESS_IS_BETTER else 1
        table.add_row(
            _named(name),
            f"{figure.router:.3f}",
            f"{figure.entropy:.3f}",
            _interval(figure.gain, better=better),
        )
    return table


def _named(figure: str) -> str:
    return _NAMES.get(figure) or figure.replace("_", " ")


def _interval(gain: "Interval", *, better: int) -> Text:
    """Green where the whole interval lies on the better side of 0, red where on the worse."""
    worst, best = sorted((better * gain.low, better * gain.high))
    style = "green" if worst > 0 else "red" if best < 0 else ""
    return Text(f"{gain.mean:+.3f} ({gain.low:+.3f} to {gain.high:+.3f})", style=style)


def _control_parts(report: "RouterReport") -> Iterator[RenderableType]:
    controls = report.controls
    if controls.left_out:
        yield _heading("Leave one domain out: judged by a router that never saw the domain")
        yield _left_out_table(controls)
    if controls.left_out_gain is not None:
        gain = _interval(controls.left_out_gain, better=1)
        yield Text.assemble("mean AUROC, router less entropy: ", gain)
    yield _heading("Controls (AUROC)")
    if controls.permuted_labels_auroc is not None:
        told = "dealt out anew: about 0.5 unless questions leak"
        yield Text(f"permuted labels  {controls.permuted_labels_auroc:.3f}  {told}")
    told = "long answers taken for wrong ones"
    yield Text(f"length only      {report.length_only_auroc:.3f}  {told}")
    for reason in controls.not_measured:
        yield Text(f"Not measured: {clean_line(reason)}", style="yellow")


def _left_out_table(controls: "Controls") -> Table:
    table = _table("domain", "items", "AUROC", "entropy", "ECE")
    for each in controls.left_out:
        table.add_row(
            clean_line(each.domain),
            f"{each.items:,}",
            f"{each.auroc:.3f}",
            f"{each.entropy_auroc:.3f}",
            f"{each.ece:.3f}",
        )
    return table


def _table(first: str, *headings: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column(first, overflow="fold")
    for heading in headings:
        table.add_column(heading, justify="right")
    return table
