"""The gap ledger: every observed prompt, gap and transition in one private SQLite file."""

import json
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import final

import numpy as np

from adaptive_moe.errors import UnknownGapError
from adaptive_moe.gaps.evidence import Figures, Member
from adaptive_moe.gaps.file import Clock, LedgerFile, Row
from adaptive_moe.gaps.judgements import JudgementTable
from adaptive_moe.gaps.observations import Direction, ObservationTable
from adaptive_moe.gaps.states import GapState
from adaptive_moe.measures.sequential import Count

_GAP_COLUMNS = (
    "id, base_id, domain, state, label, terms, expert, reason, suspicion_order, evidence_after, "
    "rejections, cooldown_from, direction, opened, changed, topic"
)
_DEFAULT_RADIUS = 0.5


@dataclass(frozen=True, slots=True)
class Transition:
    """One step of one gap, with the figures it was taken on."""

    gap_id: int
    before: GapState
    after: GapState
    reason: str
    figures: Mapping[str, Count | None]
    when: str


@dataclass(frozen=True, slots=True, eq=False)
class GapRecord:
    """A gap as it stands in the ledger.

    `suspicion_order` is its place among the suspected (None: never since the evidence restarted);
    only observations after `evidence_after` are evidence; `topic` is that of its prompts where the
    router knows one; `direction` is the mean of their unit vectors, None without any.
    """

    id: int
    base_id: str
    domain: str | None
    state: GapState
    label: str
    terms: tuple[str, ...]
    expert: str | None
    reason: str
    suspicion_order: int | None
    evidence_after: int
    rejections: int
    cooldown_from: int
    direction: Direction | None
    opened: str
    changed: str
    topic: str | None


@dataclass(frozen=True, slots=True)
class Gap:
    """A gap with what its evidence amounts to now.

    `prompts` are its distinct prompts, newest last; `members` those that count as evidence at
    present, with their scores, `held_back` counts those that one session has too many of, `misses`
    those that an expert knows, and `history` tells how it came here; `centroid` [width] is its mean
    direction.
    """

    id: int
    state: GapState
    label: str
    terms: tuple[str, ...]
    prompts: tuple[str, ...]
    failures: int
    successes: int
    e_value: float
    lower_bound: float
    p_correct_mean: float | None
    centroid: Direction | None = field(compare=False, repr=False)
    expert: str | None
    reason: str
    opened: str
    changed: str
    domain: str | None
    figures: Figures
    members: tuple[Member, ...] = field(repr=False)
    history: tuple[Transition, ...] = field(repr=False)
    held_back: int = 0
    misses: int = 0
    cooldown_left: int = 0

    def to_dict(self) -> dict[str, object]:
        """As JSON, without the centroid."""
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        del values["centroid"]
        return values | {
            "state": self.state.value,
            "terms": list(self.terms),
            "prompts": list(self.prompts),
            "figures": self.figures.to_dict(),
            "members": [asdict(member) for member in self.members],
            "history": [asdict(step) for step in self.history],
        }


@final
class GapLedger:
    """What was observed, which gaps came of it, and why each of them changed.

    `path` is a file, created readable by its owner only, or ":memory:". With `before_creating` it
    is created, after a call of that, by the first entry and not by opening. Everything is in the
    file, so a detector can be made anew on it at any time, in several processes too. Raises
    StoreError where the file cannot be used and GapError where it is damaged or no gap ledger.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        clock: Clock = lambda: datetime.now(UTC),
        before_creating: Callable[[], None] | None = None,
    ) -> None:
        self._file = LedgerFile(path, clock=clock, before_creating=before_creating)
        self.observations = ObservationTable(self._file)
        self.judgements = JudgementTable(self._file)

    @property
    def clock(self) -> Clock:
        """What tells the time of entries."""
        return self._file.clock

    @property
    def contents(self) -> tuple[int, int]:
        """Inside one transaction equal as long as nothing was written; else never equal."""
        return self._file.contents

    def __enter__(self) -> "GapLedger":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; what was observed is already in it."""
        self._file.close()

    def transaction(self) -> AbstractContextManager[None]:
        """A block that is written whole or not at all; every call below belongs into one."""
        return self._file.transaction()

    def reading(self) -> AbstractContextManager[None]:
        """A block that only reads, one state of the file; it needs no right to write."""
        return self._file.reading()

    def open_gap(
        self, base_id: str, *, domain: str | None, topic: str | None, label: str
    ) -> GapRecord:
        """A new gap in state OBSERVED."""
        now = self._file.now()
        row = self._file.one(
            "INSERT INTO gaps (base_id, domain, topic, state, label, terms, reason, "
            "evidence_after, rejections, cooldown_from, opened, changed) VALUES (?, ?, ?, ?, ?, "
            "'[]', 'first low-confidence prompt', 0, 0, 0, ?, ?) RETURNING id",
            (base_id, domain, topic, GapState.OBSERVED, label, now, now),
        )
        return self.gap(int(row[0]), base_id=base_id)

    def gap(self, gap_id: int, *, base_id: str) -> GapRecord:
        """The gap with this number, or the one it was merged into; else UnknownGapError."""
        rows = self._file.all(
            f"SELECT merged_into, {_GAP_COLUMNS} FROM gaps WHERE id = ? AND base_id = ?",  # noqa: S608
            (gap_id, base_id),
        )
        if not rows:
            raise UnknownGapError(f"there is no gap {gap_id}; `gaps list` shows those there are")
        merged_into, *columns = rows[0]
        if merged_into is not None:
            return self.gap(merged_into, base_id=base_id)
        return _record(tuple(columns))

    def gaps(self, base_id: str) -> tuple[GapRecord, ...]:
        """Every gap of this base that was not merged into another, oldest first."""
        rows = self._file.all(
            f"SELECT {_GAP_COLUMNS} FROM gaps WHERE base_id = ? AND merged_into IS NULL "  # noqa: S608
            "ORDER BY id",
            (base_id,),
        )
        return tuple(_record(row) for row in rows)

    def save(self, gap: GapRecord) -> GapRecord:
        """Write the gap as it is now."""
        self._file.execute(
            "UPDATE gaps SET domain = ?, state = ?, label = ?, terms = ?, expert = ?, reason = ?, "
            "suspicion_order = ?, evidence_after = ?, rejections = ?, cooldown_from = ?, "
            "direction = ?, changed = ? WHERE id = ?",
            (
                gap.domain,
                gap.state,
                gap.label,
                json.dumps(gap.terms),
                gap.expert,
                gap.reason,
                gap.suspicion_order,
                gap.evidence_after,
                gap.rejections,
                gap.cooldown_from,
                None if gap.direction is None else gap.direction.astype("<f4").tobytes(),
                gap.changed,
                gap.id,
            ),
        )
        return gap

    def step(self, gap: GapRecord, *, before: GapState, figures: Figures) -> GapRecord:
        """Save a gap that has just left the state `before`, and write the transition down."""
        gap = self.save(replace(gap, changed=self._file.now()))
        self._file.execute(
            "INSERT INTO transitions (gap_id, before, after, reason, figures, created) "
            "VALUES (?, ?, ?, ?, ?, ?)",
            (gap.id, before, gap.state, gap.reason, json.dumps(asdict(figures)), gap.changed),
        )
        return gap

    def merge(self, gap_id: int, *, into: int) -> None:
        """Move all observations of one gap into another and let its number mean the other."""
        for statement in (
            "UPDATE observations SET gap_id = ?1 WHERE gap_id = ?2",
            "UPDATE gaps SET merged_into = ?1 WHERE id = ?2",
        ):
            self._file.execute(statement, (into, gap_id))

    def transitions(self, gap_id: int) -> tuple[Transition, ...]:
        """The steps of one gap, oldest first."""
        rows = self._file.all(
            "SELECT gap_id, before, after, reason, figures, created FROM transitions "
            "WHERE gap_id = ? ORDER BY id",
            (gap_id,),
        )
        return tuple(
            Transition(
                row[0], GapState(row[1]), GapState(row[2]), row[3], json.loads(row[4]), row[5]
            )
            for row in rows
        )

    def clustering(self, base_id: str) -> tuple[float, int]:
        """The learned radius and how many unassigned low-confidence prompts there were."""
        rows = self._file.all("SELECT radius, unassigned FROM bases WHERE base_id = ?", (base_id,))
        return (float(rows[0][0]), int(rows[0][1])) if rows else (_DEFAULT_RADIUS, 0)

    def set_clustering(self, base_id: str, *, radius: float, unassigned: int) -> None:
        """Remember both."""
        self._file.execute(
            "INSERT INTO bases (base_id, suspected, unassigned, radius) VALUES (?1, 0, ?2, ?3) "
            "ON CONFLICT (base_id) DO UPDATE SET unassigned = ?2, radius = ?3",
            (base_id, unassigned, radius),
        )

    def next_suspicion(self, base_id: str) -> int:
        """The place of one more suspected cluster, from 1; never given twice."""
        row = self._file.one(
            "INSERT INTO bases (base_id, suspected, unassigned, radius) VALUES (?, 1, 0, ?) "
            "ON CONFLICT (base_id) DO UPDATE SET suspected = suspected + 1 RETURNING suspected",
            (base_id, _DEFAULT_RADIUS),
        )
        return int(row[0])

    def suspected(self, base_id: str) -> int:
        """How many clusters were ever suspected."""
        rows = self._file.all("SELECT suspected FROM bases WHERE base_id = ?", (base_id,))
        return int(rows[0][0]) if rows else 0


def _record(row: Row) -> GapRecord:
    return GapRecord(
        id=row[0],
        base_id=row[1],
        domain=row[2],
        state=GapState(row[3]),
        label=row[4],
        terms=tuple(json.loads(row[5])),
        expert=row[6],
        reason=row[7],
        suspicion_order=row[8],
        evidence_after=row[9],
        rejections=row[10],
        cooldown_from=row[11],
        direction=None if row[12] is None else np.frombuffer(row[12], dtype="<f4").copy(),
        opened=row[13],
        changed=row[14],
        topic=row[15],
    )
