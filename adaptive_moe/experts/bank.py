"""The LoRA bank: the experts that lie on the device, and the one place where they are switched on.

Every adaptable linear layer has one preallocated pool of rank rows. Loading an expert copies it
into its range of rows; the module tree is never touched. While a mixture is active, the layers
that have a part in it carry another `forward` as an instance attribute; afterwards the attribute
is gone, and the base is what it was, bit for bit and at no cost.
"""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from adaptive_moe.errors import (
    BankFullError,
    ConfigurationError,
    ExpertError,
    UnknownExpertError,
)
from adaptive_moe.experts.forwards import (
    Forward,
    gated_forward,
    plain_forward,
    rowwise_forward,
    shared_forward,
)
from adaptive_moe.experts.packed import differentiable_forward, may_be_packed
from adaptive_moe.experts.pool import (
    Layout,
    Mixture,
    ModulePool,
    device_of,
    normalised,
    padded_index,
)
from adaptive_moe.experts.static_rows import StaticRows
from adaptive_moe.experts.token_gates import token_gated_forward
from adaptive_moe.experts.weights import LoraStack, LoraWeights, check_fit
from adaptive_moe.models.linear_layers import LinearLayer

__all__ = ["LoraBank", "Mixture"]

Forwards = dict[str, Forward]
_NOBODY: frozenset[str] = frozenset()


@final
class LoraBank:
    """Experts on the device and the switch between them; thread safe, one activation at a time.

    `capacity_bytes` bounds the pools: rows = capacity // (sum of (in + out) over the layers x bytes
    of the dtype), and row 0 is spent on padding. The low-rank products are computed in `dtype`,
    whatever the base is stored in. Raises ConfigurationError when not one rank row would fit.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Sequence[LinearLayer],
        *,
        capacity_bytes: int,
        dtype: torch.dtype,
    ) -> None:
        row_bytes = sum(layer.in_features + layer.out_features for layer in layers) * dtype.itemsize
        rows = capacity_bytes // row_bytes if row_bytes else 0
        if rows < 2:  # noqa: PLR2004 - the zero row and one for an expert
            raise ConfigurationError(
                f"cache.device_bytes is {capacity_bytes}, but one rank over all {len(layers)} "
                f"layers takes {row_bytes} bytes; set it to at least {2 * row_bytes}"
            )
        self._layers = {layer.name: layer for layer in layers}
        self._modules = {layer.name: model.get_submodule(layer.name) for layer in layers}
        self._packed = [name for name, module in self._modules.items() if may_be_packed(module)]
        self._pools = {
            layer.name: ModulePool.allocate(
                rows=rows,
                shape=(layer.in_features, layer.out_features),
                dtype=dtype,
                device=device_of(self._modules[layer.name], layer.name),
            )
            for layer in layers
        }
        self._capacity_bytes, self._dtype = capacity_bytes, dtype
        self._gate_dtype = torch.promote_types(dtype, torch.float32)
        self._static = StaticRows(capacity_bytes)
        self._sizes: dict[str, int] = {}
        self._rebound: list[tuple[nn.Module, Forward | None]] = []
        self._active = _NOBODY
        self._owner: int | None = None
        self._switch = threading.Lock()  # held while anything is active
        self._state = threading.RLock()  # held while the allocation is read or changed

    @property
    def resident(self) -> Mapping[str, int]:
        """Expert id to bytes of the experts on the device."""
        with self._state:
            return dict(self._sizes)

    @property
    def capacity_bytes(self) -> int:
        """The bound the bank was made with."""
        return self._capacity_bytes

    @property
    def used_bytes(self) -> int:
        """Bytes of the rows that experts own."""
        with self._state:
            return sum(self._sizes.values())

    @property
    def allocated_bytes(self) -> int:
        """Bytes of all pools, rows x (in + out) x bytes of the dtype, and of static rows."""
        pools = sum(pool.a.nbytes + pool.b.nbytes for pool in self._pools.values())
        return pools + self._static.allocated_bytes

    def weights(self, expert_id: str) -> LoraWeights:
        """The factors of a resident expert, without a copy: read them before anything else moves.

        Raises UnknownExpertError for an expert that is not resident.
        """
        with self._state:
            self._check_resident([expert_id])
            mixture = ((expert_id, 1.0),)
            return {
                name: pool.views(expert_id)
                for name, pool in self._pools.items()
                if pool.present(mixture)
            }

    def load(self, expert_id: str, weights: LoraWeights) -> None:
        """Copy an expert into the pools, all of it or nothing.

        Gaps are closed when no gap is long enough; that waits for a running activation to end.
        Raises BankFullError when there are not enough rows, AdapterFormatError for modules this
        model does not have or factors of another shape, ExpertError when the id is already there.
        """
        check_fit(weights, self._layers)
        with self._state:
            if self._place(expert_id, weights):
                return
        if self._owner == threading.get_ident():
            raise BankFullError(
                f"expert {expert_id[:12]} fits only after the gaps are closed, which has to wait "
                "for the end of this thread's running answer"
            )
        with self._exclusive(), self._state:
            for pool in self._pools.values():
                pool.compact()
            if not self._place(expert_id, weights):
                raise BankFullError(f"no room for expert {expert_id[:12]}")

    def evict(self, expert_id: str) -> None:
        """Free the expert's rows; one that is not there is fine. Waits while it is active."""
        with self._state:
            if expert_id not in self._active:
                self._release(expert_id)
                return
        with self._exclusive(), self._state:
            self._release(expert_id)

    def activate(
        self, rows: Sequence[Mixture], *, static: bool = False
    ) -> AbstractContextManager[None]:
        """One mixture per batch row, () for the base; idle again on exit, whatever happens.

        Every forward pass of the base, bare ones too, belongs inside an activation when several
        threads share the model. A second one waits for the first; inside the same thread it is
        refused with ExpertError. Raises UnknownExpertError for an expert that is not resident.
        `static` puts the experts where compiled code expects them; see `static_rows`.
        """
        return self._activated(lambda: self._plan_static(rows) if static else self._plan_rows(rows))

    def activate_by_token(
        self, rows: Sequence[Mixture], *, leader: int | None = None
    ) -> AbstractContextManager[None]:
        """`activate` with gates that every token and layer find for themselves; see `token_gates`.

        With a `leader`, all rows are gated by that row's states, and hold some of its experts.
        """
        return self._activated(lambda: self._plan_by_token(rows, leader))

    def activate_shared(
        self,
        expert_ids: Sequence[str],
        gates: Float[Tensor, "batch expert"] | Float[Tensor, "batch time expert"],
    ) -> AbstractContextManager[None]:
        """The same experts for all rows, with gates per row or per token of the coming passes."""
        return self._activated(lambda: self._plan_shared(expert_ids, gates))

    def activate_weights(self, weights: LoraWeights) -> AbstractContextManager[None]:
        """Weights outside the pools for all rows; gradients flow to them and to the input.

        Without weights this is the base, with gradients to its input whatever it is stored in.
        """
        return self._activated(lambda: self._plan_weights(weights, shared_forward))

    def activate_stack(self, stack: Mapping[str, LoraStack]) -> AbstractContextManager[None]:
        """`activate_weights`, other ones for every row of the coming passes."""
        return self._activated(lambda: self._plan_weights(stack, rowwise_forward))

    def close(self) -> None:
        """Free the pools; the model is as it was, and the bank refuses further experts."""
        with self._exclusive(), self._state:
            self._pools.clear()
            self._static.clear()
            self._modules.clear()
            self._packed.clear()
            self._layers.clear()
            self._sizes.clear()

    @torch.inference_mode(False)
    @torch.no_grad()
    def _place(self, expert_id: str, weights: LoraWeights) -> bool:
        """True once the expert is in place, False when only compaction could make room."""
        if expert_id in self._sizes:
            raise ExpertError(f"expert {expert_id[:12]} is already in the bank; evict it first")
        for name, pair in weights.items():
            if self._pools[name].ranges.free_rows < pair.rank:
                raise BankFullError(
                    f"{name} has {self._pools[name].ranges.free_rows} free rank rows, the expert "
                    f"needs {pair.rank}; evict an expert or raise cache.device_bytes"
                )
        places = {name: self._pools[name].ranges.find(pair.rank) for name, pair in weights.items()}
        if None in places.values():
            return False
        try:
            for name, place in places.items():
                assert place is not None
                self._pools[name].write(expert_id, weights[name], place=place)
        except BaseException:
            self._release(expert_id)
            raise
        self._sizes[expert_id] = self._dtype.itemsize * sum(
            pair.rank * (self._layers[name].in_features + self._layers[name].out_features)
            for name, pair in weights.items()
        )
        return True

    def _release(self, expert_id: str) -> None:
        for pool in self._pools.values():
            pool.ranges.release(expert_id)
        self._sizes.pop(expert_id, None)

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        if self._owner == threading.get_ident():
            raise ExpertError(
                "experts are already active in this thread; finish or close the running answer "
                "before the next one"
            )
        with self._switch:
            self._owner = threading.get_ident()
            try:
                yield
            finally:
                self._owner = None

    @contextmanager
    def _activated(self, plan: Callable[[], Forwards]) -> Iterator[None]:
        with self._exclusive():
            try:
                self._restore()  # what a second Ctrl-C, while the first was handled, left behind
                with self._state, torch.inference_mode(False):
                    forwards = plan()
                for name, forward in forwards.items():
                    self._rebind(self._modules[name], forward)
                yield
            finally:
                try:
                    self._restore()
                except KeyboardInterrupt:
                    self._restore()
                    raise
                finally:
                    self._active = _NOBODY

    def _rebind(self, module: nn.Module, forward: Forward) -> None:
        self._rebound.append((module, module.__dict__.get("forward")))
        module.__dict__["forward"] = forward

    def _restore(self) -> None:
        """Give every layer its own forward back, even if Ctrl-C arrives while we do."""
        interrupted: KeyboardInterrupt | None = None
        while self._rebound:
            try:
                module, previous = self._rebound[-1]
                if previous is None:
                    module.__dict__.pop("forward", None)
                else:
                    module.__dict__["forward"] = previous
                self._rebound.pop()
            except KeyboardInterrupt as error:
                interrupted = error
        if interrupted is not None:
            raise interrupted

    def _use(self, expert_ids: Sequence[str]) -> None:
        self._check_resident(expert_ids)
        self._active = frozenset(expert_ids)

    def _check_resident(self, expert_ids: Sequence[str]) -> None:
        missing = [expert_id for expert_id in expert_ids if expert_id not in self._sizes]
        if missing:
            raise UnknownExpertError(f"expert {missing[0][:12]} is not in the bank; load it first")

    def _plan_rows(self, rows: Sequence[Mixture]) -> Forwards:
        mixtures = [normalised(row) for row in rows]
        chosen = [tuple(expert_id for expert_id, _ in mixture) for mixture in mixtures]
        self._use(sorted({expert_id for row in chosen for expert_id in row}))
        if len(set(mixtures)) <= 1:
            return self._plan_uniform(mixtures[0] if mixtures else ())
        if len(set(chosen)) == 1:
            gates = torch.tensor(
                [[gate for _, gate in mixture] for mixture in mixtures], dtype=self._gate_dtype
            )
            return self._plan_gated(chosen[0], gates.unsqueeze(1))
        return self._plan_rowwise(mixtures)

    def _plan_static(self, rows: Sequence[Mixture]) -> Forwards:
        mixtures = [normalised(row) for row in rows]
        self._use(sorted({expert_id for mixture in mixtures for expert_id, _ in mixture}))
        return self._static.forwards(mixtures, self._pools, self._modules, self._original)

    def _plan_shared(self, expert_ids: Sequence[str], gates: Tensor) -> Forwards:
        if gates.shape[-1] != len(expert_ids) or len(set(expert_ids)) != len(expert_ids):
            raise ConfigurationError(
                f"{gates.shape[-1]} gates for the experts {list(expert_ids)}; give each expert once"
            )
        self._use(expert_ids)
        per_row = 2  # [batch, expert]
        return self._plan_gated(expert_ids, gates.unsqueeze(1) if gates.ndim == per_row else gates)

    def _plan_uniform(self, mixture: Mixture) -> Forwards:
        forwards: Forwards = {}
        for name, pool in self._pools.items():
            if present := pool.present(mixture):
                pair = pool.concatenated(present)
                forwards[name] = shared_forward(self._original(name), pair.a, pair.b)
        return forwards

    def _plan_gated(
        self, expert_ids: Sequence[str], gates: Float[Tensor, "batch time expert"]
    ) -> Forwards:
        spread: dict[tuple[torch.device, tuple[int, ...]], Tensor] = {}
        forwards: Forwards = {}
        for name, pool in self._pools.items():
            ranks = pool.ranks(expert_ids)
            if not any(ranks):
                continue
            key = (pool.a.device, ranks)
            if key not in spread:
                columns = torch.tensor([i for i, rank in enumerate(ranks) for _ in range(rank)])
                own = gates.index_select(-1, columns.to(gates.device))
                spread[key] = own.to(pool.a.device, self._gate_dtype)
            pair = pool.concatenated(pool.present(tuple((key, 1.0) for key in expert_ids)))
            forwards[name] = gated_forward(self._original(name), pair.a, pair.b, spread[key])
        return forwards

    def _plan_by_token(self, rows: Sequence[Mixture], leader: int | None) -> Forwards:
        mixtures = [normalised(row) for row in rows]
        self._use(sorted({expert_id for mixture in mixtures for expert_id, _ in mixture}))
        planned = {
            name: token_gated_forward(self._original(name), pool, mixtures, leader=leader)
            for name, pool in self._pools.items()
        }
        return {name: forward for name, forward in planned.items() if forward is not None}

    def _plan_weights(
        self,
        weights: LoraWeights | Mapping[str, LoraStack],
        forward: Callable[[Forward, Tensor, Tensor], Forward],
    ) -> Forwards:
        check_fit(weights, self._layers)
        base = {name: self._original(name) for name in {*self._packed, *weights}}
        return base | {name: forward(base[name], pair.a, pair.b) for name, pair in weights.items()}

    def _plan_rowwise(self, mixtures: Sequence[Mixture]) -> Forwards:
        indexes: dict[tuple[torch.device, Layout], tuple[Tensor, Tensor]] = {}
        forwards: Forwards = {}
        for name, pool in self._pools.items():
            layout = pool.layout(mixtures)
            if not any(layout):
                continue
            key = (pool.a.device, layout)
            if key not in indexes:
                indexes[key] = padded_index(layout, dtype=self._gate_dtype, device=pool.a.device)
            index, gates = indexes[key]
            a, b = pool.a[index], pool.b[index].mul_(gates)
            forwards[name] = rowwise_forward(self._original(name), a, b)
        return forwards

    def _original(self, name: str) -> Forward:
        """The layer's forward as the bank finds it, a hooked one included."""
        module = self._modules[name]
        return differentiable_forward(module) if name in self._packed else plain_forward(module)
