"""Shows an expert's figures beside those of the base and of other experts."""

from typing import TYPE_CHECKING

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from adaptive_moe.cli.safe_text import clean_line

if TYPE_CHECKING:
    from adaptive_moe.engine.expert_evaluation import ExpertEvaluation
    from adaptive_moe.measures.statistics import Interval

_TITLES = {
    "loss": "loss, nats/token",
    "exact": "right answers",
    "token_f1": "token F1",
    "choice": "right choices",
}


def evaluation_parts(found: "ExpertEvaluation") -> tuple[RenderableType, ...]:
    """A line for each system, then by how much the expert is ahead of each other one."""
    expert = clean_line(found.expert)
    sizes = f"{found.questions:,} questions of {found.sources:,} sources"
    dropped = [
        f"{clean_line(place)} is left out: {clean_line(reason)}" for place, reason in found.dropped
    ]
    return (
        f"{expert} v{found.version} on {sizes}; intervals hold 95 %",
        _figures(found),
        Text(f"{clean_line(found.systems[0].name)} is better than", style="bold"),
        _leads(found),
        *dropped[:3],
        *([f"and {len(dropped) - 3} more"] if len(dropped) > 3 else []),  # noqa: PLR2004  see above
    )


def _figures(found: "ExpertEvaluation") -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("")
    for title in ("loss, nats/token", "perplexity", "right answers", "token F1", "right choices"):
        table.add_column(title, justify="right")
    for system in found.systems:
        table.add_row(
            clean_line(system.name),
            _shown(system.loss),
            f"{system.perplexity.mean:,.4g}",
            _shown(system.exact),
            _shown(system.token_f1),
            "" if system.choice is None else _shown(system.choice),
        )
    return table


def _leads(found: "ExpertEvaluation") -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("")
    others = [system for system in found.systems if system.behind]
    metrics = list(others[0].behind) if others else []
    for metric in metrics:
        table.add_column(f"by {_TITLES[metric]}", justify="right")
    for system in others:
        table.add_row(
            f"  {clean_line(system.name)}",
            *(_shown(system.behind[metric], sign="+") for metric in metrics),
        )
    return table


def _shown(interval: "Interval", *, sign: str = "") -> str:
    low, high = f"{interval.low:{sign}.3f}", f"{interval.high:{sign}.3f}"
    return f"{interval.mean:{sign}.3f} ({low} to {high})"
