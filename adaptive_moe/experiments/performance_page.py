"""Writes docs/performance.md out of what `make bench` measured.

`python -m adaptive_moe.experiments.performance_page build/bench.json docs/performance.md`. Of
several files the figures of a later one take the place of an earlier one's, by benchmark and model.
"""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from adaptive_moe.experiments.figures import Figure, Verdict
from adaptive_moe.experiments.machine import is_contended
from adaptive_moe.experiments.table import (
    Line,
    Section,
    busy,
    figures_of,
    line_of,
    notes_of,
    sections,
)

PROFILE_NAME = "performance_profile.md"
"""A hand-written chapter beside the page; included as it stands, if it is there."""

_LEAST_ARGUMENTS = 2
_SHORT: tuple[Verdict, ...] = ("missed", "failed", "undecided", "too few rounds", "contended")
_HOW = """\
Every round runs every variant once, in random order, and a ratio is the median over rounds of a
variant's seconds over its reference's in the same round, with its distribution-free 95 % interval.
A variant stops when its interval lies within +-.01 (not before ten rounds); if rounds end sooner
and the interval holds what was to be reached, the figure is undecided. Seconds of answers are
CPU seconds of the process over its threads, on CUDA wall seconds; milliseconds are wall time.
Answers are greedy and of full length, attribution is off where it is not what is measured. Peers
answer the same prompts with the same experts in the same rounds; ten rounds do for them."""


def render(*runs: Mapping[str, Any], profile: str = "") -> str:
    """The page for results of `conduct`, one at least; `profile` is put at its end."""
    contended = any(is_contended(found["load"]) for found in runs)
    figures = _latest(runs)
    parts = [
        "# Performance",
        "Written by `make bench`; do not edit it. The figures to reach are fixed beforehand.",
        *_conditions(runs, contended=contended),
        "## At a glance",
        _glance(figures, contended=contended),
        "## Missed, failed, not judged",
        _shortcomings(figures, contended=contended),
        "## How it is measured",
        _HOW,
        "## Figures",
        *(part for each in sections(figures) for part in _section(each, contended=contended)),
    ]
    if profile.strip():
        parts.append(profile.strip())
    return "\n\n".join(parts) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the JSON file, write the page; 2 for wrong usage."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if len(words) < _LEAST_ARGUMENTS:
        sys.stderr.write("usage: performance_page BENCH.json... PAGE.md\n")
        return 2
    *sources, page = map(Path, words)
    profile = page.with_name(PROFILE_NAME)
    text = profile.read_text() if profile.is_file() else ""
    runs = [json.loads(source.read_text()) for source in sources]
    page.write_text(render(*runs, profile=text))
    return 0


def _latest(runs: Sequence[Mapping[str, Any]]) -> list[Figure]:
    """All figures, those of a benchmark on a model from the last run that has any."""
    by_source: dict[tuple[str, str], list[Figure]] = {}
    for found in runs:
        own: dict[tuple[str, str], list[Figure]] = {}
        for record, figure in zip(found["figures"], figures_of(found), strict=True):
            own.setdefault((record["benchmark"], figure.model), []).append(figure)
        by_source |= own
    return [figure for figures in by_source.values() for figure in figures]


def _conditions(runs: Sequence[Mapping[str, Any]], *, contended: bool) -> Iterator[str]:
    first = runs[0]
    machine, plan = first["machine"], first["plan"]
    versions = ", ".join(f"{name} {kind}" for name, kind in machine["versions"].items())
    facts = {
        "device": machine["device"],
        "processor": f"{machine['processor']}, {machine['processors']} of them",
        "threads": machine["threads"],
        "versions": f"Python {machine['python']}, {versions}",
        "prompt / answer": f"{plan['prompt_tokens']} / {plan['new_tokens']} tokens",
        "experts": f"rank {plan['rank']}, random",
        "seed": plan["seed"],
    }
    for number, found in enumerate(runs, start=1):
        title = "run" if len(runs) == 1 else f"run {number}"
        plan = found["plan"]
        names = dict.fromkeys(each["benchmark"] for each in found["figures"])
        facts[title] = (
            f"{', '.join(names)} on {', '.join(plan['models'])}; at most {plan['rounds']} rounds"
            f"{_minutes(plan['minutes'])}; {busy(found)}; took {found['seconds'] / 60:.0f} minutes"
        )
    yield _table(("", ""), [(name, str(fact)) for name, fact in facts.items()])
    if machine["device"] == "cpu":
        yield (
            "Not measured on this device: models of 1.2 billion parameters in bf16 and nf4, "
            "torch.compile beside compiled `generate`, and how far bf16 answers agree between "
            'batch sizes. `make bench BENCH_OPTIONS="--device cuda"` measures these as well.'
        )
    if contended:
        yield "**The machine was contended: no timing on this page is judged.**"


def _minutes(minutes: float | None) -> str:
    return "" if minutes is None else f", {minutes:g} minutes per model"


def _glance(figures: Sequence[Figure], *, contended: bool) -> str:
    rows = []
    for section in sections(figures):
        if not section.row.reach:
            continue
        ours = [figure for figure in section.figures if not figure.is_peer]
        verdicts = [figure.verdict(contended=contended) for figure in ours]
        counts = {word: verdicts.count(word) for word in dict.fromkeys(verdicts) if word}
        told = ", ".join(f"{count} {word}" for word, count in counts.items())
        rows.append((section.row.what, section.row.reach, told))
    return _table(("what", "reach", "figures"), rows)


def _shortcomings(figures: Sequence[Figure], *, contended: bool) -> str:
    lines = [line_of(figure, contended=contended) for figure in figures]
    told = [_complaint(line) for word in _SHORT for line in lines if line.verdict == word]
    return "\n".join(told) or "Nothing."


def _complaint(line: Line) -> str:
    measured = f"{line.measured} where {line.wanted} was wanted" if line.measured else ""
    told = "; ".join(each for each in (measured, line.note) if each)
    return f"* {line.verdict}: {_cell(line.what)}: {_cell(told)}"


def _section(section: Section, *, contended: bool) -> Iterator[str]:
    yield f"### {section.row.what[:1].upper()}{section.row.what[1:]}"
    if section.row.reach:
        yield f"To reach: {section.row.reach}."
    lines = [line_of(figure, contended=contended) for figure in section.figures]
    columns = ("", "measured", "95 %", "rounds", "wanted", "")
    yield _table(columns, [_cells(line) for line in lines])
    notes = notes_of(section.figures)
    if notes:
        yield "\n".join(f"* {_cell(note)}" for note in notes)


def _cells(line: Line) -> tuple[str, ...]:
    return (line.what, line.measured, line.interval, line.rounds, line.wanted, line.verdict)


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [_joined(columns), f"|{'---|' * len(columns)}"]
    lines += [_joined([_cell(each) for each in row]) for row in rows]
    return "\n".join(lines)


def _joined(cells: Sequence[str]) -> str:
    return "".join(f"| {cell} " if cell else "| " for cell in cells) + "|"


def _cell(text: str) -> str:
    """Text that cannot end a table's cell; errors of others may hold anything."""
    return " ".join(text.replace("|", "/").split())


if __name__ == "__main__":
    sys.exit(main())
