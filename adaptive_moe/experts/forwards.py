"""The forward functions that stand in for a linear layer's own while experts are active.

Each computes the layer as it is, quantised or not, and adds the low-rank part in the dtype of the
low-rank factors. Where nobody needs gradients the sum is made in place: two matrix products per
layer, however many experts take part (Chen et al. 2023, Punica, and Sheng et al. 2023, S-LoRA,
batch distinct adapters in the same spirit).
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import linear

from adaptive_moe.errors import ConfigurationError

Forward = Callable[[Tensor], Tensor]


def shared_forward(
    original: Forward, a: Float[Tensor, "rank in"], b: Float[Tensor, "rank out"]
) -> Forward:
    """Every row uses the same factors; gates, where there are any, are folded into b."""
    dtype, width = a.dtype, b.shape[1]

    def forward(hidden: Float[Tensor, "*rows in"]) -> Float[Tensor, "*rows out"]:
        output = original(hidden)
        if torch.is_grad_enabled() or output.dtype != dtype or not output.is_contiguous():
            return output + (linear(hidden.to(dtype), a) @ b).to(output.dtype)
        low = linear(hidden.to(dtype), a)
        output.view(-1, width).addmm_(low.reshape(-1, low.shape[-1]), b)
        return output

    return forward


def gated_forward(
    original: Forward,
    a: Float[Tensor, "rank in"],
    b: Float[Tensor, "rank out"],
    gates: Float[Tensor, "batch _ rank"],
) -> Forward:
    """The rows share their experts, but every row, or every token, has gates of its own."""
    dtype, batch = a.dtype, gates.shape[0]

    def forward(hidden: Float[Tensor, "*rows in"]) -> Float[Tensor, "*rows out"]:
        output = original(hidden)
        low = linear(_by_row(hidden, batch).to(dtype), a)
        if gates.shape[1] not in {1, low.shape[1]}:
            raise ConfigurationError(
                f"the gates are for {gates.shape[1]} tokens, this pass has {low.shape[1]}"
            )
        return output + ((low * gates).to(dtype) @ b).to(output.dtype).view(output.shape)

    return forward


def rowwise_forward(
    original: Forward, a: Float[Tensor, "batch rank in"], b: Float[Tensor, "batch rank out"]
) -> Forward:
    """Every row has its own experts, gathered and padded to one rank; gates are folded into b."""
    dtype, batch, width = a.dtype, b.shape[0], b.shape[2]
    transposed = a.transpose(1, 2)

    def forward(hidden: Float[Tensor, "*rows in"]) -> Float[Tensor, "*rows out"]:
        output = original(hidden)
        low = torch.bmm(_by_row(hidden, batch).to(dtype), transposed)
        if torch.is_grad_enabled() or output.dtype != dtype or not output.is_contiguous():
            return output + torch.bmm(low, b).to(output.dtype).view(output.shape)
        output.view(batch, -1, width).baddbmm_(low, b)
        return output

    return forward


def _by_row(hidden: Tensor, batch: int) -> Float[Tensor, "batch time in"]:
    """Tokens sorted by batch row; some models flatten batch and time before a linear layer."""
    if hidden.ndim == 3 and hidden.shape[0] == batch:  # noqa: PLR2004 - batch, time, features
        return hidden
    if hidden.ndim == 2 and hidden.shape[0] % batch == 0:  # noqa: PLR2004 - flattened
        return hidden.reshape(batch, -1, hidden.shape[1])
    raise ConfigurationError(
        f"the experts were chosen for {batch} rows, this pass has the shape {tuple(hidden.shape)}"
    )
