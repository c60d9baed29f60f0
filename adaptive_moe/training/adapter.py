"""The trainable factors of one expert, built to a rank plan."""

import math
from collections.abc import Mapping, Sequence
from typing import final

import torch
from torch import Tensor, nn

from adaptive_moe.experts.weights import LoraPair, LoraWeights
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
