"""Cleans what was read: filters, near-duplicate rows, rows that copy an evaluation's questions."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace

from adaptive_moe.config.settings import FilterName
from adaptive_moe.errors import NoUsableRowsError
from adaptive_moe.measures.graders import normalise
from adaptive_moe.training.documents import Passage
from adaptive_moe.training.filters import FILTERS, PASSAGE_FILTERS, Candidate, names_of
from adaptive_moe.training.interruption import stop_if_cancelled
from adaptive_moe.training.material import Material, material_digest, question_key
from adaptive_moe.training.near_copies import NearCopies, asks_the_same
from adaptive_moe.training.rows import Row, asked_in
from adaptive_moe.training.scripts import home_scripts
from adaptive_moe.training.stages import Place, Stage, count_reasons

# Two words in a row. Questions are short: of ten words, one that is added leaves 9 of 10 pairs, and
# one that is exchanged 7 of 11. A paraphrase shares few pairs with its original and is kept; it is
# worth learning. What an evaluation asks is given the benefit of the doubt sooner.
_SHINGLE = 2
_DUPLICATE = 0.8
_CONTAMINATED = 0.6


def clean(
    material: Material,
    filters: str | Sequence[FilterName] = "all",
    *,
    evaluated: Iterable[str] = (),
) -> tuple[Material, tuple[Stage, ...]]:
    """Drop what `filters` name, near-duplicate rows, and rows that copy held-out questions.

    Held out are the material's own `held_out` and the `evaluated` ones, which become `reserved`, so
    that nothing made of the passages asks them either. Drops are added to `dropped`; the stages
    tell of reading too. Raises NoUsableRowsError when nothing is left.
    """
    evaluated = tuple(evaluated)
    material = replace(
        material, reserved=material.reserved | frozenset(map(question_key, evaluated))
    )
    stages = [_read(material)]
    for name, step in (
        ("filters", lambda given: _filtered(given, names_of(filters))),
        ("duplicates", _without_duplicates),
        ("contamination", lambda given: _uncontaminated(given, evaluated)),
    ):
        rows, passages, dropped = step(material)
        cleaned = replace(
            material,
            rows=tuple(rows),
            passages=tuple(passages),
            dropped=(*material.dropped, *dropped),
            digest=material_digest(rows, passages),
        )
        stages.append(_stage(name, material, cleaned, dropped))
        material = cleaned
    _check_left(material)
    return material, tuple(stages)


def _read(material: Material) -> Stage:
    """What the reading itself dropped; its records were no rows yet."""
    left = _counts(material)
    records = len(material.rows) + len(material.passages) + len(material.dropped)
    reasons = count_reasons(reason for *_, reason in material.dropped)
    return Stage("reading", {"records": records}, left, material.digest, reasons)


def _stage(name: str, before: Material, after: Material, dropped: Sequence[Place]) -> Stage:
    reasons = count_reasons(reason for *_, reason in dropped)
    return Stage(name, _counts(before), _counts(after), after.digest, reasons)


def _counts(material: Material) -> dict[str, int]:
    return {"rows": len(material.rows), "passages": len(material.passages)}


def _filtered(
    material: Material, names: Sequence[FilterName]
) -> tuple[Sequence[Row], Sequence[Passage], list[Place]]:
    home = home_scripts(
        [f"{row.prompt[-1][1]} {row.answer}" for row in material.rows]
        + [passage.text for passage in material.passages]
    )
    on_passages = [name for name in names if name in PASSAGE_FILTERS]
    dropped: list[Place] = []
    rows, passages = [], []
    for row in material.rows:
        *earlier, question = (text for _, text in row.prompt)
        reason = _reason(names, Candidate(question, row.answer, home, tuple(earlier)))
        if reason is None:
            rows.append(row)
        else:
            dropped.append((row.file, row.line, reason))
    for passage in material.passages:
        reason = _reason(on_passages, Candidate("", passage.text, home, passage.heading))
        if reason is None:
            passages.append(passage)
        else:
            dropped.append((passage.file, passage.line, reason))
    return rows, passages, dropped


def _reason(names: Sequence[FilterName], candidate: Candidate) -> str | None:
    return next(
        (reason for name in names if (reason := FILTERS[name](candidate)) is not None), None
    )


def _without_duplicates(
    material: Material,
) -> tuple[Sequence[Row], Sequence[Passage], list[Place]]:
    """Of rows with one answer and nearly one question, the first; of equal passages too."""
    by_answer: dict[str, list[int]] = defaultdict(list)
    for index, row in enumerate(material.rows):
        by_answer[normalise(row.answer)].append(index)
    copied: dict[int, Row] = {}
    asked = [_asked(row) for row in material.rows]
    known = NearCopies(threshold=_DUPLICATE, shingle=_SHINGLE, among=asked)
    answer_of = {
        index: answer for answer, alike in by_answer.items() if len(alike) > 1 for index in alike
    }
    for index in sorted(answer_of):
        stop_if_cancelled()
        text = asked[index]
        original = next(
            (
                int(name)
                for name in known.find(text)
                if answer_of[int(name)] == answer_of[index]
                and _asks_the_same(text, asked[int(name)])
            ),
            None,
        )
        if original is None:
            known.add(f"{index:09}", text)
        else:
            copied[index] = material.rows[original]
    rows = [row for index, row in enumerate(material.rows) if index not in copied]
    dropped = [
        (row.file, row.line, f"it nearly repeats the question of {first.file}, row {first.line}")
        for row, first in ((material.rows[index], first) for index, first in copied.items())
    ]
    return rows, *_distinct(material.passages, dropped)


def _distinct(
    passages: Sequence[Passage], dropped: list[Place]
) -> tuple[Sequence[Passage], list[Place]]:
    first: dict[tuple[tuple[str, ...], str], Passage] = {}
    for each in passages:
        earlier = first.setdefault((each.heading, each.text), each)
        if earlier is not each:
            where = f"{earlier.file}, row {earlier.line}"
            dropped.append((each.file, each.line, f"it repeats the passage of {where}"))
    return tuple(first.values()), dropped


def _asked(row: Row) -> str:
    return "\n".join(text for _, text in row.prompt)


def _asks_the_same(first: str, second: str) -> bool:
    """Also without the text that both are about, in which the words of either may stand."""
    return asks_the_same(first, second) and asks_the_same(asked_in(first), asked_in(second))


def _uncontaminated(
    material: Material, evaluated: Iterable[str]
) -> tuple[Sequence[Row], Sequence[Passage], list[Place]]:
    """Without conversations of which any question nearly repeats a held-out one."""
    if not material.rows:
        return (), material.passages, []
    questions = list(dict.fromkeys((*material.held_out, *evaluated)))
    keys = {question_key(question) for question in questions}
    known = NearCopies(threshold=_CONTAMINATED, shingle=_SHINGLE)
    for index, question in enumerate(questions):
        known.add(str(index), question)

    def is_held_out(text: str) -> bool:
        return any(
            question_key(part) in keys
            or any(asks_the_same(part, questions[int(name)]) for name in known.find(part))
            for part in {text, asked_in(text)}
        )

    bad = {
        (row.file, row.line)
        for row in material.rows
        if any(is_held_out(text) for role, text in row.prompt if role == "user")
    }
    rows = [row for row in material.rows if (row.file, row.line) not in bad]
    gone = [row for row in material.rows if (row.file, row.line) in bad]
    reason = "it nearly repeats a question that is held out for measuring"
    return rows, material.passages, [(row.file, row.line, reason) for row in gone]


def _check_left(material: Material) -> None:
    if not material.rows and not material.passages:
        file, line, reason = material.dropped[0]
        raise NoUsableRowsError(
            f"none of {len(material.dropped)} rows is left after cleaning; the first is {file}, "
            f"row {line}: {reason}; give other material, or choose training.filters"
        )
