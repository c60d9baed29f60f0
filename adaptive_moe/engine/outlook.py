"""What filling a gap would take, as far as it can be told without the base: material and cost."""

import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from adaptive_moe.config.settings import Settings
from adaptive_moe.engine.evidence import BestPlace, coverage
from adaptive_moe.experts.store import ExpertRecord
from adaptive_moe.gaps.budget import judged_trainings
from adaptive_moe.gaps.ledger import Gap
from adaptive_moe.gaps.terms import subjects


@dataclass(frozen=True, slots=True)
class SourceOutlook:
    """A file or pack of `gaps.sources` and how many of the gap's prompts it speaks about."""

    path: str
    prompts: int


@dataclass(frozen=True, slots=True)
class EarlierTraining:
    """A version that was trained for this base: its optimiser steps, and its size on the disk."""

    name: str
    version: int
    steps: int
    bytes: int


@dataclass(frozen=True, slots=True)
class CostOutlook:
    """What trainings took so far; the past of this store, and no measurement of this one.

    `minutes` are those of the gaps filled for this ledger, gate included. `estimate_with` is the
    command that measures a few steps on the material at hand.
    """

    most_steps: int
    minutes: tuple[float, ...]
    trainings: tuple[EarlierTraining, ...]
    estimate_with: str

    @property
    def usual_minutes(self) -> float | None:
        """The median, None before the first filling."""
        return statistics.median(self.minutes) if self.minutes else None


@dataclass(frozen=True, slots=True)
class Outlook:
    """What a gap asks for, what there is, and what it would cost.

    `terms` set its prompts apart from other gaps', `subjects` tell them from each other: material
    should speak of both. `sources` are those of `gaps.sources` that speak about any of its prompts,
    `found` the best place for each of these prompts, `missing` the others, `problems` what cannot
    be read; `is_enough` says whether a training would be begun on them, None where no source is
    configured.
    """

    terms: tuple[str, ...]
    subjects: tuple[str, ...]
    sources: tuple[SourceOutlook, ...]
    found: tuple[BestPlace, ...]
    missing: tuple[str, ...]
    problems: tuple[str, ...]
    is_enough: bool | None
    cost: CostOutlook


def outlook(
    gap: Gap,
    settings: Settings,
    *,
    gaps: Iterable[Gap],
    records: Iterable[ExpertRecord],
    base_id: str,
) -> Outlook:
    """The outlook of one gap; `gaps` and `records` are all there are in ledger and store.

    Reads the material of `gaps.sources`; what cannot be read is told in `problems`.
    """
    sources = settings.gaps.sources
    found = coverage(gap.prompts, [Path(source) for source in sources])
    speaking = [
        SourceOutlook(str(path), len(prompts)) for path, prompts in found.covered.items() if prompts
    ]
    return Outlook(
        terms=gap.terms,
        subjects=subjects(gap.prompts),
        sources=tuple(speaking),
        found=found.found,
        missing=found.missing if sources else (),
        problems=found.problems,
        is_enough=found.is_enough if sources else None,
        cost=CostOutlook(
            most_steps=settings.training.max_steps,
            minutes=tuple(took for each in gaps for took in judged_trainings(each.history)),
            trainings=_trainings(records, base_id),
            estimate_with=f"adaptive-moe gaps fill {gap.id} --dry-run",
        ),
    )


def _trainings(records: Iterable[ExpertRecord], base_id: str) -> tuple[EarlierTraining, ...]:
    """Those whose manifest tells their steps; imported and merged experts were not trained here."""
    found = []
    for record in records:
        steps = record.manifest.training.get("steps")
        if isinstance(steps, int) and record.manifest.base_id == base_id:
            size = sum(file.bytes for file in record.manifest.files.values())
            found.append(EarlierTraining(record.name, record.version, steps, size))
    return tuple(found)
