"""How long an expert takes from RAM into the bank, few or many of them known; peers beside it."""

from collections.abc import Iterator
from itertools import cycle

from adaptive_moe.experiments.figures import Figure
from adaptive_moe.experiments.interleaved import milliseconds, paired_ratio, timing, wall_clock
from adaptive_moe.experiments.peer_loading import ROW, peer_figures
from adaptive_moe.experiments.plan import Plan
from adaptive_moe.experiments.processes import resident_bytes_now
from adaptive_moe.experiments.workload import bank_with, random_experts
from adaptive_moe.experts.cache import ExpertCache
from adaptive_moe.experts.weights import LoraWeights
from adaptive_moe.models.language_model import LanguageModel

_FEW, _MANY = 4, 1000
_DISTINCT = 64  # sets of weights behind the many names: more than a processor's cache holds
_ON_DEVICE = 2
_ENDLESS_BYTES = 1 << 50
_FLAT = 1.2
_MIB = 1 << 20


def figures(language_model: LanguageModel, plan: Plan, *, title: str) -> Iterator[Figure]:
    """Loads by turns among few and among many known experts, with an eviction each."""
    names = [f"expert-{number}" for number in range(_DISTINCT)]
    library = random_experts(language_model, rank=plan.rank, seed=plan.seed, names=names)
    few = _Loader(language_model, library, known=_FEW)
    many = _Loader(language_model, library, known=_MANY)
    clock = wall_clock(language_model.device)
    for _ in range(_MANY):
        many.load_next()
    loads = 50 if plan.quick else 500
    pairs = [(clock(few.load_next), clock(many.load_next)) for _ in range(loads)]
    of_few, of_many = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    for known, seconds in ((_FEW, of_few), (_MANY, of_many)):
        median = milliseconds(seconds)
        yield timing(ROW, f"{known:,} experts known", title, median, rounds=loads, target=1.0)
    flat = paired_ratio(of_many, of_few)
    name = f"{_MANY:,} known against {_FEW}"
    yield timing(ROW, name, title, flat, rounds=loads, unit="x", target=_FLAT)
    before = resident_bytes_now()
    for _ in range(_MANY):
        many.load_next()
    after = resident_bytes_now()
    if before is not None and after is not None:
        yield Figure(
            ROW,
            f"growth of the process over {_MANY:,} loads and evictions",
            title,
            (after - before) / _MIB,
            unit="MiB",
            is_timed=False,
        )
    few.close()
    many.close()
    yield from peer_figures(language_model, plan, title=title)


class _Loader:
    """A cache over a bank for two experts, all others in RAM, asked for one after another."""

    def __init__(
        self, language_model: LanguageModel, library: dict[str, LoraWeights], *, known: int
    ) -> None:
        weights = list(library.values())
        held = dict(list(library.items())[:_ON_DEVICE])
        self._bank = bank_with(language_model, held)
        for name in held:
            self._bank.evict(name)
        by_id = {f"{number:064}": weights[number % len(weights)] for number in range(known)}
        self._cache = ExpertCache(
            self._bank, by_id.__getitem__, device_experts=_ON_DEVICE, host_bytes=_ENDLESS_BYTES
        )
        self._next = cycle(by_id)
        for _ in range(_FEW):
            self.load_next()

    def load_next(self) -> None:
        """Bring the expert that has waited longest; the one before the last leaves."""
        with self._cache.hold([next(self._next)]):
            pass

    def close(self) -> None:
        self._bank.close()
