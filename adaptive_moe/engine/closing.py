"""A runtime that was closed says so at every door, instead of failing somewhere behind it."""

from abc import ABC, abstractmethod
from types import TracebackType
from typing import TYPE_CHECKING, TypeVar

from adaptive_moe.errors import ClosedError

# What closing leaves whole: the model stays loaded, and the rest are plain values.
_STAYING = frozenset({"close", "language_model", "session", "settings"})

_Self = TypeVar("_Self", bound="Closable")


class Closable(ABC):
    """Base of a class whose `close` sets `_is_closed`: then its public names raise ClosedError.

    `with` closes it.
    """

    _is_closed = False

    @abstractmethod
    def close(self) -> None:
        """Release everything; once more is fine."""

    def __enter__(self: _Self) -> _Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    if not TYPE_CHECKING:  # for a type checker it would let any name pass

        def __getattribute__(self, name: str) -> object:
            if not name.startswith("_") and name not in _STAYING and self._is_closed:
                raise ClosedError("this runtime is closed; open a new one")
            return object.__getattribute__(self, name)
