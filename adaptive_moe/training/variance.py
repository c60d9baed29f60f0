"""How many directions each linear layer's inputs spread in, from one pass without gradients."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from adaptive_moe.errors import TrainingError
from adaptive_moe.experts.bank import LoraBank
from adaptive_moe.models.language_model import LanguageModel
from adaptive_moe.models.linear_layers import LinearLayer
from adaptive_moe.training.calibration import calibration_loss
from adaptive_moe.training.synthesis import Example


@torch.no_grad()
def variance_importance(
    language_model: LanguageModel,
    layers: Sequence[LinearLayer],
    examples: Sequence[Example],
    *,
    bank: LoraBank,
    reference_rank: int,
    activation: Literal["answer", "prompt"] = "answer",
    seed: int = 0,
) -> dict[str, float]:
    """The rank that every layer would get by explained variance, by layer name.

    Of all layers' principal components, on the tokens of one calibration batch that an expert
    would act on, the `reference_rank` times number of layers with the largest share of their
    layer's variance are counted (EVA, Paischer et al. 2024, section 3). Raises TrainingError when
    an input is not finite.
    """
    loss = calibration_loss(language_model, bank, examples, activation=activation, seed=seed)
    inputs: dict[str, list[Tensor]] = {}
    with loss.active({}):
        for index in range(len(loss.examples)):  # one at a time: padding is no token of anybody's
            prompts = loss.prompts([index])
            with _recording(language_model, layers, inputs):
                loss.compute([index], prompts)
    shares = {name: variance_shares(torch.cat(found)) for name, found in inputs.items()}
    everywhere = torch.cat(list(shares.values()))
    taken = min(reference_rank * len(layers), everywhere.numel())
    least = everywhere.topk(taken).values[-1]
    return {
        layer.name: float((shares[layer.name] >= least).sum()) if layer.name in shares else 0.0
        for layer in layers
    }


def variance_shares(inputs: Float[Tensor, "token feature"]) -> Float[Tensor, " component"]:
    """The share of the variance in every principal component, falling; sums to 1."""
    if not bool(inputs.isfinite().all()):
        raise TrainingError("the calibration batch gives inputs of layers that are not finite")
    centred = inputs.float() - inputs.float().mean(dim=0)
    squares = torch.linalg.svdvals(centred).square()
    shares: Tensor = squares / squares.sum().clamp_min(torch.finfo(squares.dtype).tiny)
    return shares


@contextmanager
def _recording(
    language_model: LanguageModel, layers: Sequence[LinearLayer], found: dict[str, list[Tensor]]
) -> Iterator[None]:
    """Inside the block every layer's input, [token, feature], is added to what was found."""
    handles = [
        language_model.model.get_submodule(layer.name).register_forward_pre_hook(
            _keep(layer.name, found)
        )
        for layer in layers
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _keep(
    name: str, found: dict[str, list[Tensor]]
) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
    def keep(_module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        found.setdefault(name, []).append(arguments[0].detach().flatten(0, -2))

    return keep
