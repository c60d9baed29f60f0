"""Which rows of a module's pool belong to which expert: first fit, with compaction on demand."""

from dataclasses import dataclass
from typing import final


@dataclass(frozen=True, slots=True)
class RowRange:
    """The pool rows from start (inclusive) to stop (exclusive)."""

    start: int
    stop: int

    @property
    def rank(self) -> int:
        """Number of rows."""
        return self.stop - self.start


@final
class RowRanges:
    """The allocation of one pool; row 0 is never given away, it is the zero row that pads."""

    def __init__(self, rows: int) -> None:
        self._rows = rows
        self._owned: dict[str, RowRange] = {}

    def __contains__(self, owner: str) -> bool:
        return owner in self._owned

    def __getitem__(self, owner: str) -> RowRange:
        return self._owned[owner]

    @property
    def free_rows(self) -> int:
        """Rows without an owner, whether or not they lie together."""
        return self._rows - 1 - sum(owned.rank for owned in self._owned.values())

    def find(self, rank: int) -> RowRange | None:
        """The first gap of at least `rank` rows, or None when no gap is that long."""
        start = 1
        for owned in sorted(self._owned.values(), key=lambda owned: owned.start):
            if owned.start - start >= rank:
                break
            start = owned.stop
        return RowRange(start, start + rank) if start + rank <= self._rows else None

    def take(self, owner: str, place: RowRange) -> None:
        """Give the rows to the owner; they must be free."""
        assert owner not in self._owned
        self._owned[owner] = place

    def release(self, owner: str) -> None:
        """Free the owner's rows; one that owns none is fine."""
        self._owned.pop(owner, None)

    def moves(self) -> list[tuple[str, RowRange, RowRange]]:
        """What would close all gaps: (owner, from, to), in the order in which it must be done."""
        moves = []
        start = 1
        for owner, owned in sorted(self._owned.items(), key=lambda item: item[1].start):
            place = RowRange(start, start + owned.rank)
            if place != owned:
                moves.append((owner, owned, place))
            start = place.stop
        return moves

    def move(self, owner: str, place: RowRange) -> None:
        """Give the owner these rows instead of its own; nobody else may own any of them."""
        assert owner in self._owned
        self._owned[owner] = place
