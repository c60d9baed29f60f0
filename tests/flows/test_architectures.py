"""Every architecture goes the whole way: load, answer, train, store, reload, export to PEFT."""

import json

import numpy as np
import pytest
import torch
from peft import PeftModel

from adaptive_moe import AdaptiveMoE
from adaptive_moe.config.loading import load_settings
from tests.support.tiny_models import ARCHITECTURES, save_tiny

# Of each way to lay out projections and positions one; the others take their time.
USUAL = ("llama", "gpt2", "gpt_neox", "opt", "gemma2")

PROMPT = "What is the colour of 3?"
BEYOND_PEFT = {"opt"}  # PEFT's aLoRA cannot take OPT's flattened hidden states
TOLERANCE = 4e-6  # of the largest logit: 2e-6 for a logit, once more for what it is measured from
ROWS = [{"prompt": f"What is the colour of {n}?", "response": f"blue {n}"} for n in range(24)]


def settings(tmp_path):
    overrides = [
        f"base.id={tmp_path / 'model'}",
        f"store={tmp_path / 'store'}",
        "training.max_steps=1",
        "training.rank=2",
        "training.learning_rate=0.05",
        "training.guard_prompts=0",
        "generation.max_new_tokens=8",
    ]
    return load_settings(overrides=overrides)


@pytest.mark.filterwarnings("ignore:fan_in_fan_out")
@pytest.mark.parametrize(
    "architecture",
    [
        pytest.param(name, marks=[] if name in USUAL else [pytest.mark.slow])
        for name in ARCHITECTURES
    ],
)
def test_an_expert_of_any_architecture_says_the_same_in_plain_peft(architecture, tmp_path):
    save_tiny(architecture, tmp_path / "model")
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    with AdaptiveMoE.from_settings(settings(tmp_path)) as moe:
        assert moe.generate(PROMPT).route.kind == "base"
        outcome = moe.train_expert("colours", [rows], force=True)
        assert outcome.result.steps == 1
        # A loss tells which of the two is better, not how often the base is right.
        assert "held_out_base_right" not in outcome.record.manifest.gate
        moe.store.activate(outcome.record.expert_id)
    with AdaptiveMoE.from_settings(settings(tmp_path)) as moe:
        answer = moe.generate(PROMPT, experts=["colours"], min_new_tokens=4)
        again = moe.generate(PROMPT, experts=["colours"], min_new_tokens=4)
        moe.export_expert("colours", tmp_path / "peft")
        encoded = moe.language_model.encode(PROMPT)
        model = moe.language_model.model
    assert again.text == answer.text
    assert float(np.abs(answer.attribution.shares).max()) > 0
    if architecture in BEYOND_PEFT:
        return
    ids = torch.tensor([[*encoded.prompt_ids, *encoded.header_ids]])
    tokens, logits = in_plain_peft(model, tmp_path / "peft", ids)
    rows = logits.log_softmax(dim=-1)
    expected = [float(row[token]) for row, token in zip(rows, tokens, strict=True)]
    assert moe.language_model.decode_answer(tokens) == answer.text
    np.testing.assert_allclose(
        answer.attribution.routed_log_probability,
        expected[: len(answer.tokens)],
        rtol=0,
        atol=TOLERANCE * float(logits.abs().max()),
    )


def in_plain_peft(model, folder, ids):
    """The tokens that PEFT's own aLoRA and transformers' own generate give, and their logits."""
    theirs = PeftModel.from_pretrained(model, folder).eval()
    with torch.inference_mode():
        generated = theirs.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=8,
            min_new_tokens=4,
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
        )
    tokens = generated.sequences[0, ids.shape[1] :].tolist()
    return tokens, torch.stack(generated.logits)[:, 0]
