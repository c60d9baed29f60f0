"""How many directions of each linear layer a short and wide training makes use of."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from adaptive_moe.config.settings import TrainingSettings
from adaptive_moe.errors import TrainingError
from adaptive_moe.experts.bank import LoraBank
from adaptive_moe.experts.weights import LoraPair
from adaptive_moe.models.language_model import LanguageModel
from adaptive_moe.models.linear_layers import LinearLayer
from adaptive_moe.training.adapter import Adapter
from adaptive_moe.training.answer_loss import AnswerLoss
from adaptive_moe.training.batching import step_examples
from adaptive_moe.training.encoding import encode_examples
from adaptive_moe.training.interruption import stop_if_cancelled
from adaptive_moe.training.ranks import plan_ranks
from adaptive_moe.training.slots import learning_rate
from adaptive_moe.training.steps import Stepper
from adaptive_moe.training.synthesis import Example

_WIDER = 2  # times the reference rank
_SHARE = 8  # of the training's steps: one in eight, at least 16


def truncation_importance(
    language_model: LanguageModel,
    layers: Sequence[LinearLayer],
    examples: Sequence[Example],
    *,
    bank: LoraBank,
    reference_rank: int,
    settings: TrainingSettings,
) -> dict[str, float]:
    """The rank that every layer would keep of a training of twice the rank, by layer name.

    After an eighth of the steps the updates' singular values are cut over all layers at once:
    those with the largest square per parameter stay, as many as the budget pays for. The training
    proper begins anew with these ranks. Raises TrainingError at a step that is not finite, and
    TrainingInterruptedError.
    """
    weights = _trained_wide(language_model, layers, examples, bank, reference_rank, settings)
    costs = {layer.name: layer.cost for layer in layers}
    worth = [
        (float(value) ** 2 / costs[name], name)
        for name, pair in weights.items()
        for value in singular_values(pair)
    ]
    kept = dict.fromkeys(costs, 0.0)
    left = reference_rank * sum(costs.values())
    for _, name in sorted(worth, reverse=True):
        if costs[name] > left:
            break
        kept[name] += 1
        left -= costs[name]
    return kept


@torch.no_grad()
def singular_values(pair: LoraPair) -> Float[Tensor, " rank"]:
    """Those of the update A^T B, falling, without forming it."""
    _, right = torch.linalg.qr(pair.a.T.float())
    _, left = torch.linalg.qr(pair.b.T.float())
    values: Tensor = torch.linalg.svdvals(right @ left.T)
    return values


def _trained_wide(
    language_model: LanguageModel,
    layers: Sequence[LinearLayer],
    examples: Sequence[Example],
    bank: LoraBank,
    reference_rank: int,
    settings: TrainingSettings,
) -> dict[str, LoraPair]:
    short = settings.model_copy(update={"max_steps": max(16, settings.max_steps // _SHARE)})
    plan = plan_ranks(
        layers,
        strategy="fixed",
        reference_rank=_WIDER * reference_rank,
        r_max=_WIDER * reference_rank,
        scaling=settings.scaling,
        alpha=settings.alpha,
    )
    adapter = Adapter(plan, language_model.layers, seed=settings.seed, device=language_model.device)
    loss = AnswerLoss(
        language_model,
        bank,
        encode_examples(language_model, examples).examples,
        activation=settings.activation,
        prompt_cache_bytes=settings.prompt_cache_bytes,
        recompute=settings.gradient_checkpointing,
    )
    stepper = Stepper([adapter], loss, short)
    for step in range(short.max_steps):
        chosen = step_examples(
            step, count=len(loss.examples), batch_size=short.batch_size, seed=short.seed
        )
        stop_if_cancelled()
        if stepper.step({0: chosen}, {0: learning_rate(step, short)})[0] is None:
            raise TrainingError(
                f"step {step + 1} of the short training that ranks are cut from is not finite; "
                f"lower training.learning_rate ({settings.learning_rate})"
            )
    return dict(adapter.weights())
