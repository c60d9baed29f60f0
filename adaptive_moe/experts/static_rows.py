"""Rows of experts in places that never move, for code that was compiled around them.

A compiled pass holds on to the very tensors and functions it was compiled with. So here a batch
has buffers of its own in every layer, of one rank for all, and switching experts fills them anew:
shapes, addresses and functions stay, and nothing is compiled again. Layers in which an expert has
no rank are given zeros, so that all experts look alike.
"""

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from adaptive_moe.experts.forwards import Forward, rowwise_forward
from adaptive_moe.experts.pool import Mixture, ModulePool, padded_index, padded_rank

_KEPT = 4  # sizes of batch and rank


@dataclass(frozen=True, slots=True, eq=False)
class _Place:
    """One layer's buffers, the forward that reads them, and the one that it was made around."""

    a: Float[Tensor, "batch rank in"]
    b: Float[Tensor, "batch rank out"]
    forward: Forward
    around: object


@final
class StaticRows:
    """Buffers by size of batch and rank; those that were unused the longest are given back."""

    def __init__(self) -> None:
        self._sizes: OrderedDict[tuple[int, int], dict[str, _Place]] = OrderedDict()

    @property
    def allocated_bytes(self) -> int:
        """Bytes of all buffers."""
        return sum(
            place.a.nbytes + place.b.nbytes
            for places in self._sizes.values()
            for place in places.values()
        )

    def clear(self) -> None:
        """Give everything back."""
        self._sizes.clear()

    def forwards(
        self,
        mixtures: Sequence[Mixture],
        pools: Mapping[str, ModulePool],
        modules: Mapping[str, nn.Module],
        original: Callable[[str], Forward],
    ) -> dict[str, Forward]:
        """A forward for every layer, with these mixtures in its buffers; none without experts."""
        if not any(mixtures):
            return {}
        layouts = {name: pool.layout(mixtures) for name, pool in pools.items()}
        rank = padded_rank(
            max(
                sum(stop - start for start, stop, _ in row)
                for layout in layouts.values()
                for row in layout
            )
        )
        places = self._sizes.pop((len(mixtures), rank), {})
        self._sizes[len(mixtures), rank] = places
        while len(self._sizes) > _KEPT:
            self._sizes.popitem(last=False)
        for name, pool in pools.items():
            around = modules[name].__dict__.get("forward")
            if name not in places or places[name].around is not around:
                places[name] = _placed(pool, len(mixtures), rank, original(name), around)
            dtype = torch.promote_types(pool.a.dtype, torch.float32)
            index, gates = padded_index(layouts[name], dtype=dtype, device=pool.a.device, rank=rank)
            _gather(pool.a, index, out=places[name].a)
            _gather(pool.b, index, out=places[name].b)
            places[name].b.mul_(gates)
        return {name: place.forward for name, place in places.items()}


def _placed(pool: ModulePool, batch: int, rank: int, original: Forward, around: object) -> _Place:
    a = pool.a.new_empty(batch, rank, pool.a.shape[1])
    b = pool.b.new_empty(batch, rank, pool.b.shape[1])
    return _Place(a, b, rowwise_forward(original, a, b), around)


def _gather(rows: Float[Tensor, "row width"], index: Tensor, *, out: Tensor) -> None:
    torch.index_select(rows, 0, index.flatten(), out=out.view(-1, rows.shape[1]))
