"""Finds the gap a prompt belongs to, and keeps groups of unassigned prompts in good order."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import final

import numpy as np

from adaptive_moe.gaps.clusters import Units, learn_radius, nearest, regroup
from adaptive_moe.gaps.ledger import GapLedger, GapRecord
from adaptive_moe.gaps.observations import Direction, Seen
from adaptive_moe.gaps.states import MERGEABLE, GapState
from adaptive_moe.gaps.terms import asks_the_same, prompt_hash, telling_terms

_SAME_COSINE = 0.97
_SAME_WAY = 0.9
_COMPARED = 256  # newest prompts of a gap that a new one is compared with
_REGROUPED = 300  # newest unassigned prompts that are grouped anew
_EARLY_REGROUPS = frozenset({5, 8, 12, 16, 25, 35})
_REGROUP_EVERY = 10
_LABELLED_PROMPTS = 1000  # newest prompts that labels are made from
_LABEL_TERMS = 3
_UNNAMED = "unnamed"
_PROGRESS = tuple(GapState)
_TURNED_DOWN = (GapState.DISMISSED, GapState.REJECTED, GapState.COOLDOWN)

Radius = Callable[[], float | None]
"""The average distance within a topic, as far as the router knows it now."""


@final
class Grouping:
    """The groups of one base in a ledger; calls belong inside a transaction of it."""

    def __init__(
        self, ledger: GapLedger, *, base_id: str, min_size: int, radius: Radius = lambda: None
    ) -> None:
        self._ledger = ledger
        self._base_id = base_id
        self._min_size = min_size
        self._known_radius = radius

    def home(
        self, domain: str | None, direction: Direction | None, *, topic: str | None
    ) -> GapRecord | None:
        """The gap this doubtful prompt belongs to, a new one if need be.

        Prompts of a domain or expert share its gap; others join the nearest cluster of their topic
        within the radius. None for a prompt without both domain and direction.
        """
        if domain is not None:
            found = self._of_domain(domain)
        elif direction is None:
            return None
        else:
            found = self.cluster_near(direction, topic=topic)
        if found is not None:
            return found
        return self._ledger.open_gap(
            self._base_id, domain=domain, topic=topic, label=domain or _UNNAMED
        )

    def cluster_near(self, direction: Direction, *, topic: str | None) -> GapRecord | None:
        """The nearest cluster of a topic's unassigned prompts that this direction lies within.

        What was turned down is recognised whatever the topic: routers that know other topics
        follow one another.
        """
        clusters = {gap.id: gap for gap in self._clusters(len(direction), topic)}
        radius = self._radius
        found = nearest(direction, {key: _mean(gap) for key, gap in clusters.items()})
        return clusters[found[0]] if found is not None and found[1] <= radius else None

    def original_of(
        self, prompt: str, direction: Direction | None, *, gap: GapRecord
    ) -> int | None:
        """The evidence of this gap that asked the same before, None for a distinct prompt."""
        observations = self._ledger.observations
        same = observations.with_hash(
            gap.id, prompt_hash=prompt_hash(prompt), after=gap.evidence_after
        )
        if same is not None or direction is None:
            return same
        recent = observations.recent_evidence(gap.id, after=gap.evidence_after, limit=_COMPARED)
        for seen in reversed(recent):
            if _cosine(seen.direction, direction) > _SAME_COSINE and asks_the_same(
                prompt, seen.prompt
            ):
                return seen.id
        return None

    def note_unassigned(self) -> None:
        """Count one more unassigned doubtful prompt, and now and then group them all anew."""
        radius, count = self._ledger.clustering(self._base_id)
        count += 1
        self._ledger.set_clustering(self._base_id, radius=radius, unassigned=count)
        if count == 1 or count in _EARLY_REGROUPS or count % _REGROUP_EVERY == 0:
            self._regroup()

    def recentre(self, gap: GapRecord) -> GapRecord:
        """Save the mean direction of the gap's newest prompts."""
        recent = self._ledger.observations.recent_evidence(gap.id, after=0, limit=_COMPARED)
        directions = _directions(recent)
        if not directions:
            return gap
        size = len(directions[0])  # another width can only come from a changed vector definition
        rows = np.stack([row for row in directions if len(row) == size])
        mean: Direction = rows.mean(axis=0, dtype=np.float64).astype(np.float32)
        return self._ledger.save(replace(gap, direction=mean))

    def name(self, gap: GapRecord) -> GapRecord:
        """Save the gap's telling terms, and its label if it has no domain's name."""
        prompts = self._ledger.observations.prompts(self._base_id, limit=_LABELLED_PROMPTS)
        terms = telling_terms(prompts, gap.id)
        label = gap.domain or ", ".join(terms[:_LABEL_TERMS]) or gap.label
        return self._ledger.save(replace(gap, terms=terms, label=label))

    def adopt_confident(self, gap: GapRecord) -> None:
        """Count the confident prompts of no domain that lie within a cluster of their topic."""
        if gap.domain is not None or gap.direction is None:
            return
        radius = self._radius
        near = [
            seen.id
            for seen in self._ledger.observations.strays(
                self._base_id, topic=gap.topic, after=gap.evidence_after
            )
            if seen.direction is not None
            and seen.direction.shape == gap.direction.shape
            and 1.0 - float(seen.direction @ gap.direction) <= radius
        ]
        self._ledger.observations.move(near, gap_id=gap.id)

    def join(self, gap: GapRecord) -> GapRecord:
        """Fold this cluster and those of the same topic into the furthest one, then the oldest."""
        if gap.domain is not None or gap.direction is None:
            return gap
        radius = self._radius
        equal = [
            other
            for other in self._clusters(len(gap.direction), gap.topic)
            if other.id == gap.id or _are_one(gap, other, radius=radius)
        ]
        rest = [other for other in equal if other.state not in MERGEABLE]
        keeper = min(rest or equal, key=lambda other: (-_PROGRESS.index(other.state), other.id))
        folded = [other for other in equal if other.id != keeper.id and _is_young(other)]
        if not folded:
            return gap
        for other in folded:
            self._ledger.merge(other.id, into=keeper.id)
        orders = [other.suspicion_order for other in (keeper, *folded)]
        known = [order for order in orders if order is not None]
        kept = replace(keeper, suspicion_order=keeper.suspicion_order or min(known, default=None))
        merged = self.recentre(self._ledger.save(kept))
        return merged if gap.id == keeper.id or _is_young(gap) else gap

    def _of_domain(self, domain: str) -> GapRecord | None:
        gaps = self._ledger.gaps(self._base_id)
        by_expert = [gap for gap in gaps if gap.expert == domain]
        found = by_expert or [gap for gap in gaps if gap.domain == domain]
        return found[-1] if found else None

    def _clusters(self, width: int, topic: str | None) -> list[GapRecord]:
        """The clusters of a topic's prompts whose directions have this many numbers."""
        return [
            gap
            for gap in self._ledger.gaps(self._base_id)
            if gap.domain is None
            and (gap.topic == topic or gap.state in _TURNED_DOWN)
            and gap.direction is not None
            and len(gap.direction) == width
        ]

    def _regroup(self) -> None:
        """Learn the radius anew, and rearrange the prompts of clusters nothing was claimed of."""
        observations = self._ledger.observations
        found = observations.loose_evidence(self._base_id, limit=_REGROUPED)
        if not found:
            return
        width = len(_directions(found)[0])
        loose = [seen for seen in reversed(found) if len(_directions([seen])[0]) == width]
        units = np.stack(_directions(loose))
        known = self._known_radius()
        radius = self._learn_radius(units) if known is None else known
        _, count = self._ledger.clustering(self._base_id)
        self._ledger.set_clustering(self._base_id, radius=radius, unassigned=count)
        settled: list[list[Seen]] = []
        for topic in dict.fromkeys(seen.topic for seen in loose):
            rows = [row for row, seen in enumerate(loose) if seen.topic == topic]
            groups = regroup(units[rows], radius=radius, min_size=self._min_size)
            settled += [[loose[rows[place]] for place in group] for group in groups]
        self._settle(settled)

    def _learn_radius(self, units: Units) -> float:
        """From what the ledger holds: directions of known domains, strays, and these."""
        observations, width = self._ledger.observations, units.shape[1]
        known = observations.known_directions(self._base_id, width=width)
        strays = [
            row
            for row in _directions(observations.strays(self._base_id, topic=None, after=0))
            if len(row) == width
        ]
        return learn_radius(
            known,
            strays=np.stack(strays) if strays else np.empty((0, width), np.float32),
            unknown=units,
        )

    @property
    def _radius(self) -> float:
        """The largest average distance within a topic: as the router knows it, else as learned."""
        known = self._known_radius()
        return self._ledger.clustering(self._base_id)[0] if known is None else known

    def _settle(self, groups: Iterable[Sequence[Seen]]) -> None:
        """Give every group the gap most of its prompts are in already, or a new one."""
        taken: set[int] = set()
        left: dict[int, int] = {}
        for group in groups:
            former = Counter(seen.gap_id for seen in group if seen.gap_id is not None)
            free = [gap_id for gap_id, _ in former.most_common() if gap_id not in taken]
            if free:
                gap_id = free[0]
            else:
                gap_id = self._ledger.open_gap(
                    self._base_id, domain=None, topic=group[0].topic, label=_UNNAMED
                ).id
            taken.add(gap_id)
            moved = [seen.id for seen in group if seen.gap_id != gap_id]
            self._ledger.observations.move(moved, gap_id=gap_id)
            left.update({former_id: gap_id for former_id in former if former_id not in left})
            self.name(self.recentre(self._ledger.gap(gap_id, base_id=self._base_id)))
        for former_id, successor in left.items():
            if former_id not in taken:
                self._ledger.merge(former_id, into=successor)


def _directions(seen: Iterable[Seen]) -> list[Direction]:
    return [found.direction for found in seen if found.direction is not None]


def _mean(gap: GapRecord) -> Direction:
    assert gap.direction is not None, "_clusters leaves those out"
    return gap.direction


def _cosine(one: Direction | None, other: Direction) -> float:
    """Of two directions; -1 when they cannot be compared."""
    if one is None or one.shape != other.shape:
        return -1.0
    return float(one @ other)


def _is_young(gap: GapRecord) -> bool:
    """Whether nothing came of this gap yet: no expert, and no evidence that was used up."""
    return gap.state in MERGEABLE and gap.expert is None and gap.evidence_after == 0


def _are_one(one: GapRecord, other: GapRecord, *, radius: float) -> bool:
    """Whether two clusters are as close, on average, as prompts of one topic.

    What is decided already takes in only what also points the same way: a topic beside one that
    was filled or dismissed is another.
    """
    first, second = _mean(one).astype(np.float64), _mean(other).astype(np.float64)
    product = float(first @ second)
    if not {one.state, other.state} <= MERGEABLE:
        lengths = float(np.linalg.norm(first) * np.linalg.norm(second))
        if product <= _SAME_WAY * lengths:
            return False
    return 1.0 - product <= radius
