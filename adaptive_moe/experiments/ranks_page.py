"""Writes docs/ranks.md out of the runs of `make ranks`, finished or not.

`python -m adaptive_moe.experiments.ranks_page build/ranks.jsonl docs/ranks.md`.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from adaptive_moe.errors import DataError
from adaptive_moe.experiments.rank_findings import (
    Comparison,
    SetFindings,
    compare,
    set_findings,
)
from adaptive_moe.experiments.rank_runs import (
    CONTROL,
    FIXED,
    RankPlan,
    Record,
    outcomes,
    read_records,
)
from adaptive_moe.experiments.rank_words import conclusion, method
from adaptive_moe.measures.statistics import Interval

_ARGUMENTS = 2
_MOST_SECONDS = 150.0
_SHOWN_MISSING = 8


def render(records: Sequence[Record]) -> str:
    """The page. Raises DataError where no study was ever started."""
    starts = [record for record in records if record["kind"] == "start"]
    if not starts:
        raise DataError("the file holds no start of a study; make it with `make ranks`")
    plan = RankPlan.read(starts[-1]["plan"])
    known = {name: about for start in starts for name, about in start["sets"].items()}
    sets = [set_findings(plan, name, about, records) for name, about in known.items()]
    against_fixed = compare(sets, plan.arms, FIXED)
    against_control = compare(sets, plan.arms, CONTROL)
    parts = [
        "# Rank strategies",
        "Written by `make ranks`; do not edit it.",
        _head(plan, starts, records),
        "## What was found",
        *conclusion(plan, sets, against_fixed, against_control),
        "## How it is measured",
        method(plan),
        "## Which sets can tell",
        _floors(plan, sets),
        "## Learning rates",
        _rates(plan, sets),
        "## Every arm against `fixed`",
        _means(plan, sets),
        _comparisons(against_fixed),
        "## Every arm against the control",
        _comparisons(against_control),
        "## Missing and failed runs",
        _left(sets),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the runs, write the page; 2 for wrong usage."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if len(words) != _ARGUMENTS:
        sys.stderr.write("usage: RUNS.jsonl PAGE.md\n")
        return 2
    source, page = map(Path, words)
    page.write_text(render(read_records(source)), encoding="utf-8")
    return 0


def _head(plan: RankPlan, starts: Sequence[Record], records: Sequence[Record]) -> str:
    machine = starts[-1]["machine"]
    versions = ", ".join(f"{name} {kind}" for name, kind in machine["versions"].items() if kind)
    done = outcomes(records).values()
    how = "one thread a run" if machine["device"] == "cpu" else "runs share their passes"
    rows = [
        ("device", f"{machine['device']}, {machine['processor']}, {how}"),
        ("processors", f"{machine['processors']}, runs at a time: {_several(starts, 'workers')}"),
        ("versions", f"Python {machine['python']}, {versions}"),
        ("load average before", _several(starts, "load_before")),
        ("runs", _run_times(list(done))),
        ("seeds", _seeds(plan)),
        ("training", f"{plan.steps} steps of 32 examples, reference rank {plan.reference_rank}"),
    ]
    return _table(("", ""), rows)


def _seeds(plan: RankPlan) -> str:
    floor = _listed(plan.floor_seeds)
    return f"{_listed(plan.seeds)}; rates chosen on {plan.sweep_seed}, noise floor on {floor}"


def _several(starts: Sequence[Record], key: str) -> str:
    return _listed(dict.fromkeys(start[key] for start in starts))


def _listed(values: Any) -> str:  # noqa: ANN401 - anything that can be said
    return ", ".join(map(str, values))


def _run_times(done: Sequence[Record]) -> str:
    if not done:
        return "none yet"
    seconds = [float(found["seconds"]) for found in done]
    others = [float(found["others"]) for found in done if found["others"] is not None]
    busy = f"; others kept {np.median(others):.1f} processors busy (median)" if others else ""
    worked = np.median([float(found["processor_seconds"]) for found in done])
    longer = sum(each > _MOST_SECONDS for each in seconds)
    return (
        f"{len(done)}, {np.median(seconds):.0f} s each (median), {worked:.0f} s of a processor; "
        f"{longer} took more than {_MOST_SECONDS:.0f} s{busy}"
    )


def _floors(plan: RankPlan, sets: Sequence[SetFindings]) -> str:
    small, great = plan.floor_ranks
    columns = (
        "set", "facts", "taught in", "chosen on", "tested on", f"rank {small}", f"rank {great}",
        "difference", "noise floor", "",
    )  # fmt: skip
    rows = [_floor_row(plan, each) for each in sets]
    told = [f"* {each.name}: {each.about['about']}" for each in sets]
    return "\n\n".join([_table(columns, rows), "\n".join(told)])


def _floor_row(plan: RankPlan, each: SetFindings) -> tuple[str, ...]:
    about = each.about
    sizes = [f"{about[key]:,}" for key in ("facts", "train", "selection", "test")]
    if each.floor is None:
        return (each.name, *sizes, "", "", "", "", "not measured yet")
    scores = [_mean_spread(each.floor.scores[rank]) for rank in plan.floor_ranks]
    verdict = "used" if each.is_used else "left out: not larger than the noise"
    return (
        each.name, *sizes, *scores, f"{each.floor.difference:+.3f}", f"{each.floor.limit:.3f}",
        verdict,
    )  # fmt: skip


def _rates(plan: RankPlan, sets: Sequence[SetFindings]) -> str:
    used = [each for each in sets if each.rates]
    if not used:
        return "None is chosen yet."
    rows = [(arm, *(_rate(each, arm) for each in used)) for arm in plan.arms]
    table = _table(("", *(each.name for each in used)), rows)
    tried = _listed(f"{rate:g}" for rate in plan.rates)
    edge = any(choice.is_edge for each in used for choice in each.rates.values())
    told = (
        " An asterisk: the least or greatest, so a better one may lie beyond; `--rates` tries more."
        if edge
        else ""
    )
    return (
        f"{table}\n\nTried were {tried}, each once, with seed {plan.sweep_seed}; beside the rate "
        f"are the exact answers on the selection side.{told}"
    )


def _rate(each: SetFindings, arm: str) -> str:
    choice = each.rates.get(arm)
    if choice is None:
        return "to come"
    return f"{choice.rate:g}{'*' if choice.is_edge else ''} ({choice.exact:.3f})"


def _means(plan: RankPlan, sets: Sequence[SetFindings]) -> str:
    used = [each for each in sets if each.scores]
    if not used:
        return "No run is scored yet."
    rows = []
    for arm in plan.arms:
        ranks = [_ranks(each.scores.get(arm, {})) for each in used]
        rows.append((arm, *(_mean_spread(each.exact(arm)) for each in used), ranks[0]))
    floors = [f"{each.deviation():.3f}" for each in used]
    rows.append(("between seeds, all arms", *floors, ""))
    columns = ("exact answers", *(each.name for each in used), "ranks")
    return f"{_table(columns, rows)}\n\nMean, standard deviation between seeds, number of seeds."


def _ranks(scores: Mapping[int, Record]) -> str:
    if not scores:
        return ""
    least = min(found["least_rank"] for found in scores.values())
    return f"{least} to {max(found['greatest_rank'] for found in scores.values())}"


def _mean_spread(scores: Sequence[float]) -> str:
    if not scores:
        return ""
    spread = f" ± {np.std(scores, ddof=1):.3f}" if len(scores) > 1 else ""
    return f"{np.mean(scores):.3f}{spread} ({len(scores)})"


def _comparisons(found: Sequence[Comparison]) -> str:
    if not found:
        return ""
    columns = (
        "", "pairs", "difference", "95 %", "95 % over facts", "p", "p, Holm", "verdict",
        "loss, nats",
    )  # fmt: skip
    rows = [
        (
            each.arm, str(each.pairs), f"{each.exact.mean:+.4f}", _interval(each.exact),
            _interval(each.by_fact), f"{each.p_value:.4f}", f"{each.adjusted:.4f}", each.verdict,
            f"{each.loss.mean:+.4f} {_interval(each.loss)}",
        )
        for each in found
    ]  # fmt: skip
    return _table(columns, rows)


def _interval(found: Interval) -> str:
    return f"[{found.low:+.4f}, {found.high:+.4f}]"


def _left(sets: Sequence[SetFindings]) -> str:
    lines = list(_left_lines(sets))
    return "\n".join(lines) or "None."


def _left_lines(sets: Sequence[SetFindings]) -> Iterator[str]:
    for each in sets:
        yield from (f"* failed: {title}: {_cell(reason)}" for title, reason in each.failed)
        yield from (f"* missing: {title}" for title in each.missing[:_SHOWN_MISSING])
        more = len(each.missing) - _SHOWN_MISSING
        if more > 0:
            yield f"* missing: {more} more of {each.name}"


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [_joined(columns), f"|{'---|' * len(columns)}", *(_joined(row) for row in rows)]
    return "\n".join(lines)


def _joined(cells: Sequence[str]) -> str:
    return "".join(f"| {_cell(cell)} " if cell else "| " for cell in cells) + "|"


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "/").split())


if __name__ == "__main__":
    sys.exit(main())
