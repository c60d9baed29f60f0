"""The trainable factors of an expert, built to a rank plan, and those of several in one piece."""

import math
from collections.abc import Mapping, Sequence
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from adaptive_moe.experts.weights import LoraPair, LoraStack, LoraWeights
from adaptive_moe.models.linear_layers import LinearLayer
from adaptive_moe.training.ranks import RankPlan, check_built


@final
class Adapter:
    """A and B of every planned module in float32, the scaling kept apart from B.

    A starts uniform within 1/sqrt(in), as PEFT draws it, and B at zero, so that the adapter first
    changes nothing (Hu et al. 2021, section 4.1). The plan is read back from the tensors.
    """

    def __init__(
        self,
        plan: RankPlan,
        layers: Sequence[LinearLayer],
        *,
        seed: int,
        device: torch.device,
    ) -> None:
        generator = torch.Generator().manual_seed(seed)
        self._scaling = dict(plan.scaling)
        self._a: dict[str, nn.Parameter] = {}
        self._b: dict[str, nn.Parameter] = {}
        for layer in layers:
            rank = plan.ranks.get(layer.name, 0)
            if rank:
                a = torch.empty(rank, layer.in_features)
                nn.init.kaiming_uniform_(a, a=math.sqrt(5), generator=generator)
                self._a[layer.name] = nn.Parameter(a.to(device))
                b = torch.zeros(rank, layer.out_features, device=device)
                self._b[layer.name] = nn.Parameter(b)
        check_built(plan, self.weights())

    @property
    def parameters(self) -> list[nn.Parameter]:
        """All factors in a fixed order."""
        return [parameter for name in self._a for parameter in (self._a[name], self._b[name])]

    @property
    def factors(self) -> Mapping[str, tuple[nn.Parameter, nn.Parameter]]:
        """A and B of every module as they are trained, without the scaling."""
        return {name: (self._a[name], self._b[name]) for name in self._a}

    @property
    def scaling(self) -> Mapping[str, float]:
        """What B counts for, by module."""
        return self._scaling

    def weights(self) -> LoraWeights:
        """The factors as the bank takes them; gradients flow back to the parameters."""
        return {
            name: LoraPair(self._a[name], self._b[name] * self._scaling[name]) for name in self._a
        }

    def tensors(self) -> dict[str, Tensor]:
        """Copies of all factors, named, on the CPU."""
        named = {}
        for name in self._a:
            named[f"a.{name}"] = self._a[name].detach().cpu().clone()
            named[f"b.{name}"] = self._b[name].detach().cpu().clone()
        return named

    @torch.no_grad()
    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over what `tensors` returned earlier."""
        for name in self._a:
            self._a[name].copy_(tensors[f"a.{name}"])
            self._b[name].copy_(tensors[f"b.{name}"])


@final
class AdapterStack:
    """The factors of several adapters, slot by slot, in one tensor for every module's A and B.

    From here on the adapters' factors are parts of these: what is done to the ones shows in the
    others. Lesser ranks are filled up with zeros, and stay so: where A and B both are zero, so are
    their gradients.
    """

    def __init__(self, adapters: Sequence[Adapter]) -> None:
        self._slots = [adapter.factors for adapter in adapters]
        names = dict.fromkeys(name for factors in self._slots for name in factors)
        self._a = {name: self._joined(name, 0) for name in names}
        self._b = {name: self._joined(name, 1) for name in names}
        self._scaling: dict[str, Float[Tensor, "slot 1 1"]] = {
            name: b.new_tensor([each.scaling.get(name, 0.0) for each in adapters])[:, None, None]
            for name, b in self._b.items()
        }

    def weights(self, slots: Sequence[int]) -> dict[str, LoraStack]:
        """The factors of these slots as the bank takes them; gradients flow back to here."""
        if list(slots) == list(range(len(self._slots))):
            return {
                name: LoraStack(a, self._b[name] * self._scaling[name])
                for name, a in self._a.items()
            }
        chosen = torch.tensor(slots, device=next(iter(self._a.values())).device)
        return {
            name: LoraStack(
                a.index_select(0, chosen),
                self._b[name].index_select(0, chosen) * self._scaling[name].index_select(0, chosen),
            )
            for name, a in self._a.items()
        }

    def hand_out_gradients(self, slots: Sequence[int]) -> None:
        """Give the adapters of these slots the gradients of their factors, and keep none."""
        for slot in slots:
            for name, pair in self._slots[slot].items():
                for whole, own in zip((self._a[name], self._b[name]), pair, strict=True):
                    own.grad = None if whole.grad is None else whole.grad[slot, : len(own)]
        for whole in (*self._a.values(), *self._b.values()):
            whole.grad = None

    @torch.no_grad()
    def _joined(self, name: str, side: int) -> Tensor:
        owned = {
            slot: factors[name][side] for slot, factors in enumerate(self._slots) if name in factors
        }
        ranks, (_, width) = map(len, owned.values()), next(iter(owned.values())).shape
        joined = next(iter(owned.values())).new_zeros(len(self._slots), max(ranks), width)
        for slot, own in owned.items():
            own.data = joined[slot, : len(own)].copy_(own)
        return joined.requires_grad_()
