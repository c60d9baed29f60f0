"""A rate that destroys what it should teach is named, and no expert comes of it."""

import json

import pytest

from adaptive_moe import AdaptiveMoE
from adaptive_moe.config.loading import load_settings
from adaptive_moe.errors import DivergedError
from tests.flows.lighthouses import ISLES

ROWS = [{"prompt": f"Who tends {light}?", "response": keeper} for light, keeper in ISLES.items()]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (["optimizer=adamw", "learning_rate=1.0"], r"training\.learning_rate \(1\)"),
        (["alpha=1e12"], r"training\.alpha \(1e\+12\)"),
    ],
)
def test_a_training_whose_loss_rises_is_called_diverged(tmp_path, overrides, named):
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    quick = ["min_examples=8", "held_out_fraction=0.3", "max_steps=8", "evaluate_every=8"]
    chosen = [
        f"training.{each}" for each in (*quick, "warmup_steps=0", "in_conversation=0", *overrides)
    ]
    settings = load_settings(overrides=[f"store={tmp_path / 'store'}", *chosen])
    with AdaptiveMoE.from_settings(settings) as moe:
        with pytest.raises(DivergedError, match=named):
            moe.train_expert("lights", file)
        assert "lights" not in moe.experts
