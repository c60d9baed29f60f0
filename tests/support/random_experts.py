"""Experts of no use but of effect: drawn at random, active at once."""

from pathlib import Path

import torch

from adaptive_moe import AdaptiveMoE
from adaptive_moe.experts.adapter_files import write_adapter
from adaptive_moe.experts.weights import LoraPair

_SIZE = 0.05  # of the factors' entries: large enough that the pocket model answers differently


def add_expert(
    moe: AdaptiveMoE, name: str, folder: Path, *, seed: int, stride: int = 1, header: bool = True
) -> None:
    """Import and activate one of rank 3 in every `stride`-th layer, made of `folder`, a new one.

    With `header` it is answer-activated, without it reads the whole prompt.
    """
    generator = torch.Generator().manual_seed(seed)
    weights = {
        layer.name: LoraPair(
            torch.randn(3, layer.in_features, generator=generator) * _SIZE,
            torch.randn(3, layer.out_features, generator=generator) * _SIZE,
        )
        for layer in moe.language_model.layers[seed % stride :: stride]
    }
    folder.mkdir()
    write_adapter(
        folder,
        weights,
        scaling=dict.fromkeys(weights, 1.0),
        header_ids=moe.language_model.header_ids if header else None,
        base_name="pocket",
    )
    moe.store.activate(moe.import_expert(name, folder, force=True).expert_id)


def store_of_three(folder: Path) -> Path:
    """A store with experts `one` and `two`, which act on the answer, and `whole`, on the prompt."""
    with AdaptiveMoE.from_pretrained("pocket", store=folder / "store") as moe:
        for seed, name in enumerate(("one", "two")):
            add_expert(moe, name, folder / name, seed=seed)
        add_expert(moe, "whole", folder / "whole", seed=5, header=False)
    return folder / "store"
