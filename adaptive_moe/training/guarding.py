"""What must not get worse: questions that the base answers right, asked again with the expert."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from adaptive_moe.measures.graders import normalised
from adaptive_moe.measures.statistics import clopper_pearson_upper
from adaptive_moe.training.rows import Turn

GUARD_CONFIDENCE = 0.95

Prompts = Sequence[tuple[Turn, ...]]


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer at the gate.

    `p_correct` is the router's chance that it is right, absent where the router has no
    probabilities; `is_experts` whether the expert on trial gave it, alone or with others. A prompt
    that leaves the context no room for an answer was not asked; it has no text.
    """

    text: str
    p_correct: float | None = None
    is_experts: bool = False
    was_asked: bool = True


Answerer = Callable[[Prompts], Sequence[Reply]]
"""Conversations in, one greedy answer each out, in order."""


@dataclass(frozen=True, slots=True)
class GuardItem:
    """A prompt that the base answers right and must go on answering right; near = alike in kind."""

    prompt: tuple[Turn, ...]
    answer: str
    near: bool


@dataclass(frozen=True, slots=True)
class GuardFigures:
    """Guard prompts right before and wrong after; `bound` is the exact upper 95 % limit."""

    items: int
    lost: int
    near_items: int
    near_lost: int
    rate: float
    bound: float


def measure_guard(
    guard: Sequence[GuardItem], answer: Answerer, *, before: Answerer | None = None
) -> GuardFigures:
    """Ask every guard prompt and count the answers that are no longer right.

    Where other experts answer already, `before` asks without the new one, and what they spoil is
    left out. The bound is Clopper and Pearson's: 0 of 300 lost gives 0.00994, no item gives 1.
    """
    wrong = _wrong(guard, answer)
    if before is not None:
        spoilt = {id(item) for item in _wrong(wrong, before)}
        guard = [item for item in guard if id(item) not in spoilt]
        wrong = [item for item in wrong if id(item) not in spoilt]
    return GuardFigures(
        items=len(guard),
        lost=len(wrong),
        near_items=sum(item.near for item in guard),
        near_lost=sum(item.near for item in wrong),
        rate=len(wrong) / len(guard) if guard else 0.0,
        bound=clopper_pearson_upper(len(wrong), len(guard), confidence=GUARD_CONFIDENCE),
    )


def _wrong(guard: Sequence[GuardItem], answer: Answerer) -> list[GuardItem]:
    """The items that are not answered right."""
    replies = answer([item.prompt for item in guard]) if guard else []
    pairs = zip(guard, replies, strict=True)
    return [item for item, reply in pairs if not normalised(reply.text, item.answer)]
