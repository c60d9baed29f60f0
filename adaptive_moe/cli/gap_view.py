"""A gap for a person and for a program: its evidence, what would fill it, what that would cost."""

from typing import TYPE_CHECKING

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from adaptive_moe.cli.safe_text import clean_line
from adaptive_moe.cli.tables import facts_table

if TYPE_CHECKING:
    from adaptive_moe.engine.outlook import CostOutlook, Outlook
    from adaptive_moe.gaps.evidence import Member
    from adaptive_moe.gaps.ledger import Gap

_SHOWN = 12  # prompts, the newest; --json has them all
_ORIGINS = {
    "grade": "a grade",
    "feedback": "feedback",
    "consistency": "a consistency check",
}


def gap_values(gap: "Gap") -> dict[str, object]:
    """A gap as JSON values."""
    from adaptive_moe.engine.events import to_json

    names = (
        "id", "state", "label", "terms", "prompts", "failures", "successes", "e_value",
        "lower_bound", "p_correct_mean", "expert", "reason", "opened", "changed", "domain",
        "history",
    )  # fmt: skip
    return {name: to_json(getattr(gap, name)) for name in names}


def evidence_values(gap: "Gap") -> list[dict[str, object]]:
    """The prompts that count as evidence now, with scores, outcomes and where these came from."""
    return [
        {
            "prompt": member.prompt,
            "answer": member.answer,
            "p_correct": member.p_correct,
            "low_confidence": member.low_confidence,
            "served_by": list(member.served_by),
            "correct": member.correct,
            "origin": member.origin,
        }
        for member in gap.members
    ]


def gap_parts(gap: "Gap", explained: tuple[str, ...]) -> tuple[RenderableType, ...]:
    """Where a gap stands, why, on which prompts, and how it came there."""
    checked = gap.failures + gap.successes
    facts = {
        "gap": f"{gap.id}, {gap.state}",
        "about": gap.label,
        "terms": ", ".join(gap.terms),
        "evidence": f"{len(gap.prompts)} distinct prompts; {gap.failures} of {checked} checked "
        f"answers wrong; at least {gap.lower_bound:.0%} are; e-value {gap.e_value:.3g}",
        "expert": gap.expert or "",
        "reason": gap.reason,
        "opened": gap.opened,
        "changed": gap.changed,
    }
    return (
        facts_table(facts),
        *(Text(f"  {clean_line(line)}") for line in explained),
        Text("Prompts", style="bold"),
        _prompts_table(gap),
        Text("History", style="bold"),
        *(
            Text(clean_line(f"{step.when}  {step.before} → {step.after}: {step.reason}"))
            for step in gap.history
        ),
    )


def outlook_parts(outlook: "Outlook") -> tuple[RenderableType, ...]:
    """What material would fill the gap, what there is of it, and what a training would cost."""
    about = ", ".join(outlook.terms) or "its prompts"
    told: dict[str, object] = {"wanted": f"documents or examples on {about}"}
    if outlook.subjects:
        told["asked about"] = ", ".join(outlook.subjects)
    return (
        Text("Material", style="bold"),
        facts_table(told | _material_facts(outlook)),
        *(
            Text(f"  {clean_line(f'{each.prompt} → {each.file}:{each.line}')}")
            for each in outlook.found[:_SHOWN]
        ),
        *_more(len(outlook.found)),
        *(Text(f"  no evidence: {clean_line(prompt)}") for prompt in outlook.missing[:_SHOWN]),
        *_more(len(outlook.missing)),
        Text("Cost", style="bold"),
        facts_table(_cost_facts(outlook.cost)),
    )


def _prompts_table(gap: "Gap") -> Table:
    """The newest prompts; those that are no evidence any more have no figures."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("prompt", "p(correct)", "outcome", "answered by"):
        table.add_column(heading, overflow="fold")
    members = {member.prompt: member for member in gap.members}
    for prompt in gap.prompts[-_SHOWN:]:
        table.add_row(clean_line(prompt), *_figures(members.get(prompt)))
    return table


def _figures(member: "Member | None") -> tuple[str, str, str]:
    if member is None:
        return "", "not counted now", ""
    rate = "" if member.p_correct is None else f"{member.p_correct:.2f}"
    names = clean_line(", ".join(member.served_by)) or "base"
    if member.correct is None:
        return rate, "not checked", names
    origin = "" if member.origin is None else f", by {_ORIGINS[member.origin]}"
    return rate, ("right" if member.correct else "wrong") + origin, names


def _material_facts(outlook: "Outlook") -> dict[str, object]:
    if outlook.is_enough is None:
        return {"at hand": "none is configured: name files with --data, or set gaps.sources"}
    facts: dict[str, object] = {
        f"source {number}": f"{source.path}: speaks about {source.prompts} prompts"
        for number, source in enumerate(outlook.sources, start=1)
    }
    facts |= {
        f"unreadable {number}": problem for number, problem in enumerate(outlook.problems, start=1)
    }
    enough = "yes" if outlook.is_enough else "no: more than half of the prompts have no evidence"
    return facts | {"enough to begin": enough}


def _more(count: int) -> tuple[Text, ...]:
    return (Text(f"  and {count - _SHOWN} more"),) if count > _SHOWN else ()


def _cost_facts(cost: "CostOutlook") -> dict[str, object]:
    from adaptive_moe.cli.progress import duration

    facts: dict[str, object] = {"steps": f"{cost.most_steps:,} at most"}
    if cost.usual_minutes is not None:
        low, high = (duration(60 * each) for each in (min(cost.minutes), max(cost.minutes)))
        facts["earlier fillings"] = (
            f"{len(cost.minutes)} here, {low} to {high} each with the gate, "
            f"usually {duration(60 * cost.usual_minutes)}"
        )
    if cost.trainings:
        steps = [each.steps for each in cost.trainings]
        sizes = [each.bytes for each in cost.trainings]
        facts["earlier trainings"] = (
            f"{len(steps)} here, {min(steps):,} to {max(steps):,} steps, "
            f"{min(sizes):,} to {max(sizes):,} bytes each"
        )
    return facts | {"an estimate": f"{cost.estimate_with} measures a few steps"}
