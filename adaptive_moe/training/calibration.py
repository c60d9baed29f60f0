"""The batch of training examples that layers are measured on before ranks are shared out."""

import random
from collections.abc import Sequence
from typing import Literal

from adaptive_moe.experts.bank import LoraBank
from adaptive_moe.models.language_model import LanguageModel
from adaptive_moe.training.answer_loss import AnswerLoss
from adaptive_moe.training.encoding import encode_examples
from adaptive_moe.training.synthesis import Example

_BATCH = 32  # examples at most


def calibration_loss(
    language_model: LanguageModel,
    bank: LoraBank,
    examples: Sequence[Example],
    *,
    activation: Literal["answer", "prompt"],
    seed: int,
) -> AnswerLoss:
    """The loss of some examples drawn at random, the same for the same seed."""
    chance = random.Random(f"importance {seed}")  # noqa: S311  not for security
    drawn = chance.sample(list(examples), min(_BATCH, len(examples)))
    encoded = encode_examples(language_model, drawn)
    return AnswerLoss(
        language_model,
        bank,
        encoded.examples,
        activation=activation,
        prompt_cache_bytes=0,
        every_token=True,  # what passes through each layer is looked at
    )
