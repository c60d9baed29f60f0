"""Gradients through bitsandbytes' packed 4-bit layers, which have none of their own.

On processors with avx512_bf16 the first forward pass of a 4-bit layer in eval mode repacks its
weight for a fast kernel that autograd cannot see through: nothing fails, the gradient just ends
there. Here the forward pass keeps that kernel, and the backward pass unpacks the weight. (Never
call `state_dict` on such a model after a forward pass: bitsandbytes 0.50 scrambles its scales.)
"""

import copy
from typing import Any, cast

import torch
from torch import Tensor, nn

from adaptive_moe.experts.forwards import Forward


def may_be_packed(module: nn.Module) -> bool:
    """Whether this is a 4-bit layer on a processor for which bitsandbytes repacks weights."""
    weight = getattr(module, "weight", None)
    return (
        getattr(module, "support_avx512bf16_for_cpu", False)
        and isinstance(weight, Tensor)
        and weight.device.type == "cpu"
    )


def differentiable_forward(module: nn.Module) -> Forward:
    """The layer's forward, through which gradients reach the input even once it is packed."""
    original = cast(Forward, module.forward)

    def forward(hidden: Tensor) -> Tensor:
        state = getattr(module.weight, "quant_state", None)
        if hidden.requires_grad and getattr(state, "packing_format_for_cpu", False):
            return cast(Tensor, _PackedLinear.apply(hidden, module, original))  # type: ignore[no-untyped-call]
        return original(hidden)

    return forward


class _PackedLinear(torch.autograd.Function):
    """y = W x by the packed kernel, dL/dx by the unpacked weight; the weight itself is frozen."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, module: nn.Module, original: Forward) -> Tensor:  # noqa: ANN401 - torch's own context type is private
        ctx.module = module
        return original(hidden)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:  # noqa: ANN401
        (gradient,) = gradients
        return gradient @ _unpacked_weight(ctx.module).to(gradient.dtype), None, None


def _unpacked_weight(module: nn.Module) -> Tensor:
    """The dense weight [out, in] the packed kernel multiplies by, in bfloat16 or float32."""
    import bitsandbytes.functional as bits

    weight: Any = module.weight
    state = copy.copy(weight.quant_state)
    scales = state.absmax.T.reshape(-1).float().contiguous()
    state.original_nested = False  # the packed state holds plain scales, whatever it came from
    codes, state = bits._convert_weight_packed_for_cpu_inverse(weight.data, state)
    state.absmax = scales
    dense: Tensor = bits.dequantize_4bit(codes, state)
    return dense
