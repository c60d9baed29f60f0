"""Takes a few of many without chance."""

from collections.abc import Sequence
from typing import TypeVar

Item = TypeVar("Item")


def evenly(items: Sequence[Item], count: int) -> list[Item]:
    """At most `count` of the items, evenly spread over the sequence and in its order."""
    if len(items) <= count:
        return list(items)
    return [items[index * len(items) // count] for index in range(count)]
