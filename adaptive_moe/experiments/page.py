"""Pages of measured figures in Markdown: at a glance, what was missed, how, and every figure."""

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
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

Found = Mapping[str, Any]
"""A result of `conduct`."""

_Contended = Callable[[Figure], bool]
_LEAST_ARGUMENTS = 2
_SHORT: tuple[Verdict, ...] = ("missed", "failed", "undecided", "too few rounds", "contended")


@dataclass(frozen=True, slots=True)
class Page:
    """What is said around the figures.

    `conditions` are a run's own facts beside those of every run, `remarks` come after them,
    `profile` names a hand-written chapter beside the page, which is put at its end.
    """

    title: str
    opening: str
    how: str
    conditions: Callable[[Found], Mapping[str, str]]
    remarks: Callable[[Found], Sequence[str]]
    profile: str

    def render(self, *runs: Found, profile: str = "") -> str:
        """The page for results of `conduct`, one at least, with the text of its profile."""
        judged = _latest(runs)
        figures = [figure for figure, _ in judged]
        busy_ones = {id(figure) for figure, contended in judged if contended}

        def contended(figure: Figure) -> bool:
            return id(figure) in busy_ones

        parts = [
            f"# {self.title}",
            self.opening,
            *self._head(runs),
            "## At a glance",
            _glance(figures, contended),
            "## Missed, failed, not judged",
            _shortcomings(figures, contended),
            "## How it is measured",
            self.how,
            "## Figures",
            *(part for each in sections(figures) for part in _section(each, contended)),
        ]
        if profile.strip():
            parts.append(profile.strip())
        return "\n\n".join(parts) + "\n"

    def main(self, arguments: Sequence[str] | None = None) -> int:
        """Read the JSON files, write the page; 2 for wrong usage."""
        words = list(sys.argv[1:] if arguments is None else arguments)
        if len(words) < _LEAST_ARGUMENTS:
            sys.stderr.write("usage: FOUND.json... PAGE.md\n")
            return 2
        *sources, page = map(Path, words)
        profile = page.with_name(self.profile)
        text = profile.read_text() if profile.is_file() else ""
        page.write_text(
            self.render(*(json.loads(each.read_text()) for each in sources), profile=text)
        )
        return 0

    def _head(self, runs: Sequence[Found]) -> Iterator[str]:
        first = runs[0]
        machine = first["machine"]
        versions = ", ".join(f"{name} {kind}" for name, kind in machine["versions"].items())
        facts = {
            "device": machine["device"],
            "processor": f"{machine['processor']}, {machine['processors']} of them",
            "threads": machine["threads"],
            "versions": f"Python {machine['python']}, {versions}",
            **self.conditions(first),
            "seed": first["plan"]["seed"],
        }
        for number, found in enumerate(runs, start=1):
            facts["run" if len(runs) == 1 else f"run {number}"] = _run(found)
        yield _table(("", ""), [(name, str(fact)) for name, fact in facts.items()])
        yield from self.remarks(first)
        busy_runs = [n for n, found in enumerate(runs, start=1) if is_contended(found["load"])]
        if len(busy_runs) == len(runs):
            yield "**The machine was contended: no timing on this page is judged.**"
        elif busy_runs:
            numbers = ", ".join(map(str, busy_runs))
            yield f"**The machine was contended in run {numbers}: no timing of it is judged.**"


def _run(found: Found) -> str:
    plan = found["plan"]
    names = dict.fromkeys(each["benchmark"] for each in found["figures"])
    models = dict.fromkeys(each["model"] for each in found["figures"])
    is_timed = any(each["rounds"] is not None for each in found["figures"])
    rounds = f"; at most {plan['rounds']} rounds{_minutes(plan['minutes'])}" if is_timed else ""
    took = f"took {found['seconds'] / 60:.0f} minutes"
    return f"{', '.join(names)} on {', '.join(models)}{rounds}; {busy(found)}; {took}"


def _latest(runs: Sequence[Found]) -> list[tuple[Figure, bool]]:
    """All figures, those of a benchmark on a model from the last run that has any.

    With each goes whether its run was contended.
    """
    by_source: dict[tuple[str, str], list[tuple[Figure, bool]]] = {}
    for found in runs:
        contended = is_contended(found["load"])
        own: dict[tuple[str, str], list[tuple[Figure, bool]]] = {}
        for record, figure in zip(found["figures"], figures_of(found), strict=True):
            own.setdefault((record["benchmark"], figure.model), []).append((figure, contended))
        by_source |= own
    return [figure for figures in by_source.values() for figure in figures]


def _minutes(minutes: float | None) -> str:
    return "" if minutes is None else f", {minutes:g} minutes per model"


def _glance(figures: Sequence[Figure], contended: _Contended) -> str:
    rows = []
    for section in sections(figures):
        if not section.row.reach:
            continue
        ours = [figure for figure in section.figures if not figure.is_peer]
        verdicts = [figure.verdict(contended=contended(figure)) for figure in ours]
        counts = {word: verdicts.count(word) for word in dict.fromkeys(verdicts) if word}
        told = ", ".join(f"{count} {word}" for word, count in counts.items())
        rows.append((section.row.what, section.row.reach, told))
    return _table(("what", "reach", "figures"), rows)


def _shortcomings(figures: Sequence[Figure], contended: _Contended) -> str:
    lines = [line_of(figure, contended=contended(figure)) for figure in figures]
    told = [_complaint(line) for word in _SHORT for line in lines if line.verdict == word]
    return "\n".join(told) or "Nothing."


def _complaint(line: Line) -> str:
    measured = f"{line.measured} where {line.wanted} was wanted" if line.measured else ""
    told = "; ".join(each for each in (measured, line.note) if each)
    return f"* {line.verdict}: {_cell(line.what)}: {_cell(told)}"


def _section(section: Section, contended: _Contended) -> Iterator[str]:
    yield f"### {section.row.what[:1].upper()}{section.row.what[1:]}"
    if section.row.reach:
        yield f"To reach: {section.row.reach}."
    lines = [line_of(figure, contended=contended(figure)) for figure in section.figures]
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
