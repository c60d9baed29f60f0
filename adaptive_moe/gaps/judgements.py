"""What people and graders said of single answers: of trusted ones, and of those of experts.

Of a gap's evidence a repeated prompt speaks for the first one. Here every answer stands for itself,
as another expert, or another router, may have been at work.
"""

from collections.abc import Mapping
from typing import Literal

from adaptive_moe.gaps.file import LedgerFile

Judge = Literal["feedback", "grade"]

_FAR = 1.0  # remoteness at the edge of what a router learned from


class JudgementTable:
    """Verdicts on observations, and the certificates that they took back.

    A prompt counts once however often it was asked; its newest verdict is the one that counts.
    Calls belong into a transaction or a reading of the ledger.
    """

    def __init__(self, file: LedgerFile) -> None:
        self._file = file

    def judge(self, observation_id: int, *, correct: bool, judge: Judge) -> None:
        """Note whether this very answer was right; feedback does not overrule a grade."""
        self._file.execute(
            "UPDATE observations SET verdict = ?1, judge = ?2 WHERE id = ?3 "
            "AND (judge IS NULL OR judge = 'feedback' OR ?2 = 'grade')",
            (correct, judge, observation_id),
        )

    def of_experts(self, base_id: str) -> Mapping[str, Mapping[str, tuple[float, float]]]:
        """By expert id and cluster: how many answers were judged, and how many were right.

        An answer that several gave counts for each as far as it had a share in it.
        """
        rows = self._file.all(
            "SELECT expert, cluster, SUM(share), SUM(share * verdict) FROM ("
            "SELECT part.key AS expert, json_extract(part.value, '$.share') AS share, "
            "json_extract(part.value, '$.cluster') AS cluster, verdict, MAX(seen.id) "
            "FROM observations AS seen, json_each(seen.parts) AS part "
            "WHERE seen.base_id = ? AND seen.parts IS NOT NULL AND seen.verdict IS NOT NULL "
            "GROUP BY part.key, seen.prompt_hash) GROUP BY expert, cluster",
            (base_id,),
        )
        found: dict[str, dict[str, tuple[float, float]]] = {}
        for expert, cluster, judged, right in rows:
            found.setdefault(expert, {})[cluster] = (float(judged), float(right))
        return found

    def of_trusted(self, certificate: str, *, least: float) -> tuple[int, int]:
        """How many judged answers were trusted under a certificate, and how many were wrong.

        Trusted means at least `least` likely to be right, and not marked low-confidence.
        """
        row = self._file.one(
            "SELECT COUNT(*), COALESCE(SUM(verdict = 0), 0) FROM ("
            "SELECT verdict, MAX(id) FROM observations WHERE certificate = ? "
            "AND verdict IS NOT NULL AND low_confidence = 0 AND p_correct >= ? "
            "GROUP BY prompt_hash)",
            (certificate, least),
        )
        return int(row[0]), int(row[1])

    def far_prompts(self, certificate: str) -> tuple[int, int]:
        """How many prompts the base answered under a certificate, and how many lay far off."""
        row = self._file.one(
            "SELECT COUNT(*), COALESCE(SUM(distance > ?), 0) FROM ("
            "SELECT MAX(remoteness) AS distance FROM observations WHERE certificate = ? "
            "AND remoteness IS NOT NULL GROUP BY prompt_hash)",
            (_FAR, certificate),
        )
        return int(row[0]), int(row[1])

    def void(self, certificate: str) -> str | None:
        """Why a certificate was taken back, as `take_back` was told; None where it was not."""
        rows = self._file.all("SELECT why FROM voided WHERE certificate = ?", (certificate,))
        return str(rows[0][0]) if rows else None

    def take_back(self, certificate: str, *, why: str) -> None:
        """Note that a certificate holds no more; the first reason stays."""
        self._file.execute(
            "INSERT OR IGNORE INTO voided (certificate, why, created) VALUES (?, ?, ?)",
            (certificate, why, self._file.now()),
        )
