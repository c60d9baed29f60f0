"""Figures as lines for people: the tables, row by row, peers beside ours."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from adaptive_moe.experiments.figures import ROWS, Figure, Row

_READABLE = (0.01, 1000.0)  # with three decimals
_FIELDS = tuple(field.name for field in fields(Figure))


@dataclass(frozen=True, slots=True)
class Line:
    """One figure in words: what and on which model, measured, wanted, and the verdict."""

    name: str
    where: str
    measured: str
    interval: str
    rounds: str
    wanted: str
    verdict: str
    note: str

    @property
    def what(self) -> str:
        """Name and place."""
        return f"{self.name}, {self.where}"


@dataclass(frozen=True, slots=True)
class Section:
    """A row of the table with its figures, ours before the peers'."""

    row: Row
    figures: tuple[Figure, ...]


def figures_of(found: Mapping[str, Any]) -> list[Figure]:
    """The figures in a result of `conduct`, as it is or read back from JSON.

    What files of earlier versions lack is as usual.
    """
    return [
        Figure(**{name: each[name] for name in _FIELDS if name in each})
        for each in found["figures"]
    ]


def sections(figures: Sequence[Figure]) -> Iterator[Section]:
    """The rows that have figures, in the order of the table, then whatever else was measured."""
    others = {figure.row: Row(figure.row, "") for figure in figures if figure.row not in ROWS}
    for key, row in {**ROWS, **others}.items():
        own = [figure for figure in figures if figure.row == key]
        if own:
            yield Section(row, tuple(sorted(own, key=lambda figure: figure.is_peer)))


def line_of(figure: Figure, *, contended: bool) -> Line:
    """One figure in words."""
    batch = "" if figure.batch is None else f", batch {figure.batch}"
    interval = "" if figure.low is None or figure.high is None else _interval(figure)
    return Line(
        name=figure.name,
        where=f"{figure.model}{batch}",
        measured="" if figure.value is None else f"{_number(figure.value)} {figure.unit}".strip(),
        interval=interval,
        rounds="" if figure.rounds is None else str(figure.rounds),
        wanted="" if figure.target is None else f"{_relation(figure)} {figure.target:g}",
        verdict=figure.verdict(contended=contended),
        note=figure.note,
    )


def notes_of(figures: Sequence[Figure]) -> list[str]:
    """What has to be known about some figures, each once."""
    told = (
        f"{figure.name}, {figure.model}: failed: {figure.note}"
        if figure.value is None
        else f"{figure.name}: {figure.note}"
        for figure in figures
        if figure.note
    )
    return list(dict.fromkeys(told))


def text_table(found: Mapping[str, Any]) -> str:
    """The table for a terminal."""
    contended = bool(found["contended"])
    lines = []
    for section in sections(figures_of(found)):
        reach = f"   to reach: {section.row.reach}" if section.row.reach else ""
        lines.append(f"\n{section.row.what}{reach}")
        lines += [_text(line_of(figure, contended=contended)) for figure in section.figures]
        lines += [f"  ({note})" for note in notes_of(section.figures)]
    if contended:
        lines.append(f"\nContended: {busy(found)}, so no timing is judged.")
    return "\n".join(lines).lstrip("\n")


def busy(found: Mapping[str, Any]) -> str:
    """How busy others kept the machine."""
    load = found["load"]
    meanwhile = load["of_others_meanwhile"]
    told = "unknown" if meanwhile is None else f"{meanwhile} processors"
    return f"load average {load['before']} before; others {told} meanwhile"


def _text(line: Line) -> str:
    columns = (
        f"{line.what:60}",
        f"{line.measured:26}",
        f"{line.interval:17}",
        f"{line.wanted:9}",
        line.verdict,
    )
    return f"  {' '.join(columns)}".rstrip()


def _relation(figure: Figure) -> str:
    return ">=" if figure.at_least else "<="


def _interval(figure: Figure) -> str:
    assert figure.low is not None
    assert figure.high is not None
    return f"[{_number(figure.low)}, {_number(figure.high)}]"


def _number(value: float) -> str:
    """Three decimals, or three digits of what that would hide."""
    if value == 0:
        return "0"
    return f"{value:.3f}" if _READABLE[0] <= abs(value) < _READABLE[1] else f"{value:.3g}"
