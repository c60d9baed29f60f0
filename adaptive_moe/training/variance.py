"""How many directions each linear layer's inputs spread in, from one pass without gradients."""

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from adaptive_moe.experts.bank import LoraBank
from adaptive_moe.models.language_model import LanguageModel
from adaptive_moe.models.linear_layers import LinearLayer
from adaptive_moe.training.answer_loss import AnswerLoss
from adaptive_moe.training.encoding import encode_examples
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
    batch_size: int = 32,
    seed: int = 0,
) -> dict[str, float]:
    """The rank that every layer would get by explained variance, by layer name.

    Of all layers' principal components, on the tokens of one calibration batch that an expert
    would act on, the `reference_rank` times number of layers with the largest share of their
    layer's variance are counted (EVA, Paischer et al. 2024, section 3).
    """
    chance = random.Random(f"importance {seed}")  # noqa: S311  not for security
    count = min(batch_size, len(examples))
    encoded = encode_examples(language_model, chance.sample(list(examples), count))
    loss = AnswerLoss(
        language_model, bank, encoded.examples, activation=activation, prompt_cache_bytes=0
    )
    everything = range(len(encoded.examples))
    with bank.activate_weights({}):
        prompts = loss.prompts(everything)
        with _inputs(language_model, layers) as inputs:
            loss.compute(everything, prompts)
    shares = {name: variance_shares(found) for name, found in inputs.items()}
    everywhere = torch.cat(list(shares.values()))
    taken = min(reference_rank * len(layers), everywhere.numel())
    least = everywhere.topk(taken).values[-1]
    return {
        layer.name: float((shares[layer.name] >= least).sum()) if layer.name in shares else 0.0
        for layer in layers
    }


def variance_shares(inputs: Float[Tensor, "token feature"]) -> Float[Tensor, " component"]:
    """The share of the variance in every principal component, falling; sums to 1."""
    centred = inputs.float() - inputs.float().mean(dim=0)
    squares = torch.linalg.svdvals(centred).square()
    shares: Tensor = squares / squares.sum().clamp_min(torch.finfo(squares.dtype).tiny)
    return shares


@contextmanager
def _inputs(
    language_model: LanguageModel, layers: Sequence[LinearLayer]
) -> Iterator[dict[str, Tensor]]:
    """Every layer's input as [token, feature], inside the block."""
    found: dict[str, Tensor] = {}
    handles = [
        language_model.model.get_submodule(layer.name).register_forward_pre_hook(
            _keep(layer.name, found)
        )
        for layer in layers
    ]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def _keep(name: str, found: dict[str, Tensor]) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
    def keep(_module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        found[name] = arguments[0].detach().flatten(0, -2)

    return keep
