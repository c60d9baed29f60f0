"""Nothing in the terminal program prints past the cleaning, or lets text act as markup."""

import ast
import io
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console

import adaptive_moe.cli
from adaptive_moe.cli.doctor import Check
from adaptive_moe.cli.doctor import _table as doctor_table
from adaptive_moe.cli.gap_view import gap_parts, outlook_parts
from adaptive_moe.cli.gate_view import gate_parts
from adaptive_moe.cli.tables import expert_parts, experts_table, facts_table, flatten, gaps_table
from adaptive_moe.cli.training_view import plan_line, verdict
from adaptive_moe.engine.evidence import BestPlace
from adaptive_moe.engine.outlook import CostOutlook, EarlierTraining, Outlook, SourceOutlook
from adaptive_moe.experts.store import ExpertRecord
from adaptive_moe.gaps.evidence import Figures, Member
from adaptive_moe.gaps.ledger import Gap, Transition
from adaptive_moe.gaps.states import GapState
from adaptive_moe.measures.statistics import Interval
from adaptive_moe.training.gate import GateReport
from adaptive_moe.training.guarding import GuardFigures
from adaptive_moe.training.held_out import HeldOutFigures, VersionFigures
from adaptive_moe.training.ranks import RankPlan
from adaptive_moe.training.retrieval import RetrievalFigures
from tests.cli.hostile import leaks, strings
from tests.experts.published import manifest_of

FORBIDDEN = ("print", "Text.from_markup", "Text.from_ansi", "Markdown", "rich.print")
FILES = sorted(Path(adaptive_moe.cli.__file__).parent.glob("*.py"))


def calls(file: Path) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def test_every_console_reads_no_markup():
    made = [call for file in FILES for name, call in calls(file) if name == "Console"]
    assert len(made) >= 3
    for call in made:
        settings = {word.arg: ast.unparse(word.value) for word in call.keywords}
        for name in ("markup", "emoji", "highlight"):
            assert settings.get(name) == "False", ast.unparse(call)


def test_nothing_turns_text_into_markup_or_prints_by_itself():
    for file in FILES:
        for name, _ in calls(file):
            assert name not in (
                "print",
                "Text.from_markup",
                "Text.from_ansi",
                "Markdown",
                "rich.print",
            )


def hostile_parts(text: str):
    """Every table and line that shows kept things, each holding `text` wherever text can be."""
    manifest = manifest_of().model_copy(
        update={"label": text, "data": {text: text}, "gate": {"a": {text: [text]}}}
    )
    record = ExpertRecord(text, 1, text, "rejected", text, text, manifest, Path("/x") / text)
    figures = Figures(9, 1, 0, 0, 0.0, 1.0, 1.0, 20.0, 0.1, 1.0, None)
    gap = Gap(
        id=1, state=GapState.OBSERVED, label=text, terms=(text,), prompts=(text,), failures=1,
        successes=0, e_value=1.0, lower_bound=0.5, p_correct_mean=None, centroid=None, expert=text,
        reason=text, opened=text, changed=text, domain=text, figures=figures,
        members=(Member(1, text, text, 0.1, True, text, (text,), False, "feedback"),),
        history=(Transition(1, GapState.OBSERVED, GapState.SUSPECTED, text, {}, text),),
    )  # fmt: skip
    ahead = Outlook(
        terms=(text,), subjects=(text,), sources=(SourceOutlook(text, 1),),
        found=(BestPlace(text, text, 1),), missing=(text,), problems=(text,), is_enough=True,
        cost=CostOutlook(800, (1.0,), (EarlierTraining(text, 1, 9, 9),), text),
    )  # fmt: skip
    held_out = HeldOutFigures("recall", "exact", 9, 0.0, 1.0, 2.0, 1.0, 9, Interval(1.0, 0.9, 1.0))
    report = GateReport(
        accepted=False, reasons=(text,), held_out=held_out, other=None,
        guard=GuardFigures(9, 1, 2, 1, 0.1, 0.3), guard_forced=None, guard_limit=0.01,
        retrieval=RetrievalFigures(None, 0, text), split_digest=text,
        versions=VersionFigures(1, 9, 2, 0.1, 1.0, 2.0, 1.0, Interval(1.0, 0.9, 1.0)),
    )  # fmt: skip
    return (
        experts_table([record], {text}), *expert_parts(record), gaps_table([gap]),
        *gap_parts(gap, (text,)), *outlook_parts(ahead), *gate_parts(report), verdict(record, 1.0),
        plan_line(RankPlan(text, 8, {text: 8}, {text: 1.0}, 80)),
        doctor_table([Check(text, is_well=True, told=text)]), facts_table(flatten({text: text})),
    )  # fmt: skip


def test_no_hostile_string_gets_through_what_is_kept():
    for text in strings(200):
        file = io.StringIO()
        console = Console(
            file=file, width=200, force_terminal=True, markup=False, emoji=False, highlight=False
        )
        console.print(*hostile_parts(text))
        assert leaks(file.getvalue()) == [], repr(text)
