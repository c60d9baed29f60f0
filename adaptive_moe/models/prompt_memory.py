"""Remembers what the base has read, so that a conversation is not read from its beginning again."""

import threading
from collections.abc import Sequence
from typing import Any, cast, final

import numpy as np
from cachetools import LRUCache
from transformers.cache_utils import Cache

from adaptive_moe.models.growing_cache import can_be_cut, fork, new_cache, without_last
from adaptive_moe.models.language_model import LanguageModel

_LEAST_SHARED = 8  # tokens; a template's opening words alone are not worth a lookup


@final
class PromptMemory:
    """Key-values of token sequences that the base alone has read, one row each; thread safe.

    They are known by their content, the ids, and by nothing else. The longest unused leave when
    `capacity_bytes` are exceeded; what is larger than that is not kept.
    """

    def __init__(self, language_model: LanguageModel, *, capacity_bytes: int) -> None:
        self._can_be_cut = can_be_cut(new_cache(language_model))
        self._entries: LRUCache[tuple[int, ...], Cache] = LRUCache(
            max(1, capacity_bytes), getsizeof=_held_bytes
        )
        self._lock = threading.Lock()

    @property
    def used_bytes(self) -> int:
        """Bytes that the entries keep alive."""
        return int(self._entries.currsize)

    def keep(self, ids: Sequence[int], cache: Cache) -> None:
        """Remember what was read; `cache` holds one row and is left as it is.

        What it makes superfluous, shorter ones that it begins with, is forgotten.
        """
        key, entry = tuple(ids), fork(cache)
        if _held_bytes(entry) > self._entries.maxsize:
            return
        with self._lock:
            if self._can_be_cut:
                for other in [each for each in self._entries if key[: len(each)] == each]:
                    del self._entries[other]
            self._entries[key] = entry

    def longest(self, ids: Sequence[int]) -> tuple[Cache, int] | None:
        """A cache of the first so many of these ids, as many as anything here begins with.

        It is the caller's own. None where nothing of any length is shared.
        """
        wanted = np.asarray(ids)
        with self._lock:
            shared = {key: _shared(np.asarray(key), wanted) for key in self._entries}
            usable = [key for key in shared if self._can_be_cut or shared[key] == len(key)]
            key = max(usable, key=lambda each: shared[each], default=())
            if shared.get(key, 0) < _LEAST_SHARED:
                return None
            cache, unshared = self._entries[key], len(key) - shared[key]
            return (without_last(cache, unshared) if unshared else fork(cache)), shared[key]

    def clear(self) -> bool:
        """Forget everything; whether there was anything."""
        with self._lock:
            found = bool(self._entries)
            self._entries.clear()
            return found


def _shared(left: np.ndarray, right: np.ndarray) -> int:
    """How many of their first ids agree."""
    length = min(len(left), len(right))
    differ = np.flatnonzero(left[:length] != right[:length])
    return int(differ[0]) if len(differ) else length


def _held_bytes(cache: Cache) -> int:
    """Bytes of the storages that the layers' tensors keep alive."""
    storages = {}
    for layer in cast("list[Any]", cache.layers):
        for tensor in (layer.keys, layer.values):
            if tensor is not None:
                storage = tensor.untyped_storage()
                storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())
