"""What reference rank a training set needs: the bits its answers hold, against those ranks hold."""

import math
from collections.abc import Sequence

import torch

from adaptive_moe.config.settings import TrainingSettings
from adaptive_moe.experts.bank import LoraBank
from adaptive_moe.models.language_model import LanguageModel
from adaptive_moe.models.linear_layers import LinearLayer
from adaptive_moe.training.answer_loss import AnswerLoss
from adaptive_moe.training.encoding import encode_examples
from adaptive_moe.training.steps import score_examples
from adaptive_moe.training.synthesis import Example

BITS_PER_PARAMETER = 2.0
"""Of knowledge that a well-trained parameter holds (Allen-Zhu & Li 2024, section 3)."""


@torch.no_grad()
def answer_bits(
    language_model: LanguageModel,
    bank: LoraBank,
    examples: Sequence[Example],
    settings: TrainingSettings,
) -> float:
    """Bits that the base lacks to know the answers: its loss on each one's first example.

    Of rows of example files `fact` is their source, which may have given many answers.
    """
    by_answer: dict[tuple[str, str], Example] = {}
    for example in examples:
        by_answer.setdefault((example.fact, example.answer), example)
    encoded = encode_examples(language_model, list(by_answer.values()))
    loss = AnswerLoss(
        language_model,
        bank,
        encoded.examples,
        activation=settings.activation,
        prompt_cache_bytes=settings.prompt_cache_bytes,
    )
    scores = score_examples({}, loss, settings)
    return sum(score.loss for score in scores) / math.log(2)


def fitting_rank(bits: float, layers: Sequence[LinearLayer], *, least: int, most: int) -> int:
    """The smallest rank in all layers whose parameters hold so many bits, within the bounds."""
    per_rank = BITS_PER_PARAMETER * sum(layer.cost for layer in layers)
    return min(most, max(least, math.ceil(bits / per_rank)))
