"""Passes over rows of different lengths, end to end and without padding.

Everything in a decoder but its attention goes token by token, so the tokens of all rows can run as
one long row, or as one for each of several trainings that share a pass. Only for attention they
are put into rows again, part by part, rows of like length together. Key-values of prompts, which
need no gradients, stay apart from those of what follows them, under one softmax: transformers'
caches would copy them in every block, and the backward pass would compute gradients of them all.
What follows is short, so that the weights of its attention can be written down, which kernels for
long texts avoid.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast, final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from adaptive_moe.models.growing_cache import is_attention_alone, new_cache
from adaptive_moe.models.language_model import LanguageModel
from adaptive_moe.training.block_passes import PassEndedError
from adaptive_moe.training.layouts import Layout, Part, lay_out

_NAME = "packed_rows"
_LAYER = "packed_layer"  # an attribute of the new tokens' keys
_MOST_WEIGHTS = 1 << 21  # of one part in one block
_ALIKE = 1e-4  # relative, or so many of the dtype's steps:
_STEPS = 4

KeyValues = tuple[
    Float[Tensor, "_ shared _ width"],
    Float[Tensor, "_ shared _ value_width"],
]
"""Keys and values of prompts, left padded."""
_Rows = tuple[Tensor, Tensor, Tensor]


@final
class PackedLayer(DynamicLayer):
    """One block's attention over packed rows, after the prompts' key-values where there are any.

    What runs through it is handed on and not kept, unless less is `asked`. `window` is that of a
    sliding attention.
    """

    def __init__(
        self, layout: Layout, prompts: Sequence[KeyValues] = (), *, window: int | None = None
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # transformers does not annotate it
        self.prompts = tuple(prompts)
        self._layout = layout
        self._asked: Layout | None = None
        self._held: tuple[Tensor, Tensor] | None = None
        self._window = window

    def update(
        self,
        key_states: Float[Tensor, "slot head token width"],
        value_states: Float[Tensor, "slot head token value_width"],
        *_arguments: object,
        **_options: object,
    ) -> tuple[Tensor, Tensor]:
        """The new tokens' own key-values; by their keys `attend` is found."""
        if self._asked is not None and self._held is None:
            self._held = (key_states, value_states)
            raise PassEndedError
        key_states, value_states = self._held or (key_states, value_states)
        setattr(key_states, _LAYER, self)
        return key_states, value_states

    @contextmanager
    def asked(self, tail: Layout) -> Iterator[None]:
        """In the block, a first pass is left with PassEndedError once its key-values are there.

        A second one is of the last tokens of all rows, as they lie in `tail`, and attends to those.
        """
        self._asked = tail
        try:
            yield
        finally:
            self._asked = self._held = None

    def attend(
        self,
        module: nn.Module,
        query: Float[Tensor, "slot head token width"],
        key: Float[Tensor, "slot shared all_tokens width"],
        value: Float[Tensor, "slot shared all_tokens value_width"],
        options: dict[str, Any],
    ) -> Float[Tensor, "slot token head value_width"]:
        """Every part by itself, in the layout of the pass again."""
        found: list[Tensor] = []
        asked = self._asked or self._layout
        queries = asked.gathered(query)
        keys, values = self._layout.gathered(key), self._layout.gathered(value)
        for place, (own, part) in enumerate(zip(asked.parts, self._layout.parts, strict=True)):
            rows = (_unpacked(queries, own), _unpacked(keys, part), _unpacked(values, part))
            slides = self._window is not None and self._window < part.width
            is_masked = self.prompts or slides or own is not part
            mask = own.mask(self._window) if is_masked else None
            if self.prompts and mask is not None:
                padded = _after_prompts(module, rows, self.prompts[place], mask, options)
            else:
                padded = _by_transformers(module, rows, mask, options)
            flat = padded.flatten(0, 1)
            found.append(flat if own.places is None else flat.index_select(0, own.places))
        return asked.spread(torch.cat(found))


@contextmanager
def packed(language_model: LanguageModel) -> Iterator[None]:
    """Passes in the block may run on `PackedLayer`s; nobody else may run the model meanwhile."""
    config = cast("Any", language_model.model.config)
    before = config._attn_implementation
    config._attn_implementation = _NAME
    try:
        yield
    finally:
        config._attn_implementation = before


def packed_cache(
    language_model: LanguageModel, layout: Layout, prompts: Sequence[Sequence[KeyValues]] = ()
) -> Cache:
    """What a packed pass runs on; `prompts` are key-values by block and part, none for none."""
    cache = DynamicCache()
    cache.layers = [
        PackedLayer(layout, prompts[block] if prompts else (), window=window)
        for block, window in enumerate(_windows(language_model))
    ]
    return cache


@torch.no_grad()
def can_pack(language_model: LanguageModel) -> bool:
    """Whether packed passes give this model's logits: its code may do otherwise."""
    config = cast("Any", language_model.model.config)
    if getattr(config, "_attn_implementation", None) != "sdpa":
        return False
    kinds = getattr(config.get_text_config(decoder=True), "layer_types", None) or ()
    if "chunked_attention" in kinds or not is_attention_alone(new_cache(language_model)):
        return False
    if not language_model.takes_positions:
        return False
    # Any tokens, but different: a short row, padded where rows are of one length, and a longer one.
    ids = torch.arange(3, 13, device=language_model.device).view(2, 5)
    mask = torch.ones_like(ids)
    mask[0, 0] = 0
    try:
        return all(_packs(language_model, ids, mask, prompt=prompt) for prompt in (3, 0))
    except (AttributeError, IndexError, KeyError, TypeError, ValueError, RuntimeError):
        return False


def _packs(
    language_model: LanguageModel,
    ids: Int[Tensor, "row time"],
    mask: Int[Tensor, "row time"],
    *,
    prompt: int,
) -> bool:
    """Whether what follows the first so many ids gets the logits that it gets in padded rows.

    Once end to end, and once as two slots.
    """
    model, positions = cast("Any", language_model.model), (mask.cumsum(dim=1) - 1).clamp_min(0)
    whole = DynamicCache()
    options = {"attention_mask": mask, "position_ids": positions, "use_cache": True}
    wanted = model(ids, past_key_values=whole, **options).logits[:, prompt:]
    used = mask[:, prompt:].bool()
    kept = [
        [(layer.keys[:, :, :prompt], layer.values[:, :, :prompt])]
        for layer in cast("list[Any]", whole.layers)
    ]
    prompts, tokens = mask[:, :prompt].sum(dim=1).tolist(), used.sum(dim=1).tolist()
    for slots in ((), (0, 1)):
        layout = lay_out(prompts, tokens, device=ids.device, slots=slots)
        assert layout.order == (0, 1)
        assert len(layout.parts) == 1
        cache = packed_cache(language_model, layout, kept if prompt else ())
        with packed(language_model):
            found = model(
                layout.spread(ids[:, prompt:][used]),
                past_key_values=cache,
                position_ids=layout.positions,
                use_cache=True,
            ).logits
        if not are_alike(layout.taken(found.flatten(0, 1)), wanted[used]):
            return False
    return True


def are_alike(found: Float[Tensor, "*any"], expected: Float[Tensor, "*any"]) -> bool:
    """Whether two ways of computing the same differ by rounding alone, in their dtype."""
    scale = expected.float().abs().max().clamp_min(1.0)
    limit = max(_ALIKE, _STEPS * torch.finfo(expected.dtype).eps)
    return bool(((found.float() - expected.float()).abs().max() <= limit * scale).item())


def _windows(language_model: LanguageModel) -> list[int | None]:
    layers = cast("list[Any]", new_cache(language_model).layers)
    return [getattr(layer, "sliding_window", None) for layer in layers]


def _unpacked(
    states: Float[Tensor, "token head width"], part: Part
) -> Float[Tensor, "row head time width"]:
    tokens = states[part.start : part.stop]
    if part.places is not None:
        empty = tokens.new_zeros((part.rows * part.width, *tokens.shape[1:]))
        tokens = empty.index_copy(0, part.places, tokens)
    return tokens.view(part.rows, part.width, *tokens.shape[1:]).transpose(1, 2)


def _attend(
    module: nn.Module,
    query: Float[Tensor, "batch head time width"],
    key: Float[Tensor, "batch shared all_time width"],
    value: Float[Tensor, "batch shared all_time value_width"],
    attention_mask: Tensor | None,
    **options: Any,  # noqa: ANN401  transformers' own
) -> tuple[Tensor, None]:
    """What transformers calls for every block; on other layers it is its own attention."""
    layer: PackedLayer | None = getattr(key, _LAYER, None)
    if layer is not None:
        return layer.attend(module, query, key, value, options), None
    return _by_transformers(module, (query, key, value), attention_mask, options), None


def _by_transformers(
    module: nn.Module,
    rows: _Rows,
    mask: Tensor | None,
    options: dict[str, Any],
) -> Float[Tensor, "row time head value_width"]:
    found, _ = sdpa_attention_forward(module, *rows, mask, **options)
    return found


def _after_prompts(
    module: nn.Module,
    rows: _Rows,
    prompts: KeyValues,
    mask: Bool[Tensor, "row 1 time all_time"],
    options: dict[str, Any],
) -> Float[Tensor, "row time head value_width"]:
    query, key, value = rows
    heads = query.shape[1]
    is_biased = options.get("position_bias") is not None or options.get("dropout")
    if is_biased or heads * mask.numel() > _MOST_WEIGHTS:
        keys, values = torch.cat((prompts[0], key), dim=2), torch.cat((prompts[1], value), dim=2)
        return _by_transformers(module, (query, keys, values), mask, options)
    scale = options.get("scaling") or query.shape[3] ** -0.5
    return _in_two_parts(query * scale, (prompts[0], key), (prompts[1], value), mask)


def _in_two_parts(
    query: Float[Tensor, "row head time width"],
    keys: tuple[Tensor, Tensor],
    values: tuple[Tensor, Tensor],
    mask: Bool[Tensor, "row 1 time all_time"],
) -> Float[Tensor, "row time head value_width"]:
    rows, heads, time, width = query.shape
    shared, prompt = keys[0].shape[1:3]
    # Heads that share key-values are as many more tokens of one head.
    query = query.reshape(rows, shared, -1, width)
    scores = torch.cat([query @ part.transpose(2, 3) for part in keys], dim=3)
    scores = scores.view(rows, heads, time, -1).masked_fill(~mask, torch.finfo(scores.dtype).min)
    weights = scores.softmax(dim=3).view(rows, shared, query.shape[2], -1)
    output = weights[..., :prompt] @ values[0] + weights[..., prompt:] @ values[1]
    return output.view(rows, heads, time, -1).transpose(1, 2)


AttentionInterface.register(_NAME, _attend)
AttentionMaskInterface.register(_NAME, sdpa_mask)
