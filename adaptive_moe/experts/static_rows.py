"""Rows of experts in places that never move, for code that was compiled around them.

A compiled pass holds on to the very functions that it was compiled with. So here a batch has a
forward of its own in every layer, of one rank for all, and switching experts fills the tensors that
it reads: shapes and functions stay, and nothing is compiled again. Layers in which an expert has no
rank are given zeros, so that all experts look alike.
"""

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from adaptive_moe.experts.forwards import Forward, rowwise
from adaptive_moe.experts.pool import Layout, Mixture, ModulePool, padded_index, padded_rank

_Size = tuple[int, int]  # batch and rank


@dataclass(frozen=True, slots=True, eq=False)
class _Factors:
    """One layer's gathered rows, gates folded into b."""

    a: Float[Tensor, "batch rank in"]
    b: Float[Tensor, "batch rank out"]


class _Place:
    """A layer's forward for one size, and the factors that it reads while that size has memory."""

    def __init__(self, original: Forward, around: object) -> None:
        self.factors: _Factors | None = None
        self.around = around  # the instance's own forward that this one calls, if any
        self.forward: Forward = partial(_forward, original, self)


@final
class StaticRows:
    """Factors by size of batch and rank; a size may lose its memory, but not its forwards.

    The sizes unused the longest lose theirs when all take more than `capacity_bytes` together. The
    one in use always has what it needs.
    """

    def __init__(self, capacity_bytes: int) -> None:
        self._capacity_bytes = capacity_bytes
        self._sizes: OrderedDict[_Size, dict[str, _Place]] = OrderedDict()

    @property
    def allocated_bytes(self) -> int:
        """Bytes of all factors."""
        return sum(_bytes(places) for places in self._sizes.values())

    def clear(self) -> None:
        """Give everything back, the forwards too."""
        self._sizes.clear()

    def forwards(
        self,
        mixtures: Sequence[Mixture],
        pools: Mapping[str, ModulePool],
        modules: Mapping[str, nn.Module],
        original: Callable[[str], Forward],
    ) -> dict[str, Forward]:
        """A forward for every layer, with these mixtures in its factors; none without experts."""
        if not any(mixtures):
            return {}
        layouts = {name: pool.layout(mixtures) for name, pool in pools.items()}
        batch, rank = len(mixtures), _common_rank(layouts)
        places = self._sizes.setdefault((batch, rank), {})
        self._sizes.move_to_end((batch, rank))
        for name in pools:
            around = modules[name].__dict__.get("forward")
            if name not in places or places[name].around is not around:
                places[name] = _Place(original(name), around)
        row_bytes = sum(pool.a[0].nbytes + pool.b[0].nbytes for pool in pools.values())
        self._make_room(batch * rank * row_bytes)
        _fill(places, pools, layouts, rank=rank)
        return {name: places[name].forward for name in pools}

    def _make_room(self, needed_bytes: int) -> None:
        *others, _latest = self._sizes.values()
        others_bytes = sum(_bytes(places) for places in others)
        for places in others:
            if others_bytes + needed_bytes <= self._capacity_bytes:
                return
            others_bytes -= _bytes(places)
            for place in places.values():
                place.factors = None


def _forward(original: Forward, place: _Place, hidden: Tensor) -> Tensor:
    factors = place.factors
    assert factors is not None, "only a size with memory is active"
    return rowwise(original, factors.a.transpose(1, 2), factors.b, hidden)


def _fill(
    places: Mapping[str, _Place],
    pools: Mapping[str, ModulePool],
    layouts: Mapping[str, Layout],
    *,
    rank: int,
) -> None:
    """Gather every layer's rows; layers that agree share one index."""
    indexes: dict[tuple[torch.device, Layout], tuple[Tensor, Tensor]] = {}
    for name, pool in pools.items():
        layout, device = layouts[name], pool.a.device
        if (device, layout) not in indexes:
            dtype = torch.promote_types(pool.a.dtype, torch.float32)
            indexes[device, layout] = padded_index(layout, dtype=dtype, device=device, rank=rank)
        index, gates = indexes[device, layout]
        factors = places[name].factors
        if factors is None:
            a, b = (rows.new_empty(*index.shape, rows.shape[1]) for rows in (pool.a, pool.b))
            places[name].factors = factors = _Factors(a, b)
        _gather(pool.a, index, out=factors.a)
        _gather(pool.b, index, out=factors.b)
        factors.b.mul_(gates)


def _gather(rows: Float[Tensor, "row width"], index: Tensor, *, out: Tensor) -> None:
    torch.index_select(rows, 0, index.flatten(), out=out.view(-1, rows.shape[1]))


def _common_rank(layouts: Mapping[str, Layout]) -> int:
    """The padded rank that holds every row of every layer."""
    return padded_rank(
        max(
            sum(stop - start for start, stop, _ in row)
            for layout in layouts.values()
            for row in layout
        )
    )


def _bytes(places: Mapping[str, _Place]) -> int:
    factors = (place.factors for place in places.values())
    return sum(each.a.nbytes + each.b.nbytes for each in factors if each is not None)
