"""The rank rows of one linear layer on its device, and the factors a mixture needs of them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from adaptive_moe.errors import ConfigurationError, UnsupportedModelError
from adaptive_moe.experts.ranges import RowRange, RowRanges
from adaptive_moe.experts.weights import LoraPair

Mixture = tuple[tuple[str, float], ...]
"""(expert_id, gate) pairs of one batch row; () is the base."""

Layout = tuple[tuple[tuple[int, int, float], ...], ...]
"""Per batch row the (start, stop, gate) of its ranges in one layer."""

_PADDED_RANKS = (8, 16, 32, 64, 128)


@dataclass(frozen=True, slots=True, eq=False)
class ModulePool:
    """Preallocated factors of one layer; an expert owns a range of rows in both, row 0 is zero."""

    a: Float[Tensor, "row in"]
    b: Float[Tensor, "row out"]
    ranges: RowRanges

    @classmethod
    @torch.inference_mode(False)
    def allocate(
        cls, *, rows: int, shape: tuple[int, int], dtype: torch.dtype, device: torch.device
    ) -> "ModulePool":
        """A pool for (in, out) features; rows nobody owns stay untouched and so cost no pages."""
        a = torch.empty(rows, shape[0], dtype=dtype, device=device)
        b = torch.empty(rows, shape[1], dtype=dtype, device=device)
        a[0].zero_()
        b[0].zero_()
        return cls(a, b, RowRanges(rows))

    def write(self, expert_id: str, pair: LoraPair, *, place: RowRange) -> None:
        """Copy an expert's factors into free rows."""
        self.a[place.start : place.stop].copy_(pair.a)
        self.b[place.start : place.stop].copy_(pair.b)
        self.ranges.take(expert_id, place)

    def compact(self) -> None:
        """Move the owned ranges together; no view of the pool may be in use.

        Ctrl-C on the way leaves every expert in one piece, where it was or where it belongs.
        """
        for expert_id, source, target in self.ranges.moves():
            a = self.a[source.start : source.stop].clone()
            b = self.b[source.start : source.stop].clone()
            try:
                self._move(expert_id, a, b, target)
            except KeyboardInterrupt:
                self._move(expert_id, a, b, target)
                raise

    def views(self, expert_id: str) -> LoraPair:
        """The expert's rows themselves, without a copy."""
        owned = self.ranges[expert_id]
        return LoraPair(self.a[owned.start : owned.stop], self.b[owned.start : owned.stop])

    def present(self, mixture: Mixture) -> Mixture:
        """The part of the mixture that has rank in this layer."""
        return tuple((expert_id, gate) for expert_id, gate in mixture if expert_id in self.ranges)

    def ranks(self, expert_ids: Sequence[str]) -> tuple[int, ...]:
        """Each expert's rank here, 0 where it has none."""
        return tuple(self.ranges[key].rank if key in self.ranges else 0 for key in expert_ids)

    def concatenated(self, mixture: Mixture) -> LoraPair:
        """The mixture as one pair, exactly: ranks stacked, gates folded into b."""
        pairs = [(self.views(expert_id), gate) for expert_id, gate in mixture]
        if len(pairs) == 1 and pairs[0][1] == 1.0:
            return pairs[0][0]
        scaled = [pair.b if gate == 1.0 else pair.b * gate for pair, gate in pairs]
        if len(pairs) == 1:
            return LoraPair(pairs[0][0].a, scaled[0])
        return LoraPair(torch.cat([pair.a for pair, _ in pairs]), torch.cat(scaled))

    def layout(self, mixtures: Sequence[Mixture]) -> Layout:
        """Where each batch row's experts lie; layers that agree share one index."""
        return tuple(
            tuple(
                (self.ranges[key].start, self.ranges[key].stop, gate)
                for key, gate in self.present(mixture)
            )
            for mixture in mixtures
        )

    def _move(self, expert_id: str, a: Tensor, b: Tensor, target: RowRange) -> None:
        """Write an expert's factors over its own rows or free ones; once more is fine."""
        self.a[target.start : target.stop] = a
        self.b[target.start : target.stop] = b
        self.ranges.move(expert_id, target)


def normalised(mixture: Mixture) -> Mixture:
    """Each expert once, in the order of ids, without those of gate 0."""
    gates: dict[str, float] = {}
    for expert_id, gate in mixture:
        if not math.isfinite(gate):
            raise ConfigurationError(f"the gate of expert {expert_id[:12]} is {gate}")
        gates[expert_id] = gates.get(expert_id, 0.0) + float(gate)
    return tuple((expert_id, gate) for expert_id, gate in sorted(gates.items()) if gate != 0.0)


def padded_index(
    layout: Layout, *, dtype: torch.dtype, device: torch.device, rank: int = 0
) -> tuple[Tensor, Float[Tensor, "batch rank 1"]]:
    """Pool rows [batch, rank] and their gates, padded with the zero row to one rank.

    That is `rank`, or if 0 the least padded one that holds them all.
    """
    rank = rank or padded_rank(max(sum(stop - start for start, stop, _ in row) for row in layout))
    index = torch.zeros(len(layout), rank, dtype=torch.long)
    gates = torch.ones(len(layout), rank, 1, dtype=dtype)
    for row, owned in enumerate(layout):
        filled = 0
        for start, stop, gate in owned:
            end = filled + stop - start
            index[row, filled:end] = torch.arange(start, stop)
            gates[row, filled:end] = gate
            filled = end
    return index.to(device), gates.to(device)


def padded_rank(rank: int) -> int:
    """The next of 8, 16, 32, 64, 128, then of the multiples of 128: few shapes to compile."""
    return next((size for size in _PADDED_RANKS if size >= rank), -(-rank // 128) * 128)


def device_of(module: nn.Module, name: str) -> torch.device:
    """Where the layer is; UnsupportedModelError where it is nowhere yet."""
    device = next(module.parameters()).device
    if device.type == "meta":
        raise UnsupportedModelError(
            f"{name} lies outside the device's memory; load all of it there"
        )
    return device
