"""Plain PEFT as the slow reference, and random experts to compare with."""

import copy
import warnings
from collections.abc import Mapping, Sequence

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from adaptive_moe.experts.weights import LoraPair, LoraWeights
from adaptive_moe.models.linear_layers import LinearLayer, census

_SIZES = {
    "llama": {"intermediate_size": 48, "num_key_value_heads": 2},
    "gpt2": {},
    "gpt_neox": {"intermediate_size": 48},
    "opt": {"ffn_dim": 48, "word_embed_proj_dim": 32},
}


def tiny_base(
    architecture: str = "llama", *, dtype: torch.dtype = torch.float32, wide: bool = False
) -> nn.Module:
    """A random two-layer model in eval mode, nothing trainable; wide enough for 4-bit blocks."""
    config = AutoConfig.for_model(
        architecture,
        vocab_size=97,
        hidden_size=64 if wide else 32,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=64,
        initializer_range=0.2,
        **(_SIZES[architecture] | ({"intermediate_size": 128} if wide else {})),
    )
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = AutoModelForCausalLM.from_config(config)
    return model.to(dtype).eval().requires_grad_(False)


def token_ids(batch: int, time: int = 7, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 97, (batch, time), generator=torch.Generator().manual_seed(seed))


def random_weights(
    layers: Sequence[LinearLayer],
    *,
    seed: int,
    ranks: Sequence[int] = (2, 0, 5, 1, 8),
    dtype: torch.dtype = torch.float32,
    size: float = 0.1,
) -> LoraWeights:
    """Unequal ranks in turn over the layers, 0 leaves a layer out."""
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for number, layer in enumerate(layers):
        rank = ranks[(number + seed) % len(ranks)]
        if rank:
            a = torch.randn(rank, layer.in_features, generator=generator, dtype=torch.float64)
            b = torch.randn(rank, layer.out_features, generator=generator, dtype=torch.float64)
            weights[layer.name] = LoraPair((a * size).to(dtype), (b * size).to(dtype))
    return weights


def in_peft(model: nn.Module, experts: Mapping[str, LoraWeights]) -> PeftModel:
    """A copy of the model with every expert as a plain PEFT adapter (scaling 2 undone in B)."""
    wrapped: PeftModel | None = None
    for name, weights in experts.items():
        ranks = {"^" + key.replace(".", r"\."): pair.rank for key, pair in weights.items()}
        config = LoraConfig(
            r=1,
            target_modules=sorted(weights),
            rank_pattern=ranks,
            alpha_pattern={key: 2 * rank for key, rank in ranks.items()},
            fan_in_fan_out="gpt2" in type(model).__name__.lower(),
        )
        if wrapped is None:
            wrapped = get_peft_model(
                copy.deepcopy(model), config, adapter_name=name, autocast_adapter_dtype=False
            )
        else:
            wrapped.add_adapter(name, config, autocast_adapter_dtype=False)
    assert wrapped is not None
    modules = dict(wrapped.get_base_model().named_modules())
    for name, weights in experts.items():
        for key, pair in weights.items():
            layer = modules[key]
            assert layer.scaling[name] == 2.0
            layer.lora_A[name].weight.data = pair.a.clone()
            layer.lora_B[name].weight.data = (pair.b / 2.0).T.clone()
    return wrapped.to(next(model.parameters()).dtype).eval()


@torch.inference_mode()
def peft_logits(wrapped: PeftModel, ids: torch.Tensor, *, adapters: Sequence[str]) -> torch.Tensor:
    """One adapter per row, "__base__" is none; row by row where the model flattens its batch."""
    if wrapped.get_base_model().config.model_type != "opt":
        return wrapped(input_ids=ids, adapter_names=list(adapters)).logits
    rows = []
    for row, name in zip(ids, adapters, strict=True):
        if name == "__base__":
            with wrapped.disable_adapter():
                rows.append(wrapped(input_ids=row[None]).logits)
        else:
            wrapped.set_adapter(name)
            rows.append(wrapped(input_ids=row[None]).logits)
    return torch.cat(rows)


@torch.inference_mode()
def peft_mixture_logits(
    wrapped: PeftModel, ids: torch.Tensor, *, mixture: Mapping[str, float]
) -> torch.Tensor:
    """The exact rank concatenation PEFT calls "cat", as a new adapter."""
    name = "mixture" + str(len(wrapped.peft_config))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wrapped.add_weighted_adapter(
            list(mixture), list(mixture.values()), name, combination_type="cat"
        )
    wrapped.set_adapter(name)
    return wrapped(input_ids=ids).logits


@torch.inference_mode()
def logits(model: nn.Module, ids: torch.Tensor) -> torch.Tensor:
    return model(input_ids=ids).logits


def layers_of(model: nn.Module) -> tuple[LinearLayer, ...]:
    return census(model)
