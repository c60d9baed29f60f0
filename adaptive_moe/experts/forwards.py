"""The forward functions that stand in for a linear layer's own while experts are active.

Each computes the layer as it is, quantised or not, and adds the low-rank part in the dtype of the
low-rank factors. Where nobody needs gradients the sum is made in place: two matrix products per
layer, however many experts take part (Chen et al. 2023, Punica, and Sheng et al. 2023, S-LoRA,
batch distinct adapters in the same spirit).
"""

from collections.abc import Callable
from functools import partial
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import linear

from adaptive_moe.errors import ConfigurationError

Forward = Callable[[Tensor], Tensor]


def shared_forward(
    original: Forward, a: Float[Tensor, "rank in"], b: Float[Tensor, "rank out"]
) -> Forward:
    """Every row uses the same factors; gates, where there are any, are folded into b."""
    return partial(_shared, original, a, b)


def gated_forward(
    original: Forward,
    a: Float[Tensor, "rank in"],
    b: Float[Tensor, "rank out"],
    gates: Float[Tensor, "batch _ rank"],
) -> Forward:
    """The rows share their experts, but every row, or every token, has gates of its own."""
    return partial(_gated, original, a, b, gates)


def rowwise_forward(
    original: Forward, a: Float[Tensor, "batch rank in"], b: Float[Tensor, "batch rank out"]
) -> Forward:
    """Every row has its own experts, gathered and padded to one rank; gates are folded into b."""
    return partial(rowwise, original, a.transpose(1, 2), b)


def rowwise(
    original: Forward,
    transposed: Float[Tensor, "batch features rank"],
    b: Float[Tensor, "batch rank out"],
    hidden: Float[Tensor, "*rows in"],
) -> Float[Tensor, "*rows out"]:
    """One layer's pass with factors of every row; what `rowwise_forward` binds."""
    batch = b.size(0)
    output = original(hidden)
    low = torch.bmm(in_dtype(by_row(hidden, batch), b.dtype), transposed)
    if needs_copy(output, b.dtype):
        return output + torch.bmm(low, b).to(output.dtype).view(output.shape)
    output.view(batch, -1, b.size(2)).baddbmm_(low, b)
    return output


def plain_forward(module: nn.Module) -> Forward:
    """The layer's forward as it stands, without a detour where it is just a dense product."""
    if type(module) is nn.Linear and "forward" not in module.__dict__:
        return partial(linear, weight=module.weight, bias=module.bias)
    return cast(Forward, module.forward)


def _shared(
    original: Forward,
    a: Float[Tensor, "rank in"],
    b: Float[Tensor, "rank out"],
    hidden: Float[Tensor, "*rows in"],
) -> Float[Tensor, "*rows out"]:
    output = original(hidden)
    low = linear(in_dtype(hidden, a.dtype), a)
    if needs_copy(output, a.dtype):
        return output + (low @ b).to(output.dtype)
    output.view(-1, b.size(1)).addmm_(low.view(-1, b.size(0)), b)
    return output


def _gated(
    original: Forward,
    a: Float[Tensor, "rank in"],
    b: Float[Tensor, "rank out"],
    gates: Float[Tensor, "batch _ rank"],
    hidden: Float[Tensor, "*rows in"],
) -> Float[Tensor, "*rows out"]:
    output = original(hidden)
    low = linear(in_dtype(by_row(hidden, gates.size(0)), a.dtype), a)
    if gates.size(1) not in {1, low.size(1)}:
        raise ConfigurationError(
            f"the gates are for {gates.shape[1]} tokens, this pass has {low.shape[1]}"
        )
    low = in_dtype(low * gates, a.dtype)
    if needs_copy(output, a.dtype):
        return output + (low @ b).to(output.dtype).view(output.shape)
    output.view(-1, b.size(1)).addmm_(low.view(-1, b.size(0)), b)
    return output


def in_dtype(states: Tensor, dtype: torch.dtype) -> Tensor:
    """The states in a dtype; asking first costs less than a conversion that does nothing."""
    return states if states.dtype is dtype else states.to(dtype)


def needs_copy(output: Tensor, dtype: torch.dtype) -> bool:
    """Whether the low-rank part cannot be added in place."""
    return torch.is_grad_enabled() or output.dtype is not dtype or not output.is_contiguous()


def by_row(hidden: Tensor, batch: int) -> Float[Tensor, "batch time in"]:
    """Tokens sorted by batch row; some models flatten batch and time before a linear layer."""
    if hidden.ndim == 3 and hidden.shape[0] == batch:  # noqa: PLR2004 - batch, time, features
        return hidden
    if hidden.ndim == 2 and hidden.shape[0] % batch == 0:  # noqa: PLR2004 - flattened
        return hidden.reshape(batch, -1, hidden.shape[1])
    raise ConfigurationError(
        f"the experts were chosen for {batch} rows, this pass has the shape {tuple(hidden.shape)}"
    )
