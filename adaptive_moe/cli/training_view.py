"""Runs a training for a person: header, live bar, the gate's figures, the verdict."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from rich.console import RenderableType
from rich.text import Text

from adaptive_moe.cli.engine import open_engine
from adaptive_moe.cli.gate_view import gate_parts
from adaptive_moe.cli.interrupts import stopping_on_interrupt
from adaptive_moe.cli.progress import TrainingBar, duration
from adaptive_moe.cli.safe_text import clean_line
from adaptive_moe.cli.tables import facts_table, rank_map
from adaptive_moe.cli.terminal import Terminal

if TYPE_CHECKING:
    from adaptive_moe.engine.orders import Listener, Prepared, TrainingEstimate, TrainingOutcome
    from adaptive_moe.engine.runtime import AdaptiveMoE
    from adaptive_moe.experts.store import ExpertRecord
    from adaptive_moe.training.lessons import Lessons
    from adaptive_moe.training.ranks import RankPlan
    from adaptive_moe.training.stages import Place, Stage

_SHOWN_PLACES = 5  # of each kind

Result = TypeVar("Result")
Start = Callable[["AdaptiveMoE", "Listener", Callable[[], bool]], "TrainingOutcome"]
Measure = Callable[["AdaptiveMoE"], "TrainingEstimate"]

_STOPPING = (
    "Stopping at the next pause; the same command goes on from here. Ctrl-C again breaks it off."
)


def run_training(terminal: Terminal, start: Start) -> int:
    """Train, show how it goes on stderr and how it ended on stdout; 1 when the gate said no."""
    with open_engine(terminal) as moe:
        outcome = train_with_bar(terminal, lambda listener, stop: start(moe, listener, stop))
    return _conclude(terminal, outcome)


def train_on_files(
    terminal: Terminal, name: str, paths: Sequence[Path], *, limit: int | None, force: bool
) -> int:
    """The same for files, told about on stderr before the first step."""
    with open_engine(terminal) as moe:
        prepared = train_with_bar(
            terminal,
            lambda listener, stop: moe.prepare_expert(
                paths, limit=limit, listener=listener, cancelled=stop
            ),
        )
        show_heading(terminal, name, prepared)
        outcome = train_with_bar(
            terminal,
            lambda listener, stop: moe.train_expert(
                name, prepared, force=force, listener=listener, cancelled=stop
            ),
        )
    return _conclude(terminal, outcome)


def train_with_bar(
    terminal: Terminal,
    start: Callable[["Listener", Callable[[], bool]], Result],
    *,
    stopping: str = _STOPPING,
) -> Result:
    """Run a training, or what comes before it, under a live bar.

    The first Ctrl-C stops it and keeps what was done; `stopping` is said then.
    """
    with (
        TrainingBar(terminal.err) as bar,
        stopping_on_interrupt(lambda: bar.say(stopping)) as stop,
    ):
        return start(bar.show, stop)


def show_plan(terminal: Terminal, paths: Sequence[Path]) -> int:
    """`train --plan-only`: every module's rank, and the parameters that they cost."""
    with open_engine(terminal) as moe:
        plan = moe.plan_expert(paths or None)
    values = plan_values(plan)
    terminal.finish(values, plan_line(plan), rank_map(plan.ranks))
    return 0


def show_estimate(terminal: Terminal, measure: Measure) -> int:
    """`--dry-run`: what a training would take."""
    from adaptive_moe.engine.events import to_json

    with open_engine(terminal) as moe, terminal.working("measuring a few steps"):
        estimate = measure(moe)
    facts = estimate_facts(estimate) | stage_facts(estimate.stages)
    places = place_lines(estimate.dropped, estimate.cut)
    terminal.finish(to_json(estimate), facts_table(facts), *places)
    return 0


def show_heading(terminal: Terminal, name: str, prepared: "Prepared") -> None:
    """The data's shape, the split, the plan: on stderr, before the first step."""
    material, split, plan = prepared.material, prepared.split, prepared.plan
    facts = {
        "training": f"{name} for {terminal.settings.base.id}",
        "data": f"{material.shape}: {len(material.rows):,} rows, {len(material.passages):,} "
        f"passages, {len(prepared.dropped):,} dropped, {len(prepared.cut):,} cut",
        "split": f"{split.name}: "
        + split_line(len(split.train), split.selection_only, len(split.held_out)),
        "ranks": f"{plan.strategy}, reference rank {plan.reference_rank}",
    }
    if prepared.lessons is not None:
        facts["teacher"] = lessons_line(prepared.lessons)
    terminal.err.print(facts_table(facts | stage_facts(prepared.stages)))
    for line in place_lines(prepared.dropped, prepared.cut):
        terminal.err.print(line)


def place_lines(dropped: Sequence["Place"], cut: Sequence["Place"]) -> tuple[Text, ...]:
    """The first rows that are dropped, or cut, by file and line; --json names them all."""
    from adaptive_moe.training.stages import first_places

    lines: list[Text] = []
    for what, places in (("dropped", dropped), ("cut", cut)):
        told = first_places(places, _SHOWN_PLACES)
        lines += [Text(f"{what}:")] if told else []
        lines += [Text(f"  {clean_line(each)}", style="dim") for each in told]
    return tuple(lines)


def lessons_line(lessons: "Lessons") -> str:
    """What a teacher wrote, what of it is taught, and why the rest is not."""
    told = (
        f"{clean_line(lessons.teacher)}: {lessons.kept:,} examples of {lessons.written:,} "
        f"questions and statements about {lessons.passages:,} passages"
    )
    reasons = [f"{count:,} {reason}" for reason, count in lessons.dropped.items()]
    left = "" if lessons.kept else "; the rules' own examples are taught alone"
    return told + (f"; left out: {', '.join(reasons)}" if reasons else "") + left


def teacher_line(estimate: "TrainingEstimate") -> str:
    """What an estimate does not hold: the examples that a teacher will write."""
    if not estimate.teacher_passages:
        return ""
    return f" A teacher is asked about {estimate.teacher_passages:,} passages first."


def split_line(examples: int, selection: int, held_out: int) -> str:
    """How many examples teach, how many choose the weights, and how many the gate judges by."""
    if not selection:
        return f"{examples:,} to learn from, {held_out:,} to choose weights by and for the gate"
    return (
        f"{examples:,} to learn from, {selection:,} to choose weights by, {held_out:,} for the gate"
    )


def stage_facts(stages: Sequence["Stage"]) -> dict[str, object]:
    """One line for every stage that dropped anything: how much, and why."""
    return {
        f"dropped in {stage.name}": clean_line(
            "; ".join(f"{count:,}: {reason}" for reason, count in stage.dropped.items())
        )
        for stage in stages
        if stage.dropped
    }


def plan_line(plan: "RankPlan") -> Text:
    """A rank plan in one line."""
    told = f"{clean_line(plan.strategy)} at reference rank {plan.reference_rank}: "
    return Text(f"{told}{plan.parameters:,} parameters in {len(plan.ranks)} modules")


def plan_values(plan: "RankPlan") -> dict[str, object]:
    """A rank plan as JSON values."""
    return {
        "strategy": plan.strategy,
        "reference_rank": plan.reference_rank,
        "parameters": plan.parameters,
        "ranks": dict(plan.ranks),
        "scaling": dict(plan.scaling),
    }


def estimate_facts(estimate: "TrainingEstimate") -> dict[str, object]:
    """What a training would take, for a person."""
    return {
        "data": estimate.shape,
        "split": f"{estimate.split}: "
        + split_line(estimate.examples, estimate.selection, estimate.held_out),
        "parameters": f"{estimate.parameters:,}",
        "steps": f"{estimate.steps:,} at most",
        "tokens": f"{estimate.tokens:,}",
        "time": duration(estimate.seconds),
        "memory": f"{estimate.peak_bytes / 2**20:,.0f} MiB at the peak",
        **({"teacher": teacher_line(estimate).strip()} if estimate.teacher_passages else {}),
    }


def outcome_parts(outcome: "TrainingOutcome") -> tuple[RenderableType, ...]:
    """Plan, gate figures and verdict."""
    return (
        plan_line(outcome.plan),
        *gate_parts(outcome.report),
        verdict(outcome.record, outcome.seconds),
    )


def _conclude(terminal: Terminal, outcome: "TrainingOutcome") -> int:
    from adaptive_moe.engine.events import to_json

    terminal.finish(to_json(outcome.to_dict()), *outcome_parts(outcome))
    return 0 if outcome.is_live else 1


def verdict(record: "ExpertRecord", seconds: float) -> Text:
    """What became of the expert, in one line."""
    name = f"{clean_line(record.name)} v{record.version}"
    took = f" ({duration(seconds)})"
    if record.status == "active":
        return Text(f"✓ {name} passed the gate and serves from now on{took}", style="bold green")
    kept = "kept in quarantine" if record.status == "quarantine" else "not put into service"
    return Text(f"✗ {name} did not pass the gate; it is {kept}{took}", style="bold red")
