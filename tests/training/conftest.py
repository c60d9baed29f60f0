"""A tiny model that learns in seconds, and examples it has never seen."""

import pytest
import torch

from adaptive_moe.config.settings import TrainingSettings
from adaptive_moe.experts.bank import LoraBank
from adaptive_moe.training.synthesis import Example
from tests.support.tiny_models import tiny_language_model


@pytest.fixture
def llama():
    return tiny_language_model("llama")


@pytest.fixture(scope="session")
def make_bank():
    def make(language_model):
        return LoraBank(
            language_model.model,
            language_model.layers,
            capacity_bytes=1 << 20,
            dtype=torch.float32,
        )

    return make


@pytest.fixture(scope="session")
def examples():
    """Prompts and answers of several lengths."""
    pairs = [(f"q{'w' * (i % 5)} {i}?", f"{'ab' * (i % 3)}{i}") for i in range(24)]
    return [
        Example((("user", question),), answer, f"fact {i}", "as-written", "rows.jsonl", i + 1)
        for i, (question, answer) in enumerate(pairs)
    ]


@pytest.fixture(scope="session")
def quick():
    return TrainingSettings(
        rank=4,
        max_steps=6,
        batch_size=8,
        micro_batch_size=8,
        warmup_steps=1,
        evaluate_every=3,
        checkpoint_every=2,
        min_examples=4,
        learning_rate=5e-3,
    )
