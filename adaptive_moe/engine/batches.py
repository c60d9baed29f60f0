"""Many prompts in batches of similar length, so that little is computed for padding."""

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from adaptive_moe.training.interruption import stop_if_cancelled

Item = TypeVar("Item")
Result = TypeVar("Result")

BATCH = 32


def in_batches(
    items: Sequence[Item],
    work: Callable[[list[Item]], Sequence[Result]],
    *,
    length: Callable[[Item], int],
) -> list[Result]:
    """What `work` gives for every item, in the items' order; it gets up to 32 at a time.

    Between any two batches a cancelled training stops.
    """
    results: dict[int, Result] = {}
    for indexes in _similar([length(item) for item in items]):
        stop_if_cancelled()
        found = work([items[index] for index in indexes])
        results.update(zip(indexes, found, strict=True))
    return [results[index] for index in range(len(items))]


def _similar(lengths: Sequence[int]) -> Iterator[list[int]]:
    order = sorted(range(len(lengths)), key=lambda index: (lengths[index], index))
    for start in range(0, len(order), BATCH):
        yield order[start : start + BATCH]
