"""The border to PEFT, whose ways of serving several adapters ours are compared with.

Every peer works on modules of its own, made by `twin`, with the base's very weights in them.
"""

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from peft import (
    ArrowConfig,
    LoraConfig,
    PeftModel,
    XLoraConfig,
    create_arrow_model,
    get_peft_model,
)
from peft.utils.hotswap import hotswap_adapter, hotswap_adapter_from_state_dict
from peft.utils.save_and_load import load_peft_weights
from torch import nn
from transformers import PreTrainedModel

from adaptive_moe.experts.weights import LoraWeights

LIVE = "live"
"""The adapter of `hotswapping` that is exchanged."""

_CAUSAL = "CAUSAL_LM"
_ARROW_TOP = 3


def twin(model: nn.Module) -> nn.Module:
    """Modules of one's own around the same weights, so that wrapping them changes nobody else's."""
    shared: dict[int, Any] = {id(parameter): parameter for parameter in model.parameters()}
    return copy.deepcopy(model, shared)


def in_peft(
    model: nn.Module,
    experts: Mapping[str, LoraWeights],
    *,
    header_ids: Sequence[int] | None = None,
) -> PeftModel:
    """Experts of one rank as PEFT adapters of scaling 1; aLoRA where `header_ids` start them.

    The model's modules are wrapped in place.
    """
    first = next(iter(experts.values()))
    rank = max(pair.rank for pair in first.values())
    config = LoraConfig(
        r=rank,
        lora_alpha=rank,
        target_modules=list(first),
        task_type=_CAUSAL,
        inference_mode=True,
        alora_invocation_tokens=None if header_ids is None else list(header_ids),
    )
    names = list(experts)
    wrapped = get_peft_model(model, config, adapter_name=names[0], autocast_adapter_dtype=False)
    for name in names[1:]:
        wrapped.add_adapter(name, config, autocast_adapter_dtype=False)
    _fill(wrapped, experts)
    return wrapped.eval()


def trainable(
    model: nn.Module,
    targets: Sequence[str],
    *,
    rank: int,
    alpha: float,
    use_rslora: bool,
    header_ids: Sequence[int] | None,
) -> PeftModel:
    """One new adapter to train, aLoRA where `header_ids` start it; it wraps the model in place."""
    config = LoraConfig(
        r=rank,
        lora_alpha=cast("int", alpha),
        use_rslora=use_rslora,
        target_modules=list(targets),
        task_type=_CAUSAL,
        alora_invocation_tokens=None if header_ids is None else list(header_ids),
    )
    return get_peft_model(model, config, autocast_adapter_dtype=False)


def add_mixture(wrapped: PeftModel, gates: Mapping[str, float]) -> str:
    """One more adapter that is exactly this weighted sum; its name."""
    name = "mixture"
    wrapped.add_weighted_adapter(list(gates), list(gates.values()), name, combination_type="cat")
    return name


def saved(wrapped: PeftModel, folder: Path) -> dict[str, Path]:
    """All adapters as folders in PEFT's own format, by name."""
    names = list(wrapped.peft_config)
    wrapped.save_pretrained(str(folder), selected_adapters=names)
    return {name: folder / name for name in names}


def arrow(model: nn.Module, folders: Sequence[Path]) -> PeftModel:
    """Arrow over these adapters: three of them per token and module, chosen by their weights."""
    config = ArrowConfig(top_k=min(_ARROW_TOP, len(folders)))
    base = cast("PreTrainedModel", twin(model))
    routed: PeftModel = create_arrow_model(base, [str(folder) for folder in folders], config)
    return routed.eval()


def x_lora(model: nn.Module, folders: Sequence[Path], *, hidden_size: int) -> PeftModel:
    """X-LoRA over these adapters, with an untrained classifier, which costs the same."""
    base = cast("PreTrainedModel", twin(model))
    base.config.use_cache = False  # it refuses a model that keeps key-values
    config = XLoraConfig(
        task_type=_CAUSAL,
        hidden_size=hidden_size,
        adapters={str(number): str(folder) for number, folder in enumerate(folders)},
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return get_peft_model(base, config).to(next(model.parameters()).device).eval()


def hotswapping(model: nn.Module, folder: Path) -> PeftModel:
    """PEFT with the one adapter that `hotswap` exchanges."""
    return PeftModel.from_pretrained(twin(model), str(folder), adapter_name=LIVE).eval()


def hotswap(wrapped: PeftModel, folder: Path) -> None:
    """Exchange the live adapter for the one in a folder."""
    hotswap_adapter(wrapped, str(folder), LIVE, torch_device=_device(wrapped))


def hotswap_from_memory(wrapped: PeftModel, weights: Mapping[str, torch.Tensor]) -> None:
    """Exchange the live adapter for one that was read already."""
    config = cast("LoraConfig", wrapped.peft_config[LIVE])
    hotswap_adapter_from_state_dict(wrapped, dict(weights), LIVE, config)  # it empties what it gets


def load_beside(wrapped: PeftModel, folder: Path, name: str) -> None:
    """Load one adapter more beside those that are there."""
    cast("Any", wrapped).load_adapter(str(folder), name)


def read_weights(folder: Path, wrapped: PeftModel) -> dict[str, torch.Tensor]:
    """An adapter's tensors as `hotswap_from_memory` takes them: named as the live one's are."""
    weights = load_peft_weights(str(folder), device=_device(wrapped))
    return {key.replace(".weight", f".{LIVE}.weight"): value for key, value in weights.items()}


def _device(wrapped: PeftModel) -> str:
    return str(next(wrapped.parameters()).device)


def _fill(wrapped: PeftModel, experts: Mapping[str, LoraWeights]) -> None:
    base = cast("PreTrainedModel", wrapped.get_base_model())
    modules = cast("dict[str, Any]", dict(base.named_modules()))
    dtype = cast("torch.Tensor", base.get_input_embeddings().weight).dtype
    for name, weights in experts.items():
        for key, pair in weights.items():
            for factors, values in ((modules[key].lora_A, pair.a), (modules[key].lora_B, pair.b.T)):
                place = factors[name].weight.device
                factors[name].weight.data = values.to(place, dtype).contiguous()
