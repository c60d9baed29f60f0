"""`router evaluate`: what a person reads, what a program reads, and what is drawn."""

import io
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from adaptive_moe.cli.router_view import report_parts
from adaptive_moe.measures.judgements import FIGURES
from adaptive_moe.measures.sampling import evenly
from adaptive_moe.measures.statistics import Interval
from adaptive_moe.pocket.asking import write_known_questions
from adaptive_moe.router.controls import Controls, LeftOutDomain
from adaptive_moe.router.evaluation import Comparison, PointReport, RouterReport
from tests.cli.hostile import leaks, strings
from tests.cli.running import run

BETTER, WORSE = Interval(0.05, 0.02, 0.08), Interval(-0.05, -0.08, -0.02)


def report(domain: str = "animals", reason: str = "") -> RouterReport:
    point = PointReport(
        figures={name: Comparison(0.95, 0.9, BETTER) for name in FIGURES},
        reliability=(),
        curve=(),
        entropy_curve=(),
        histogram=(),
    )
    controls = Controls(
        permuted_labels_auroc=0.493,
        left_out=(LeftOutDomain(domain, 1200, 0.912, 0.93, 0.021),),
        left_out_gain=WORSE,
        not_measured=(reason,) if reason else (),
    )
    return RouterReport(
        items=1200, sources=400, base_accuracy=0.583, majority=0.583, calibrated=True,
        prefill=point, answer=point, length_only_auroc=0.617, milliseconds_per_prompt=0.42,
        controls=controls,
    )  # fmt: skip


def shown(found: RouterReport, *, width: int = 80, styled: bool = False) -> str:
    file = io.StringIO()
    console = Console(
        file=file, width=width, color_system="standard" if styled else None, force_terminal=styled,
        markup=False, emoji=False, highlight=False,
    )  # fmt: skip
    console.print(*report_parts(found), sep="\n")
    return file.getvalue()


def test_every_figure_stands_beside_that_of_entropy():
    out = shown(report())
    assert "1,200 questions from 400 sources; the base answers 58.3% right" in out
    names = ("AUROC", "AUPRC of the errors", "PRR", "E-AURC", "ECE", "Brier", "right verdicts")
    for name in (*names, *(f"coverage at risk {risk}" for risk in ("0.1", "0.2", "0.3"))):
        rows = [line for line in out.splitlines() if line.startswith(name)]
        assert len([row for row in rows if "0.950    0.900  +0.050 (+0.020 to +0.080)" in row]) == 2
    assert out.index("Before decoding") < out.index("After decoding")
    assert max(map(len, out.splitlines())) <= 80


def test_domains_and_controls_follow():
    lines = shown(report(reason="without art: 9 test questions, at least 20 are needed"))
    assert "animals  1,200  0.912    0.930  0.021" in lines
    assert "mean AUROC, router less entropy: -0.050 (-0.080 to -0.020)" in lines
    assert "permuted labels  0.493" in lines
    assert "length only      0.617" in lines
    assert "0.42 ms a prompt" in lines
    assert "Not measured: without art: 9 test questions" in lines


def test_a_difference_is_coloured_by_what_is_better():
    green, red = "\x1b[32m", "\x1b[31m"
    lines = shown(report(), styled=True).splitlines()
    assert sum(green in line for line in lines if line.startswith(("AUROC ", "PRR"))) == 4
    assert sum(red in line for line in lines if line.startswith(("ECE", "Brier", "E-AURC "))) == 6
    assert sum(red in line for line in lines if line.startswith("mean AUROC")) == 1


def test_undecided_differences_have_no_colour():
    found = report()
    even = {name: Comparison(0.9, 0.9, Interval(0.0, -0.1, 0.1)) for name in FIGURES}
    point = replace(found.answer, figures=even)
    controls = replace(found.controls, left_out=(), left_out_gain=None)
    out = shown(replace(found, prefill=point, answer=point, controls=controls), styled=True)
    assert "\x1b[32m" not in out
    assert "\x1b[31m" not in out


def test_hostile_domains_are_cleaned():
    for text in strings(40):
        assert leaks(shown(report(text, text), width=200, styled=True)) == [], repr(text)


def questions(file: Path, split: str, count: int, domains: Sequence[str] = ()) -> Path:
    """Some of the pocket model's known questions, spread over the facts of a split."""
    write_known_questions(file, splits=[split])
    lines = file.read_text().splitlines()
    kept = [line for line in lines if not domains or json.loads(line)["domain"] in domains]
    file.write_text("\n".join(evenly(kept, count)))
    return file


def test_the_pocket_router_is_measured_beside_entropy(tmp_path):
    asked = questions(tmp_path / "asked.jsonl", "test", 72)
    done = run("router", "evaluate", asked, "--store", tmp_path / "store", "--json")
    assert done.exit_code == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["items"] == 72
    assert found["metrics"]["auroc"] > 0.8
    assert set(FIGURES) < set(found["metrics"])
    assert found["controls"]["permuted_labels_auroc"] is None
    assert "--training FILE" in found["controls"]["not_measured"][0]
    assert found["plots"] == []


@pytest.mark.slow
def test_with_its_training_the_router_is_fitted_anew_and_drawn(tmp_path):
    pytest.importorskip("matplotlib", reason="needs the extra `plots`")
    domains, drawn = ("animals", "countries", "food"), tmp_path / "drawn"
    asked = questions(tmp_path / "asked.jsonl", "test", 150, domains)
    learned = questions(tmp_path / "learned.jsonl", "train_router", 240, domains)
    words = ("router", "evaluate", asked, "--training", learned, "--store", tmp_path / "store")
    done = run(*words, "--plots", drawn)
    assert done.exit_code == 0, done.stderr
    for told in ("Leave one domain out", "animals", "countries", "food", "permuted labels"):
        assert told in done.stdout
    assert len(list(drawn.glob("*.svg"))) == 3
