"""Experts that routing finds without having been trained: random weights, a domain, a record."""

from collections.abc import Sequence

import torch

from adaptive_moe import AdaptiveMoE
from adaptive_moe.engine.shelf import DOMAIN_FILE, HELD_OUT_BASE, HELD_OUT_RIGHT, HELD_OUT_TRIALS
from adaptive_moe.engine.states import state_reader
from adaptive_moe.experts.adapter_files import write_adapter
from adaptive_moe.experts.manifest import Manifest
from adaptive_moe.experts.weights import LoraPair
from adaptive_moe.router.domains import fit_domain, write_domain

_SIZE = 0.01  # of the factors' entries


def publish_placed(
    moe: AdaptiveMoE,
    name: str,
    prompts: Sequence[str],
    *,
    right: int,
    trials: int,
    base_right: int = 0,
    rank: int = 2,
    seed: int = 0,
) -> None:
    """Make one active whose domain is around `prompts`; the base got `base_right` trials right."""
    base, layer = moe.language_model, moe.language_model.layers[0]
    generator = torch.Generator().manual_seed(seed)
    pair = LoraPair(
        torch.randn(rank, layer.in_features, generator=generator) * _SIZE,
        torch.randn(rank, layer.out_features, generator=generator) * _SIZE,
    )
    whitening = moe.router.current.whitening
    states = state_reader(base, moe._bank)(prompts)
    with moe.store.stage() as folder:
        modules = write_adapter(
            folder,
            {layer.name: pair},
            scaling={layer.name: 1.0},
            header_ids=base.header_ids,
            base_name="pocket",
        )
        write_domain(folder / DOMAIN_FILE, fit_domain(name, states, whitening, seed=0))
        manifest = Manifest(
            base_id=base.base_id,
            numerics=base.numerics.to_dict(),
            activation="answer",
            header_ids=base.header_ids,
            modules=modules,
            gate={HELD_OUT_RIGHT: right, HELD_OUT_TRIALS: trials, HELD_OUT_BASE: base_right},
        )
        moe.store.publish(name, folder, manifest, status="active")
