"""What the router knows of a prompt before an answer exists, and what it learns from afterwards."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from adaptive_moe.models.prefilling import Prefill
from adaptive_moe.models.token_trace import TokenTrace
from adaptive_moe.router.domains import state_vector
from adaptive_moe.router.scores import prefill_scores_by_row


@dataclass(frozen=True, slots=True)
class Evidence:
    """One prompt at decision A: the scores of its first answer token, its state vector, its words.

    `text` is the prompt's last user turn.
    """

    scores: Mapping[str, float]
    states: Float[np.ndarray, " state"]
    text: str


@dataclass(frozen=True, slots=True)
class RouterRow:
    """One greedy answer of the base with its label, from which a router is fitted or measured.

    `source` names what the prompt was made from (a fact, a document): rows that share it never
    stand on both sides of a split. `domain` is None where it is not known. `agreement`, 0 to 1, is
    that of sampled answers where nobody graded this one; at least one half is then `correct`.
    """

    evidence: Evidence
    trace: TokenTrace
    correct: bool
    domain: str | None
    source: str
    agreement: float | None = None

    @property
    def label(self) -> float:
        """What an estimator is to say of it, 0 to 1: the grade, or the agreement."""
        return float(self.correct) if self.agreement is None else self.agreement


def gather_evidence(prefill: Prefill) -> tuple[Evidence, ...]:
    """The evidence of every prompt of a prefill, in order."""
    scores = prefill_scores_by_row(prefill.first_logits)
    return tuple(
        Evidence(values, state_vector(prefill, row=row), prefill.prompts[row].text)
        for row, values in enumerate(scores)
    )
