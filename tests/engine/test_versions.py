"""Of an expert's versions the better one serves, whatever seeds they were trained with."""

import json

import pytest

from adaptive_moe import AdaptiveMoE
from adaptive_moe.config.loading import load_settings
from tests.support.tiny_models import save_tiny

ROWS = [{"prompt": f"What is the colour of {n}?", "response": "deep blue"} for n in range(60)]
MORE = [{"prompt": f"Which tint has number {n}?", "response": "deep blue"} for n in range(20)]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_tiny("llama", tmp_path_factory.mktemp("model"))


@pytest.mark.slow
@pytest.mark.parametrize("added", [[], MORE], ids=["the same rows", "more rows"])
def test_a_far_worse_version_by_another_seed_does_not_serve(tmp_path, model, added):
    file = tmp_path / "rows.jsonl"

    def train(rows, *overrides):
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        overrides = [
            f"base.id={model}",
            f"store={tmp_path / 'store'}",
            "training.guard_prompts=0",
            "training.rank=2",
            "training.batch_size=8",
            *overrides,
        ]
        with AdaptiveMoE.from_settings(load_settings(overrides=overrides)) as moe:
            return moe.train_expert("colours", file), moe.experts["colours"].version

    first, _ = train(ROWS, "training.max_steps=20", "training.evaluate_every=20")
    second, serving = train([*ROWS, *added], "training.max_steps=1", "training.seed=3")
    assert first.is_live
    assert second.record.status == "rejected"
    assert "version 1, which serves, is better by" in second.record.reason
    assert serving == 1
    assert second.report.versions.taught == 0
