"""Attention of answers over prompts whose key-values need no gradients.

transformers' caches concatenate: every block copies the prompts' key-values for the answers' to
stand behind, and the backward pass computes gradients of all of them, of which only the answers'
are wanted. Here the two parts stay apart, under one softmax. Answers are short, so that their
weights can be written down, which kernels for long texts avoid.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast, final

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from adaptive_moe.models.language_model import LanguageModel
from adaptive_moe.models.prefilling import forward

_NAME = "answers_over_prompts"
_PROMPT = "prompt_key_values"  # an attribute of the answers' keys
_MOST_WEIGHTS = 1 << 21  # of one block in one pass
_SAME_LOGITS = 1e-4  # relative

_Pair = tuple[Float[Tensor, "batch shared _ width"], Float[Tensor, "batch shared time width"]]

_ValuePair = tuple[
    Float[Tensor, "batch shared _ value_width"], Float[Tensor, "batch shared time value_width"]
]


@final
class PromptLayer(DynamicLayer):
    """Prompts' key-values in one block; what comes behind them is handed on and not kept."""

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # transformers does not annotate it
        self.dtype, self.device = keys.dtype, keys.device
        self.keys, self.values = keys, values
        self.is_initialized = True

    def update(
        self,
        key_states: Float[Tensor, "batch head time width"],
        value_states: Float[Tensor, "batch head time value_width"],
        *_arguments: object,
        **_options: object,
    ) -> tuple[Tensor, Tensor]:
        """The new tokens' own key-values; the prompts' are an attribute of these keys."""
        setattr(key_states, _PROMPT, (self.keys, self.values))
        return key_states, value_states


@contextmanager
def over_prompts(language_model: LanguageModel) -> Iterator[None]:
    """Passes in the block may run on `PromptLayer`s; nobody else may run the model meanwhile."""
    config = cast("Any", language_model.model.config)
    before = config._attn_implementation
    config._attn_implementation = _NAME
    try:
        yield
    finally:
        config._attn_implementation = before


@torch.no_grad()
def can_attend_over_prompts(language_model: LanguageModel) -> bool:
    """Whether passes on `PromptLayer`s give this model's logits: its code may do otherwise."""
    if getattr(language_model.model.config, "_attn_implementation", None) != "sdpa":
        return False
    ids = torch.arange(5, device=language_model.device).expand(2, -1)  # any tokens, but different
    mask = torch.ones_like(ids)
    mask[0, 0] = 0  # padding
    whole, (prompt, rest) = DynamicCache(), ids.split((3, 2), dim=1)
    forward(language_model, prompt, cache=whole, attention_mask=mask[:, :3])
    layers = cast("list[Any]", whole.layers)
    apart = with_layers([PromptLayer(layer.keys, layer.values) for layer in layers])
    wanted = forward(language_model, rest, cache=whole, attention_mask=mask).float()
    try:
        with over_prompts(language_model):
            found = forward(language_model, rest, cache=apart, attention_mask=mask).float()
    except (AttributeError, IndexError, KeyError, TypeError, ValueError, RuntimeError):
        return False
    scale = wanted.abs().max().clamp_min(1.0)
    return bool(((found - wanted).abs().max() <= _SAME_LOGITS * scale).item())


def with_layers(layers: list[DynamicLayer]) -> Cache:
    """A cache of these layers."""
    cache = DynamicCache()
    cache.layers = list(layers)
    return cache


def _attend(
    module: nn.Module,
    query: Float[Tensor, "batch head time width"],
    key: Float[Tensor, "batch shared time width"],
    value: Float[Tensor, "batch shared time value_width"],
    attention_mask: Tensor | None,
    **options: Any,  # noqa: ANN401  transformers' own
) -> tuple[Tensor, None]:
    """What transformers calls for every block; without prompts it is its own attention."""
    prompt = getattr(key, _PROMPT, None)
    if prompt is not None:
        keys, values = (prompt[0], key), (prompt[1], value)
        if attention_mask is not None and _is_plain(query, keys, options):
            scale = options.get("scaling") or query.shape[3] ** -0.5
            return _in_two_parts(query * scale, keys, values, attention_mask), None
        key, value = torch.cat(keys, dim=2), torch.cat(values, dim=2)
    found, _ = sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    return found, None


def _is_plain(query: Tensor, keys: _Pair, options: dict[str, Any]) -> bool:
    """Whether nothing but a mask changes the weights, and they are few enough to write down."""
    batch, heads, time, _ = query.shape
    weights = batch * heads * time * sum(part.shape[2] for part in keys)
    is_biased = options.get("position_bias") is not None or options.get("dropout")
    return not is_biased and weights <= _MOST_WEIGHTS


def _in_two_parts(
    query: Float[Tensor, "batch head time width"],
    keys: _Pair,
    values: _ValuePair,
    mask: Bool[Tensor, "batch _ time all_time"],
) -> Float[Tensor, "batch time head value_width"]:
    batch, heads, time, width = query.shape
    shared, prompt = keys[0].shape[1:3]
    # Heads that share key-values are as many more tokens of one head.
    query = query.reshape(batch, shared, -1, width)
    scores = torch.cat([query @ part.transpose(2, 3) for part in keys], dim=3)
    scores = scores.view(batch, heads, time, -1).masked_fill(~mask, torch.finfo(scores.dtype).min)
    weights = scores.softmax(dim=3).view(batch, shared, query.shape[2], -1)
    output = weights[..., :prompt] @ values[0] + weights[..., prompt:] @ values[1]
    return output.view(batch, heads, time, -1).transpose(1, 2).contiguous()


AttentionInterface.register(_NAME, _attend)
AttentionMaskInterface.register(_NAME, sdpa_mask)
