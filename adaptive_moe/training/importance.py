"""How strongly each linear layer's weights pull, from one backward pass without their gradients."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, cast

from jaxtyping import Float
from torch import Tensor, nn

from adaptive_moe.config.settings import TrainingSettings
from adaptive_moe.errors import TrainingError
from adaptive_moe.experts.bank import LoraBank
from adaptive_moe.models.language_model import LanguageModel
from adaptive_moe.models.linear_layers import LinearLayer
from adaptive_moe.training.calibration import calibration_loss
from adaptive_moe.training.synthesis import Example
from adaptive_moe.training.truncation import truncation_importance
from adaptive_moe.training.variance import variance_importance

_BLOCK = 2048  # tokens; bounds the Gram matrices


def gradient_importance(
    language_model: LanguageModel,
    layers: Sequence[LinearLayer],
    examples: Sequence[Example],
    *,
    bank: LoraBank,
    activation: Literal["answer", "prompt"] = "answer",
    seed: int = 0,
) -> dict[str, float]:
    """Frobenius norm of every layer's loss gradient on one calibration batch, by layer name.

    With inputs X [token, in] and output gradients D [token, out] of a layer the gradient is
    X^T D, and its squared norm the sum of (X X^T) * (D D^T); so quantised layers, which have no
    weight gradient, are measured alike. Only tokens that an expert would act on count. Raises
    TrainingError when a norm is not finite.
    """
    loss = calibration_loss(language_model, bank, examples, activation=activation, seed=seed)
    everything = range(len(loss.examples))
    with loss.active({}):
        prompts = loss.prompts(everything)
        with _recorded(language_model, layers) as (inputs, gradients):
            found = loss.compute(everything, prompts)
            (found.total / found.tokens).backward()
    norms = {
        layer.name: gradient_norm(inputs[layer.name], gradients[layer.name])
        if layer.name in gradients
        else 0.0
        for layer in layers
    }
    if not all(value < float("inf") for value in norms.values()):
        raise TrainingError("the calibration batch gives gradients that are not finite")
    return norms


def measured_importance(
    strategy: str,
    language_model: LanguageModel,
    layers: Sequence[LinearLayer],
    examples: Sequence[Example],
    *,
    bank: LoraBank,
    reference_rank: int,
    settings: TrainingSettings,
) -> dict[str, float]:
    """What a strategy of `ranks.MEASURED` has to know of every layer, by layer name."""
    if strategy == "truncate":
        return truncation_importance(
            language_model,
            layers,
            examples,
            bank=bank,
            reference_rank=reference_rank,
            settings=settings,
        )
    activation, seed = settings.activation, settings.seed
    if strategy == "eva":
        return variance_importance(
            language_model,
            layers,
            examples,
            bank=bank,
            reference_rank=reference_rank,
            activation=activation,
            seed=seed,
        )
    return gradient_importance(
        language_model, layers, examples, bank=bank, activation=activation, seed=seed
    )


def gradient_norm(inputs: Float[Tensor, "token in"], outputs: Float[Tensor, "token out"]) -> float:
    """Frobenius norm of inputs^T outputs without forming it where that would be the larger way."""
    tokens = inputs.shape[0]
    x, d = inputs.float(), outputs.float()
    if inputs.shape[1] * outputs.shape[1] <= tokens * tokens:
        return float((x.T @ d).norm())
    squared = x.new_zeros(())
    for start in range(0, tokens, _BLOCK):
        block = slice(start, start + _BLOCK)
        squared += ((x[block] @ x.T) * (d[block] @ d.T)).sum()
    return float(squared.clamp_min(0).sqrt())


@contextmanager
def _recorded(
    language_model: LanguageModel, layers: Sequence[LinearLayer]
) -> Iterator[tuple[dict[str, Tensor], dict[str, Tensor]]]:
    """Keep every layer's input and output gradient, as [token, feature], inside the block."""
    inputs: dict[str, Tensor] = {}
    gradients: dict[str, Tensor] = {}
    embeddings = cast("Any", language_model.model).get_input_embeddings()
    # All weights are frozen, so the graph has to begin at the embedded tokens.
    handles = [embeddings.register_forward_hook(_start_graph)]
    try:
        for layer in layers:
            module = language_model.model.get_submodule(layer.name)
            handles.append(module.register_forward_hook(_recorder(layer.name, inputs, gradients)))
        yield inputs, gradients
    finally:
        for handle in handles:
            handle.remove()


def _start_graph(_module: nn.Module, _arguments: object, output: Tensor) -> Tensor:
    return output.detach().requires_grad_()


def _recorder(
    name: str, inputs: dict[str, Tensor], gradients: dict[str, Tensor]
) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
    def record(_module: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> None:
        inputs[name] = arguments[0].detach().flatten(0, -2)

        def keep(gradient: Tensor) -> None:
            gradients[name] = gradient.detach().flatten(0, -2)

        output.register_hook(keep)

    return record
