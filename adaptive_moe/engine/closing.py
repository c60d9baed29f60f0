"""A runtime that was closed says so at every door, instead of failing somewhere behind it."""

from typing import TYPE_CHECKING

from adaptive_moe.errors import ClosedError

# What closing leaves whole: the model stays loaded, and the rest are plain values.
_STAYING = frozenset({"close", "language_model", "session", "settings"})


class Closable:
    """Base of a class whose `close` sets `_is_closed`: then its public names raise ClosedError."""

    _is_closed = False

    if not TYPE_CHECKING:  # for a type checker it would let any name pass

        def __getattribute__(self, name: str) -> object:
            if not name.startswith("_") and name not in _STAYING and self._is_closed:
                raise ClosedError("this runtime is closed; open a new one")
            return object.__getattribute__(self, name)
