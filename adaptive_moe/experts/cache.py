"""Keeps the right experts on the device: LoRA bank <- RAM <- disk, the longest unused leave."""

import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import final

from cachetools import LRUCache

from adaptive_moe.errors import BankFullError
from adaptive_moe.experts.bank import LoraBank
from adaptive_moe.experts.weights import LoraWeights, weights_bytes


@dataclass(frozen=True, slots=True)
class CacheStatistics:
    """Since the cache was made: a hit was on the device already, a miss had to be copied there.

    `prefetched` counts the experts that were read into RAM before anybody asked for them.
    """

    hits: int
    misses: int
    evictions: int
    device_bytes: int
    host_bytes: int
    device_experts: int
    prefetched: int


@final
class ExpertCache:
    """Two tiers of experts by content id, both bounded, both least recently used; thread safe.

    The device tier holds at most `device_experts` experts within the bank's bytes, the host tier
    at most `host_bytes`. Experts in use, and pinned ones, never leave the device.
    """

    def __init__(
        self,
        bank: LoraBank,
        read: Callable[[str], LoraWeights],
        *,
        device_experts: int,
        host_bytes: int,
    ) -> None:
        self._bank, self._read, self._device_experts = bank, read, device_experts
        self._host: LRUCache[str, LoraWeights] = LRUCache(host_bytes, getsizeof=weights_bytes)
        self._recency: OrderedDict[str, None] = OrderedDict()  # on the device, oldest use first
        self._users: dict[str, set[object]] = {}
        self._pinned: set[str] = set()
        self._gone: deque[tuple[str, str | None]] = deque()  # to be dropped, with their successors
        self._dropped: set[str] = set()  # the same, once their last user is done
        self._hits = self._misses = self._evictions = self._prefetched = 0
        self._lock = threading.RLock()

    @contextmanager
    def hold(self, expert_ids: Iterable[str]) -> Iterator[None]:
        """On the device and in use inside the block; BankFullError if they cannot all be."""
        wanted, user = tuple(dict.fromkeys(expert_ids)), object()
        try:
            with self._lock:
                self._forget_gone()
                for expert_id in wanted:
                    self._users.setdefault(expert_id, set()).add(user)
                self._bring(wanted)
            yield
        finally:
            try:
                self._let_go(wanted, user)
            except KeyboardInterrupt:
                self._let_go(wanted, user)
                raise

    def prefetch(self, expert_id: str) -> None:
        """Read an expert into RAM, from where it is a copy away; nobody waits for the disk.

        One that is there, or larger than the tier, is left alone. Raises what reading raises.
        """
        with self._lock:
            if expert_id in self._recency or expert_id in self._host:
                return
        weights = self._read(expert_id)
        with self._lock:
            if self._kept(expert_id, weights):
                self._prefetched += 1

    def pin(self, expert_id: str) -> None:
        """Keep an expert on the device until `unpin`; it is brought there now."""
        with self.hold([expert_id]), self._lock:
            self._pinned.add(expert_id)

    def unpin(self, expert_id: str) -> None:
        """Let an expert be evicted again; one that is not pinned is fine."""
        with self._lock:
            self._pinned.discard(expert_id)

    def drop(self, expert_id: str, successor: str | None = None) -> None:
        """Forget an expert in both tiers, at the latest when its last user is done.

        Its pin goes over to the successor, if it has one.
        Never waits: a thread that is at work on the tiers does it when it is through.
        """
        self._gone.append((expert_id, successor))
        if self._lock.acquire(blocking=False):
            try:
                self._forget_gone()
            finally:
                self._lock.release()

    def evict_idle(self) -> bool:
        """Give back what experts not in use occupy, for want of memory; false if nothing did.

        Their copies in RAM are freed, and their rows in the bank, whose pools stay allocated.
        Pinned experts keep their rows.
        """
        with self._lock:
            idle = self._evictable()
            found = bool(idle) or bool(self._host)
            self._host.clear()
            for expert_id in idle:
                self._remove(expert_id)
            self._evictions += len(idle)
            return found

    def statistics(self) -> CacheStatistics:
        """Counts and bytes at this moment."""
        with self._lock:
            return CacheStatistics(
                hits=self._hits,
                misses=self._misses,
                evictions=self._evictions,
                device_bytes=self._bank.used_bytes,
                host_bytes=int(self._host.currsize),
                device_experts=len(self._recency),
                prefetched=self._prefetched,
            )

    def _forget_gone(self) -> None:
        while self._gone:
            expert_id, successor = self._gone[0]
            if successor is not None and expert_id in self._pinned:
                self._pinned.add(successor)
            self._pinned.discard(expert_id)
            self._host.pop(expert_id, None)
            if self._users.get(expert_id):
                self._dropped.add(expert_id)
            else:
                self._remove(expert_id)
            self._gone.popleft()  # last, so that Ctrl-C on the way loses none

    def _bring(self, expert_ids: Iterable[str]) -> None:
        try:
            for expert_id in expert_ids:
                self._bring_one(expert_id)
        except KeyboardInterrupt:
            self._host.clear()  # its books may have been left in the middle of an entry
            raise

    def _bring_one(self, expert_id: str) -> None:
        if expert_id in self._recency:
            self._hits += 1
            self._recency.move_to_end(expert_id)
            return
        weights = self._from_host(expert_id)
        while len(self._recency) >= self._device_experts:
            self._evict_oldest(expert_id)
        while not self._loaded(expert_id, weights):
            self._evict_oldest(expert_id)
        self._misses += 1

    def _from_host(self, expert_id: str) -> LoraWeights:
        weights = self._host.get(expert_id)
        if weights is None:
            weights = self._read(expert_id)
            self._kept(expert_id, weights)
        return weights

    def _kept(self, expert_id: str, weights: LoraWeights) -> bool:
        """Keep a copy in RAM, if the tier is large enough for one."""
        if weights_bytes(weights) > self._host.maxsize:
            return False
        self._host[expert_id] = weights
        return True

    def _loaded(self, expert_id: str, weights: LoraWeights) -> bool:
        try:
            self._bank.load(expert_id, weights)
            self._recency[expert_id] = None
        except BankFullError:
            if not self._recency:
                raise
            return False
        except KeyboardInterrupt:  # it may be there, or half of it
            self._recency[expert_id] = None
            self._remove(expert_id)
            raise
        return True

    def _evictable(self) -> list[str]:
        return [
            key for key in self._recency if not self._users.get(key) and key not in self._pinned
        ]

    def _evict_oldest(self, newcomer: str) -> None:
        candidates = self._evictable()
        if not candidates:
            raise BankFullError(
                f"no room for expert {newcomer[:12]}: all {len(self._recency)} experts on the "
                "device are in use or pinned; raise cache.device_experts or cache.device_bytes"
            )
        self._remove(candidates[0])
        self._evictions += 1

    def _remove(self, expert_id: str) -> None:
        """Free its rows, all of them even if Ctrl-C arrives on the way."""
        if expert_id not in self._recency:
            return
        try:
            self._bank.evict(expert_id)
        except KeyboardInterrupt:
            self._bank.evict(expert_id)
            del self._recency[expert_id]
            raise
        del self._recency[expert_id]

    def _let_go(self, expert_ids: Iterable[str], user: object) -> None:
        """End a use; once more is fine."""
        with self._lock:
            for expert_id in expert_ids:
                users = self._users.get(expert_id, set())
                users.discard(user)
                if not users:
                    self._users.pop(expert_id, None)
                    if expert_id in self._dropped:
                        self._remove(expert_id)
                        self._dropped.discard(expert_id)
            self._forget_gone()
