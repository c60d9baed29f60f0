"""Muon for the factors of an adapter: every step turns all directions of a gradient alike."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim import Optimizer

_RMS = 0.2  # of a step's entries at rate 1, about that of Adam's
_DAMPING = 1e-4  # of the squared norm; weaker directions are noise and stay weak


@final
class Muon(Optimizer):
    """Momentum, of which the nearest matrix with orthonormal rows is taken (Jordan et al. 2024).

    A factor has few rows, so that matrix comes from its Gram matrix, (G G')^-1/2 G, exactly but
    for a damping, and for all factors of one shape in a single batch; the usual Newton-Schulz
    iteration approximates it, one parameter at a time. Steps are scaled to the size of Adam's, so
    that rates mean the same (Liu et al. 2025, "Muon is Scalable for LLM Training", section 2.2).
    `weight_decay` is decoupled. Parameters are matrices; one without a gradient is left alone.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        *,
        lr: float,
        weight_decay: float = 0.0,
        momentum: float = 0.9,
    ) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # noqa: ANN401  as torch has it
        """One step along the gradients that are there; the loss where a closure computes it."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            rate, decay = group["lr"], group["weight_decay"]
            for parameters in _of_one_shape(group["params"]):
                ahead = self._look_ahead(parameters, group["momentum"])
                directions = _orthonormal(torch.stack(ahead)).unbind()
                size = rate * _RMS * math.sqrt(max(parameters[0].shape))
                if decay:
                    torch._foreach_mul_(parameters, 1 - rate * decay)
                torch._foreach_add_(parameters, directions, alpha=-size)
        return loss

    def _look_ahead(self, parameters: list[Tensor], momentum: float) -> list[Tensor]:
        """Nesterov's: the gradients and the momenta that they have just become a part of."""
        for each in parameters:
            if "momentum" not in self.state[each]:
                self.state[each]["momentum"] = torch.zeros_like(each)
        gradients = [each.grad for each in parameters if each.grad is not None]
        momenta = [self.state[each]["momentum"] for each in parameters]
        torch._foreach_mul_(momenta, momentum)
        torch._foreach_add_(momenta, gradients)
        return list(torch._foreach_add(gradients, momenta, alpha=momentum))


def _of_one_shape(parameters: Iterable[nn.Parameter]) -> Iterable[list[Tensor]]:
    """Those with a gradient, by shape and device."""
    groups: dict[tuple[torch.Size, torch.device], list[Tensor]] = defaultdict(list)
    for parameter in parameters:
        if parameter.grad is not None:
            groups[parameter.shape, parameter.device].append(parameter)
    return groups.values()


def _orthonormal(matrices: Float[Tensor, "matrix row column"]) -> Tensor:
    """Each with all singular values at 1, those far below the largest less; zeros stay zeros."""
    smallest = torch.finfo(matrices.dtype).tiny
    norms = torch.linalg.matrix_norm(matrices, keepdim=True)
    unit = matrices / norms.clamp_min(smallest)
    nearest: Tensor = _inverse_roots(unit @ unit.mT) @ unit
    return nearest


def _inverse_roots(grams: Float[Tensor, "matrix row row"]) -> Float[Tensor, "matrix row row"]:
    """Of every one the inverse of its damped square root."""
    # Apple's GPUs have no eigh in this torch; rank by rank numbers are quickly there and back.
    device = torch.device("cpu") if grams.device.type == "mps" else grams.device
    squares, directions = torch.linalg.eigh(grams.to(device))
    roots = (squares.clamp_min(0) + _DAMPING).rsqrt()
    inverse: Tensor = (directions * roots[:, None, :]) @ directions.mT
    return inverse.to(grams.device)
