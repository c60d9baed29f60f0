"""Finds the adaptable linear layers of any causal language model and says what each one does."""

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import nn
from transformers.pytorch_utils import Conv1D

from adaptive_moe.errors import ConfigurationError

LinearKind = Literal[
    "query", "key", "value", "output", "qkv", "gate", "up", "down", "gate_up", "other"
]

_ATTENTION_KINDS: frozenset[str] = frozenset({"query", "key", "value", "output", "qkv"})

# Names that mean one thing wherever they stand.
_KIND_OF_LEAF: dict[str, LinearKind] = {
    "q_proj": "query",
    "q_attn": "query",
    "query": "query",
    "k_proj": "key",
    "key": "key",
    "v_proj": "value",
    "value": "value",
    "o_proj": "output",
    "qkv_proj": "qkv",
    "query_key_value": "qkv",
    "c_attn": "qkv",
    "Wqkv": "qkv",
    "wqkv": "qkv",
    "gate_proj": "gate",
    "up_proj": "up",
    "down_proj": "down",
    "gate_up_proj": "gate_up",
    "dense_h_to_4h": "up",
    "dense_4h_to_h": "down",
    "c_fc": "up",
    "fc1": "up",
    "fc2": "down",
    "fc_in": "up",
    "fc_out": "down",
    "w1": "gate",
    "w2": "down",
    "w3": "up",
}
# Names whose meaning depends on the part of the block they stand in: (in attention, elsewhere).
_KIND_BY_CONTEXT: dict[str, tuple[LinearKind, LinearKind]] = {
    "c_proj": ("output", "down"),
    "out_proj": ("output", "down"),
    "wo": ("output", "down"),
    "dense": ("output", "other"),
    "proj": ("output", "other"),
}
_BLOCK = re.compile(r"^(?:.*?\.)?(\d+)\.")


@dataclass(frozen=True, slots=True)
class LinearLayer:
    """One linear layer of a decoder block: its module path, what it does, and its sizes."""

    name: str
    kind: LinearKind
    depth: int
    in_features: int
    out_features: int

    @property
    def cost(self) -> int:
        """Adapter parameters that one unit of rank adds to this layer."""
        return self.in_features + self.out_features

    @property
    def is_attention(self) -> bool:
        """Whether the layer belongs to attention rather than to the feed-forward part."""
        return self.kind in _ATTENTION_KINDS


def census(model: nn.Module) -> tuple[LinearLayer, ...]:
    """List the linear layers of the decoder blocks, in module order.

    A layer belongs to a block when its path holds a number (`model.layers.3.mlp.up_proj`): heads,
    embeddings and projections around the stack have none. Counts `nn.Linear` and everything that
    inherits from it (bitsandbytes' 4-bit and 8-bit layers, Falcon's) and GPT-2's `Conv1D`.
    """
    return tuple(
        _describe(name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and _BLOCK.match(name)
    )


def select(
    layers: Sequence[LinearLayer], targets: Literal["all"] | Sequence[str]
) -> tuple[LinearLayer, ...]:
    """Keep the layers that a target names, in the order of `layers`.

    A target is a whole path or the end of one at a dot: `q_proj`, `mlp.c_proj`. Nothing is a
    pattern. Raises ConfigurationError for targets that match no layer, and for no target at all.
    """
    if targets == "all":
        return tuple(layers)
    wanted = [targets] if isinstance(targets, str) else list(targets)
    unmatched = [target for target in wanted if not any(_ends_in(x.name, target) for x in layers)]
    if unmatched or not wanted:
        endings = sorted({layer.name.rsplit(".", 1)[-1] for layer in layers})
        raise ConfigurationError(
            "training.targets: no linear layer is named "
            f"{', '.join(map(repr, unmatched)) or '()'}; this model has {', '.join(endings)}"
        )
    return tuple(x for x in layers if any(_ends_in(x.name, target) for target in wanted))


def upper_blocks(layers: Sequence[LinearLayer], share: float) -> tuple[LinearLayer, ...]:
    """Those in this share of the decoder blocks, counted from the top and rounded up."""
    blocks = max(layer.depth for layer in layers) + 1
    first = blocks - math.ceil(round(share * blocks, 9))  # .28 of 25 is 7.000000000000001
    return tuple(layer for layer in layers if layer.depth >= first)


def blocks_path(layers: Iterable[LinearLayer]) -> str:
    """Path of the module list that holds the decoder blocks, for example `model.layers`.

    Raises ConfigurationError when the layers do not stand in one common list.
    """
    paths = {re.split(r"\.\d+\.", layer.name, maxsplit=1)[0] for layer in layers}
    if len(paths) != 1:
        raise ConfigurationError(f"expected one stack of decoder blocks, found {sorted(paths)}")
    return paths.pop()


def _describe(name: str, module: nn.Linear | Conv1D) -> LinearLayer:
    found = _BLOCK.match(name)
    assert found is not None
    sizes = (
        (module.in_features, module.out_features)
        if isinstance(module, nn.Linear)
        else (module.nx, module.nf)
    )
    return LinearLayer(name, _kind(name), int(found.group(1)), *sizes)


def _kind(name: str) -> LinearKind:
    """Classify by the full path: GPT-2's `attn.c_proj` and `mlp.c_proj` share their last word."""
    *parents, leaf = name.split(".")
    if leaf in _KIND_BY_CONTEXT:
        in_attention, elsewhere = _KIND_BY_CONTEXT[leaf]
        attends = any("attn" in parent or "attention" in parent for parent in parents)
        return in_attention if attends else elsewhere
    return _KIND_OF_LEAF.get(leaf, "other")


def _ends_in(name: str, target: str) -> bool:
    return bool(target) and (name == target or name.endswith(f".{target}"))
