"""Slow references: one example at a time, one full pass, no cache, no batch."""

import torch
from torch.nn.functional import cross_entropy


def reference_loss(language_model, encoded, weights, *, from_header=True):
    """Summed answer loss of one example; LoRA from the header on, or everywhere."""
    header = list(language_model.header_ids)
    ids = [*encoded.prompt_ids, *header, *encoded.answer_ids[:-1]]
    start = len(encoded.prompt_ids) if from_header else 0
    handles = []
    for name, pair in weights.items():
        module = language_model.model.get_submodule(name)

        def add(_module, arguments, output, pair=pair):
            delta = arguments[0].reshape(-1, pair.a.shape[1]) @ pair.a.T @ pair.b
            acts = (torch.arange(len(ids)) >= start).float()[:, None]
            return output + (delta * acts).view(output.shape)

        handles.append(module.register_forward_hook(add))
    try:
        logits = language_model.model(torch.tensor([ids]), use_cache=False).logits[0]
    finally:
        for handle in handles:
            handle.remove()
    first = len(encoded.prompt_ids) + len(header) - 1
    return cross_entropy(logits[first:], torch.tensor(encoded.answer_ids), reduction="sum")
