"""lm-polygraph's estimators on a model's greedy answers; runs in an environment of its own.

`python polygraph_peer.py MODEL_FOLDER QUESTIONS.json SCORES.json`. The questions are lists of token
ids; they are answered by transformers' own `generate`, one at a time, and every estimator is given
the statistics that lm-polygraph defines for it, from float32 logits in double precision. Nothing of
this project is imported.
"""

import json
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lm_polygraph import estimators
from transformers import AutoModelForCausalLM

_NEW_TOKENS = 32
# What needs one pass and no other model, no training data and no samples.
_ESTIMATORS: dict[str, Any] = {
    "msp": estimators.MaximumSequenceProbability(),
    "perplexity": estimators.Perplexity(),
    "mean_entropy": estimators.MeanTokenEntropy(),
    "self_certainty": estimators.SelfCertainty(),
    "renyi": estimators.RenyiNeg(),
    "fisher_rao": estimators.FisherRao(),
}


def main(model_folder: str, questions: str, scores: str) -> None:
    """Answer and score every question."""
    torch.set_grad_enabled(False)
    model = AutoModelForCausalLM.from_pretrained(
        model_folder, dtype=torch.float32, local_files_only=True
    ).eval()
    found = [_answer(model, ids) for ids in json.loads(Path(questions).read_text())]
    result = {"version": version("lm-polygraph"), "answers": found}
    Path(scores).write_text(json.dumps(result))


def _answer(model: Any, ids: list[int]) -> dict[str, object]:  # noqa: ANN401 - theirs
    output = model.generate(
        input_ids=torch.tensor([ids]),
        attention_mask=torch.ones(1, len(ids), dtype=torch.long),
        do_sample=False,
        max_new_tokens=_NEW_TOKENS,
        return_dict_in_generate=True,
        output_logits=True,
    )
    tokens = output.sequences[0, len(ids) :].tolist()
    log_probs = torch.stack(output.logits, dim=1)[0].double().log_softmax(dim=-1).numpy()
    stats = {
        "greedy_tokens": [tokens],
        "greedy_log_probs": [log_probs],
        "greedy_log_likelihoods": [
            [float(row[t]) for row, t in zip(log_probs, tokens, strict=True)]
        ],
        "entropy": [[float(-(np.exp(row) * row).sum()) for row in log_probs]],
    }
    said = {name: float(each(stats)[0]) for name, each in _ESTIMATORS.items()}
    return {"tokens": tokens, "scores": said}


if __name__ == "__main__":
    main(*sys.argv[1:4])
