"""Shows the gate's figures: before and after, with their intervals."""

from typing import TYPE_CHECKING

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from adaptive_moe.cli.safe_text import clean_line

if TYPE_CHECKING:
    from adaptive_moe.measures.statistics import Interval
    from adaptive_moe.training.gate import GateReport
    from adaptive_moe.training.guarding import GuardFigures
    from adaptive_moe.training.held_out import HeldOutFigures, VersionFigures
    from adaptive_moe.training.retrieval import RetrievalFigures
    from adaptive_moe.training.side_effects import ForgettingFigures, RoutedFigures
    from adaptive_moe.training.splits import Metric

_FEW = 0.5  # of the held-out answers: what to be warned of below


def gate_parts(report: "GateReport") -> tuple[RenderableType, ...]:
    """The table of figures, and the reasons when the expert was turned down."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading, justify in (
        ("gate", "left"), ("items", "right"), ("before", "right"), ("after", "right"),
        ("difference, 95 %", "left"),
    ):  # fmt: skip
        table.add_column(heading, justify=justify)  # type: ignore[arg-type]
    _add_held_out(table, report.held_out, decides=True)
    if report.other is not None:
        _add_held_out(table, report.other, decides=False)
    if report.versions is not None:
        _add_versions(table, report.versions, report.held_out.metric)
    _add_routed(table, report.routed)
    _add_guard(table, "known questions, routed", report.guard, report.guard_limit)
    _add_guard(table, "known questions, forced", report.guard_forced, None)
    _add_forgetting(table, report.forgetting)
    _add_retrieval(table, report.retrieval)
    return (
        table,
        *(Text(f"  {clean_line(reason)}", style="red") for reason in report.reasons),
        *(Text(f"  {warning}", style="yellow") for warning in _warnings(report)),
    )


def _warnings(report: "GateReport") -> list[str]:
    """What to know of an expert that is admitted nevertheless."""
    found = [_seldom_right(report.held_out), _seldom_asked(report.routed)]
    return [each for each in found if each] if report.accepted else []


def _seldom_right(held_out: "HeldOutFigures") -> str | None:
    if held_out.exact_after >= _FEW:
        return None
    right = _some(round(held_out.exact_after * held_out.examples))
    why = "they became more probable" if held_out.metric == "loss" else "the base gets fewer right"
    return (
        f"Exactly right are {right} of its {held_out.examples:,} held-out answers; it was admitted "
        f"because {why}. Try some questions before you rely on it."
    )


def _seldom_asked(routed: "RoutedFigures | None") -> str | None:
    if routed is None or routed.to_expert >= _FEW * routed.questions:
        return None
    return (
        f"Sent to it are {_some(routed.to_expert)} of {routed.questions:,} held-out questions: in "
        "other words than it was taught the base may go on answering. Give it more wordings of "
        "each question, or ask it by name."
    )


def _some(count: int) -> str:
    return f"{count:,}" if count else "none"


def _add_held_out(table: Table, found: "HeldOutFigures", *, decides: bool) -> None:
    name, shown = found.split, _difference(found.gain)
    exact, loss = (shown, "") if found.metric == "exact" else ("", shown)
    style = "" if decides else "dim"
    table.add_row(
        f"{name}: right answers", f"{found.examples:,}",
        _share(found.exact_before), _share(found.exact_after), exact, style=style,
    )  # fmt: skip
    table.add_row(
        f"{name}: loss, nats/token", "", f"{found.loss_before:.3f}", f"{found.loss_after:.3f}",
        loss, style=style,
    )  # fmt: skip


def _add_versions(table: Table, found: "VersionFigures", metric: "Metric") -> None:
    """The version that serves until now stands under `before`."""
    shown = _difference(found.gain)
    if found.taught:
        shown += f"; version {found.version} was taught {found.taught:,} of them"
    exact, loss = (shown, "") if metric == "exact" else ("", shown)
    name = f"against version {found.version}"
    table.add_row(
        f"{name}: right answers", f"{found.examples:,}",
        _share(found.exact_before), _share(found.exact_after), exact,
    )  # fmt: skip
    table.add_row(
        f"{name}: loss, nats/token", "", f"{found.loss_before:.3f}", f"{found.loss_after:.3f}",
        loss,
    )  # fmt: skip


def _add_guard(table: Table, name: str, found: "GuardFigures | None", limit: float | None) -> None:
    if found is None:
        return
    allowed = "" if limit is None else f", allowed {limit:.1%}"
    table.add_row(
        name,
        f"{found.items:,}",
        _share(1.0),
        _share(1 - found.rate),
        f"{found.lost} lost ({found.near_lost} of {found.near_items} near); "
        f"at most {found.bound:.1%}{allowed}",
        style="" if limit is not None else "dim",
    )


def _add_routed(table: Table, found: "RoutedFigures | None") -> None:
    if found is None:
        return
    table.add_row(
        "routed: right answers", f"{found.questions:,}",
        _share(found.right_before), _share(found.right_after),
        f"{found.to_expert} sent to it",
    )  # fmt: skip
    if found.worse is None or found.stated_before is None or found.stated_after is None:
        return
    table.add_row(
        "routed: said to be right", "",
        _share(found.stated_before), _share(found.stated_after),
        f"error {_difference(found.worse)}",
    )  # fmt: skip


def _add_forgetting(table: Table, found: "ForgettingFigures | None") -> None:
    if found is None:
        return
    table.add_row(
        "general text, nats/token", f"{found.texts:,}",
        f"{found.loss_before:.3f}", f"{found.loss_routed:.3f}",
        f"{found.to_expert} sent to it; {found.loss_forced:.3f} forced",
    )  # fmt: skip


def _add_retrieval(table: Table, found: "RetrievalFigures") -> None:
    if found.hits is None:
        table.add_row("retrieval (BM25)", "", "", "", clean_line(found.note), style="dim")
        return
    share = _share(found.hits / found.questions)
    told = "have it in the best passage"
    if found.asked:
        told += f"; {_share(found.answered / found.asked)} read there"
    table.add_row("retrieval (BM25)", f"{found.questions:,}", "", share, told, style="dim")


def _difference(gain: "Interval") -> str:
    return f"{gain.mean:+.3f} ({gain.low:+.3f} to {gain.high:+.3f})"


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.1%}"
