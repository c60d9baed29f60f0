"""What must not get worse: questions that the base answers right, asked again with the expert."""

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from adaptive_moe.measures.graders import normalised
from adaptive_moe.measures.statistics import clopper_pearson_upper
from adaptive_moe.training.rows import Turn

GUARD_CONFIDENCE = 0.95
_NEAR = 100  # of those that count, the nearest to what the expert was taught
_FEWEST = 32  # to ask at a time

Prompts = Sequence[tuple[Turn, ...]]


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer at the gate.

    `p_correct` is the router's chance that it is right, absent where the router has no
    probabilities; `distance` how far the prompt lies from what the expert on trial was taught.
    `is_experts` says whether that expert gave the answer, alone or with others, `is_bases` whether
    no expert had part in it. A prompt that leaves the context no room for an answer was not asked;
    it has no text.
    """

    text: str
    p_correct: float | None = None
    distance: float = 0.0
    is_experts: bool = False
    is_bases: bool = False
    was_asked: bool = True


Answerer = Callable[[Prompts], Sequence[Reply]]
"""Conversations in, one greedy answer each out, in order."""


@dataclass(frozen=True, slots=True)
class GuardItem:
    """A prompt that, if the base answers it right, must go on being answered right.

    It is `near` if it is among those most alike to what the expert was taught.
    """

    prompt: tuple[Turn, ...]
    answer: str
    near: bool = False


@dataclass(frozen=True, slots=True)
class GuardFigures:
    """Guard prompts right before and wrong after; `bound` is the exact upper 95 % limit."""

    items: int
    lost: int
    near_items: int
    near_lost: int
    rate: float
    bound: float


@dataclass(frozen=True, slots=True)
class Guard:
    """Prompts that the base answers right, the near ones first, and those of them that are lost."""

    items: tuple[GuardItem, ...]
    lost: frozenset[GuardItem]

    @property
    def figures(self) -> GuardFigures:
        """The bound is Clopper and Pearson's: 0 of 300 lost gives 0.00994, no item gives 1."""
        near = [item for item in self.items if item.near]
        items, lost = len(self.items), self._lost(self.items)
        return GuardFigures(
            items=items,
            lost=lost,
            near_items=len(near),
            near_lost=self._lost(near),
            rate=lost / items if items else 0.0,
            bound=clopper_pearson_upper(lost, items, confidence=GUARD_CONFIDENCE),
        )

    def _lost(self, items: Sequence[GuardItem]) -> int:
        return sum(item in self.lost for item in items)


def measure_guard(
    candidates: Sequence[GuardItem],
    answer: Answerer,
    *,
    base: Answerer,
    before: Answerer,
    count: int,
    seed: int,
) -> Guard:
    """Ask `candidates`, drawn at random, until `count` are found that the base answers right.

    No two candidates are the same. The base is asked only what it has not answered already. Where
    other experts serve, `before` asks without the new one, and what they spoil is left out.
    """
    left = random.Random(f"guard {seed}").sample(candidates, len(candidates))  # noqa: S311
    known: list[tuple[GuardItem, Reply]] = []
    while left and len(known) < count:
        asked = max(count - len(known), _FEWEST)
        known += _known(left[:asked], answer, base)
        left = left[asked:]
    nearest = sorted(known[:count], key=lambda pair: pair[1].distance)
    placed = [
        (replace(item, near=place < _NEAR), reply) for place, (item, reply) in enumerate(nearest)
    ]
    wrong = _wrong(placed)
    spoilt = ask_again([item for item, _ in placed if item in wrong], before).lost
    return Guard(tuple(item for item, _ in placed if item not in spoilt), wrong - spoilt)


def ask_again(items: Sequence[GuardItem], answer: Answerer) -> Guard:
    """Prompts that the base answers right, asked of somebody else."""
    replies = answer([item.prompt for item in items]) if items else []
    return Guard(tuple(items), _wrong(zip(items, replies, strict=True)))


def _known(
    items: Sequence[GuardItem], answer: Answerer, base: Answerer
) -> list[tuple[GuardItem, Reply]]:
    """Those that the base answers right, with the reply of `answer`."""
    replies = zip(items, answer([item.prompt for item in items]), strict=True)
    pairs = [(item, reply) for item, reply in replies if reply.was_asked]
    experts = [item for item, reply in pairs if not reply.is_bases]
    unknown = _wrong(pair for pair in pairs if pair[1].is_bases) | ask_again(experts, base).lost
    return [(item, reply) for item, reply in pairs if item not in unknown]


def _wrong(pairs: Iterable[tuple[GuardItem, Reply]]) -> frozenset[GuardItem]:
    return frozenset(item for item, reply in pairs if not normalised(reply.text, item.answer))
