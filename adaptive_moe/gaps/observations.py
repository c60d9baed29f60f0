"""Reads and writes the observations in the gap ledger."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
from jaxtyping import Float

from adaptive_moe.gaps.evidence import Cause, Member, Observation, Origin, Part
from adaptive_moe.gaps.file import LedgerFile, Row

Direction = Float[np.ndarray, " width"]

_VECTORS_KEPT = 32  # confident prompts of a known domain whose directions are remembered
_STRAY_VECTORS_KEPT = 256  # the same for prompts of no domain, of every topic
_SEEN_COLUMNS = (
    "id, gap_id, prompt, domain, low_confidence, duplicate_of, excluded, outcome, origin, "
    "direction, session, topic"
)
_IS_LOOSE = (
    "gap_id IN (SELECT id FROM gaps WHERE state = 'OBSERVED' AND domain IS NULL "
    "AND evidence_after = 0 AND suspicion_order IS NULL AND merged_into IS NULL)"
)
_IS_EVIDENCE = (
    "duplicate_of IS NULL AND excluded IS NULL AND (low_confidence = 1 OR outcome IS NOT NULL)"
)
_MEMBER_COLUMNS = (
    "id, prompt, answer, p_correct, low_confidence, session, served_by, outcome, origin"
)


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """An observation as it stands in the ledger, as far as grouping and outcomes need it."""

    id: int
    gap_id: int | None
    prompt: str
    domain: str | None
    low_confidence: bool
    duplicate_of: int | None
    excluded: Cause | None
    correct: bool | None
    origin: Origin | None
    direction: Direction | None
    session: str
    topic: str | None


class ObservationTable:
    """Every observed prompt; confident ones without their answers and, later, directions."""

    def __init__(self, file: LedgerFile) -> None:
        self._file = file

    def add(
        self,
        observation: Observation,
        *,
        base_id: str,
        prompt_hash: str,
        direction: Direction | None,
        gap_id: int | None,
        duplicate_of: int | None,
        excluded: Cause | None,
    ) -> int:
        """Write one observation down; a confident answer is kept without its text."""
        low = observation.low_confidence
        values = (
            base_id,
            gap_id,
            observation.prompt,
            prompt_hash,
            observation.answer if low else "",
            observation.p_correct,
            low,
            observation.domain,
            observation.session,
            json.dumps(observation.served_by),
            None if direction is None else direction.astype("<f2").tobytes(),
            duplicate_of,
            excluded,
            self._file.now(),
            _packed(observation.parts),
            observation.certificate,
            observation.remoteness,
            observation.topic,
        )
        row = self._file.one(
            "INSERT INTO observations (base_id, gap_id, prompt, prompt_hash, answer, p_correct, "
            "low_confidence, domain, session, served_by, direction, duplicate_of, excluded, "
            "created, parts, certificate, remoteness, topic) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) RETURNING id",
            values,
        )
        if not low:
            self._forget_old_directions(base_id, observation.domain, observation.topic)
        return int(row[0])

    def get(self, observation_id: int, *, base_id: str) -> Seen | None:
        """One observation, None if there is none with this number for this base."""
        found = self._seen("id = ? AND base_id = ?", (observation_id, base_id))
        return found[0] if found else None

    def last(self, base_id: str) -> int:
        """The number of the newest observation, 0 before the first."""
        row = self._file.one("SELECT MAX(id) FROM observations WHERE base_id = ?", (base_id,))
        return int(row[0] or 0)

    def with_hash(self, gap_id: int, *, prompt_hash: str, after: int) -> int | None:
        """The evidence of this gap after that observation with just this prompt."""
        row = self._file.one(
            f"SELECT MIN(id) FROM observations WHERE gap_id = ? AND id > ? AND prompt_hash = ? "  # noqa: S608
            f"AND {_IS_EVIDENCE}",
            (gap_id, after, prompt_hash),
        )
        return None if row[0] is None else int(row[0])

    def recent_evidence(self, gap_id: int, *, after: int, limit: int) -> tuple[Seen, ...]:
        """The newest evidence of a gap with directions, newest first."""
        where = f"gap_id = ? AND id > ? AND direction IS NOT NULL AND {_IS_EVIDENCE}"
        return self._seen(where, (gap_id, after), limit=limit)

    def loose_evidence(self, base_id: str, *, limit: int) -> tuple[Seen, ...]:
        """The newest evidence with directions of clusters nothing was ever claimed of."""
        where = f"base_id = ? AND direction IS NOT NULL AND {_IS_LOOSE} AND {_IS_EVIDENCE}"
        return self._seen(where, (base_id,), limit=limit)

    def strays(self, base_id: str, *, topic: str | None, after: int) -> tuple[Seen, ...]:
        """Confident prompts of a topic, but no domain and no gap, after that one, newest first."""
        where = (
            "base_id = ? AND id > ? AND domain IS NULL AND topic IS ? AND low_confidence = 0 "
            "AND gap_id IS NULL AND direction IS NOT NULL AND outcome IS NULL AND excluded IS NULL"
        )
        return self._seen(where, (base_id, after, topic), limit=_STRAY_VECTORS_KEPT)

    def known_directions(
        self, base_id: str, *, width: int
    ) -> Mapping[str, Float[np.ndarray, "_ width"]]:
        """Directions of this many numbers of recent confident prompts, by known domain."""
        rows = self._file.all(
            "SELECT domain, direction FROM observations WHERE base_id = ? AND domain IS NOT NULL "
            "AND low_confidence = 0 AND direction IS NOT NULL ORDER BY id",
            (base_id,),
        )
        groups: dict[str, list[Direction]] = {}
        for domain, stored in rows:
            direction = _direction(stored)
            if len(direction) == width:
                groups.setdefault(domain, []).append(direction)
        return {domain: np.stack(found) for domain, found in groups.items()}

    def members(self, gap_id: int, *, after: int) -> tuple[Member, ...]:
        """The distinct prompts that are evidence of a gap after that observation, oldest first."""
        rows = self._file.all(
            f"SELECT {_MEMBER_COLUMNS}, prompt_hash FROM observations "  # noqa: S608
            f"WHERE gap_id = ? AND id > ? AND {_IS_EVIDENCE} ORDER BY id DESC",
            (gap_id, after),
        )
        # Gaps that were merged may hold the same prompt twice; the first one stays.
        first = {row[-1]: row for row in rows}
        return tuple(sorted(map(_member, first.values()), key=lambda found: found.observation_id))

    def confident_prompts(
        self, base_id: str, *, gap_id: int, domains: Sequence[str], after: int
    ) -> int:
        """Distinct confident prompts without known outcome in a gap's domain after that one."""
        counted = "low_confidence = 0 AND outcome IS NULL AND excluded IS NULL"
        row = self._file.one(
            "SELECT COUNT(*) FROM (SELECT prompt_hash FROM observations "  # noqa: S608
            f"WHERE gap_id = ? AND id > ? AND {counted} UNION SELECT prompt_hash FROM observations "
            "WHERE base_id = ? AND domain IN (SELECT value FROM json_each(?)) AND id > ? "
            f"AND +gap_id IS NULL AND {counted})",  # + : search by domain
            (gap_id, after, base_id, json.dumps(list(domains)), after),
        )
        return int(row[0])

    def doubtful_since(self, gap_id: int, *, after: int) -> int:
        """Low-confidence prompts of a gap after that observation, repeated ones too."""
        row = self._file.one(
            "SELECT COUNT(*) FROM observations WHERE gap_id = ? AND id > ? AND low_confidence = 1",
            (gap_id, after),
        )
        return int(row[0])

    def has_other_session(self, base_id: str, *, session: str, since: int) -> bool:
        """Whether any other session was seen from that observation on."""
        row = self._file.one(
            "SELECT EXISTS(SELECT 1 FROM observations WHERE base_id = ? AND session < ? AND "
            "id >= ?) OR EXISTS(SELECT 1 FROM observations WHERE base_id = ? AND session > ? AND "
            "id >= ?)",
            (base_id, session, since, base_id, session, since),
        )
        return bool(row[0])

    def prompts(self, base_id: str, *, limit: int) -> Mapping[int, tuple[str, ...]]:
        """The newest distinct low-confidence prompts by gap, oldest first."""
        rows = self._file.all(
            "SELECT gap_id, prompt FROM observations WHERE base_id = ? AND gap_id IS NOT NULL "
            "AND low_confidence = 1 AND duplicate_of IS NULL ORDER BY id DESC LIMIT ?",
            (base_id, limit),
        )
        groups: dict[int, list[str]] = {}
        for gap_id, prompt in reversed(rows):
            groups.setdefault(gap_id, []).append(prompt)
        return {gap_id: tuple(dict.fromkeys(found)) for gap_id, found in groups.items()}

    def prompts_of(self, gap_id: int, *, limit: int) -> tuple[str, ...]:
        """The newest distinct prompts of a gap, whether they still are evidence or not."""
        rows = self._file.all(
            "SELECT prompt FROM observations WHERE gap_id = ? AND duplicate_of IS NULL AND "
            "(low_confidence = 1 OR outcome = 0) ORDER BY id DESC LIMIT ?",
            (gap_id, limit),
        )
        return tuple(dict.fromkeys(prompt for (prompt,) in reversed(rows)))

    def set_outcome(self, observation_id: int, *, correct: bool, origin: Origin) -> None:
        """Note whether an answer was right."""
        self._file.execute(
            "UPDATE observations SET outcome = ?, origin = ? WHERE id = ?",
            (correct, origin, observation_id),
        )

    def count_excluded(self, gap_id: int, *, cause: Cause, after: int) -> int:
        """How many prompts of a gap are no evidence for this reason."""
        rows = self._file.all(
            "SELECT COUNT(*) FROM observations WHERE gap_id = ? AND excluded = ? AND id > ?",
            (gap_id, cause, after),
        )
        return int(rows[0][0])

    def set_excluded(self, observation_id: int, cause: Cause) -> None:
        """Note why an observation is no evidence."""
        self._file.execute(
            "UPDATE observations SET excluded = ? WHERE id = ?", (cause, observation_id)
        )

    def move(self, observation_ids: Sequence[int], *, gap_id: int) -> None:
        """Put observations, and the repetitions of them, into another gap."""
        self._file.executemany(
            "UPDATE observations SET gap_id = ?1 WHERE id = ?2 OR duplicate_of = ?2",
            [(gap_id, observation_id) for observation_id in observation_ids],
        )

    def _forget_old_directions(self, base_id: str, domain: str | None, topic: str | None) -> None:
        kept = _STRAY_VECTORS_KEPT if domain is None else _VECTORS_KEPT
        self._file.execute(
            "UPDATE observations SET direction = NULL WHERE id = (SELECT id FROM observations "
            "WHERE base_id = ? AND domain IS ? AND topic IS ? AND low_confidence = 0 "
            "AND direction IS NOT NULL ORDER BY id DESC LIMIT 1 OFFSET ?)",
            (base_id, domain, topic, kept),
        )

    def _seen(self, where: str, values: tuple[object, ...], *, limit: int = 1) -> tuple[Seen, ...]:
        rows = self._file.all(
            f"SELECT {_SEEN_COLUMNS} FROM observations WHERE {where} ORDER BY id DESC LIMIT ?",  # noqa: S608
            (*values, limit),
        )
        return tuple(
            Seen(
                id=row[0],
                gap_id=row[1],
                prompt=row[2],
                domain=row[3],
                low_confidence=bool(row[4]),
                duplicate_of=row[5],
                excluded=cast("Cause | None", row[6]),
                correct=None if row[7] is None else bool(row[7]),
                origin=cast("Origin | None", row[8]),
                direction=None if row[9] is None else _direction(row[9]),
                session=row[10],
                topic=row[11],
            )
            for row in rows
        )


def _member(row: Row) -> Member:
    return Member(
        observation_id=row[0],
        prompt=row[1],
        answer=row[2],
        p_correct=row[3],
        low_confidence=bool(row[4]),
        session=row[5],
        served_by=tuple(json.loads(row[6])),
        correct=None if row[7] is None else bool(row[7]),
        origin=cast("Origin | None", row[8]),
    )


def _packed(parts: Sequence[Part]) -> str | None:
    """By expert id, as `judgements` reads it; nothing for the base."""
    if not parts:
        return None
    return json.dumps(
        {part.expert_id: {"share": part.share, "cluster": part.cluster} for part in parts}
    )


def _direction(stored: bytes) -> Direction:
    return np.frombuffer(stored, dtype="<f2").astype(np.float32)
