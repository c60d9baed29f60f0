"""The states of a knowledge gap and the steps allowed between them."""

from collections.abc import Mapping
from enum import StrEnum

from adaptive_moe.errors import GapStateError


class GapState(StrEnum):
    """How far a gap has come."""

    OBSERVED = "OBSERVED"  # some low-confidence prompts, nothing claimed
    SUSPECTED = "SUSPECTED"  # enough of them to be worth checking answers
    VERIFIED = "VERIFIED"  # outcomes prove that the domain is mostly answered wrongly
    QUEUED = "QUEUED"  # waits for a training
    TRAINING = "TRAINING"
    EVALUATING = "EVALUATING"  # the trained expert stands before the gate
    FILLED = "FILLED"  # an expert went live; reopens only on evidence newer than that
    REJECTED = "REJECTED"  # no expert passed the gate, or there was nothing to learn from
    COOLDOWN = "COOLDOWN"  # prompts are ignored for a while after a rejection
    DISMISSED = "DISMISSED"  # a person does not want it filled; only a person reopens it


_S = GapState

TRANSITIONS: Mapping[GapState, frozenset[GapState]] = {
    _S.OBSERVED: frozenset({_S.SUSPECTED, _S.QUEUED, _S.DISMISSED}),
    _S.SUSPECTED: frozenset({_S.OBSERVED, _S.FILLED, _S.VERIFIED, _S.QUEUED, _S.DISMISSED}),
    _S.VERIFIED: frozenset({_S.OBSERVED, _S.FILLED, _S.QUEUED, _S.DISMISSED}),
    _S.QUEUED: frozenset({_S.OBSERVED, _S.VERIFIED, _S.TRAINING, _S.REJECTED, _S.DISMISSED}),
    _S.TRAINING: frozenset(
        {_S.OBSERVED, _S.VERIFIED, _S.QUEUED, _S.EVALUATING, _S.REJECTED, _S.DISMISSED}
    ),
    _S.EVALUATING: frozenset({_S.QUEUED, _S.FILLED, _S.REJECTED, _S.DISMISSED}),
    _S.FILLED: frozenset({_S.SUSPECTED, _S.QUEUED, _S.DISMISSED}),
    _S.REJECTED: frozenset({_S.COOLDOWN, _S.QUEUED, _S.DISMISSED}),
    _S.COOLDOWN: frozenset({_S.OBSERVED, _S.QUEUED, _S.DISMISSED}),
    _S.DISMISSED: frozenset({_S.OBSERVED}),
}

# A training may start by itself only from proof; from these, only a person may ask for one.
FILLED_BY_PERSON_ONLY = frozenset({_S.OBSERVED, _S.SUSPECTED, _S.FILLED, _S.REJECTED, _S.COOLDOWN})
IN_TRAINING = frozenset({_S.TRAINING, _S.EVALUATING})
# Of what nobody decided anything yet, equal gaps may still be folded into one.
MERGEABLE = frozenset({_S.OBSERVED, _S.SUSPECTED, _S.VERIFIED})


def require_step(gap_id: int, before: GapState, *, after: GapState) -> None:
    """Raise GapStateError unless a gap may go from `before` to `after`."""
    if after not in TRANSITIONS[before]:
        allowed = ", ".join(sorted(TRANSITIONS[before]))
        raise GapStateError(
            f"gap {gap_id} is {before} and cannot become {after}; it can become {allowed}"
        )
