"""Single-token passes through torch.compile: compiled once for a batch size and a cache length.

A prefilled cache is copied into a static one, whose tensors keep their shape and place; the mask
is one as well, and only its contents change from token to token. (transformers compiles `generate`
in the same way; here the experts may change between two answers.)
"""

import logging
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast, final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers.cache_utils import Cache, StaticCache, StaticLayer

from adaptive_moe.models.growing_cache import can_be_cut, new_cache
from adaptive_moe.models.language_model import LanguageModel

logger = logging.getLogger(__name__)

_LENGTHS = 256  # tokens; a static cache is a multiple of this long
_KEPT = 2  # sizes of batch and length whose caches stay


def can_compile(language_model: LanguageModel) -> bool:
    """Whether one token's pass can be compiled with masks and positions of ours.

    Attention has to be full, by sdpa, and positions have to be told.
    """
    model: Any = language_model.model
    return (
        bool(getattr(model, "_can_compile_fullgraph", False))
        and language_model.takes_positions
        and not language_model.has_fixed_mask
        and model.config._attn_implementation == "sdpa"
        and can_be_cut(new_cache(language_model))
    )


def compiled_steps(language_model: LanguageModel, *, wanted: bool) -> "CompiledSteps | None":
    """Compiled passes if they are wanted; a model that has none goes on without, and says so."""
    if wanted and not can_compile(language_model):
        logger.warning("%s cannot be compiled; it answers as it is", language_model.name)
    return CompiledSteps(language_model) if wanted and can_compile(language_model) else None


@dataclass(frozen=True, slots=True, eq=False)
class _Place:
    """What one size of batch and length decodes in."""

    cache: StaticCache
    mask: Bool[Tensor, "batch 1 1 all_time"]


@final
class CompiledSteps:
    """Takes over prefilled caches and continues them a token at a time; one answer at a time.

    `options` go to torch.compile. By default CUDA graphs are used where there is CUDA.
    """

    def __init__(self, language_model: LanguageModel, **options: object) -> None:
        self._language_model = language_model
        if not options and language_model.device.type == "cuda":
            options = {"mode": "reduce-overhead"}
        compiled = torch.compile(self._pass, dynamic=False, **cast("dict[str, Any]", options))
        self._compiled = cast("Callable[..., Tensor]", compiled)
        self._places: OrderedDict[tuple[int, int], _Place] = OrderedDict()

    def begin(
        self, cache: Cache, mask: Int[Tensor, "batch time"] | None, *, room: int
    ) -> "CompiledRun":
        """Go on from a cache, which is left as it is, for up to `room` tokens.

        `mask` may be wider than the cache; None says that nothing is padded.
        """
        layers = cast("list[Any]", cache.layers)
        width, batch = cache.get_seq_length(), layers[0].keys.shape[0]
        length = -(-(width + room) // _LENGTHS) * _LENGTHS
        place = self._places.pop((batch, length), None) or self._new_place(batch, length)
        self._places[batch, length] = place
        while len(self._places) > _KEPT:
            self._places.popitem(last=False)
        for source, target in zip(
            layers, cast("list[StaticLayer]", place.cache.layers), strict=True
        ):
            if not target.is_initialized:
                target.lazy_initialization(source.keys, source.values)
            cast("Tensor", target.keys)[:, :, :width].copy_(source.keys)
            cast("Tensor", target.values)[:, :, :width].copy_(source.values)
            target.cumulative_length.fill_(width)
        place.mask.zero_()
        place.mask[:, 0, 0, :width] = True if mask is None else mask[:, :width].bool()
        return CompiledRun(self._compiled, place.cache, place.mask, width)

    def _new_place(self, batch: int, length: int) -> _Place:
        model: Any = self._language_model.model
        cache = StaticCache(config=model.config, max_cache_len=length)
        shape = (batch, 1, 1, length)
        return _Place(
            cache, torch.zeros(shape, dtype=torch.bool, device=self._language_model.device)
        )

    def _pass(
        self, ids: Tensor, positions: Tensor, mask: Tensor, cache: StaticCache
    ) -> Float[Tensor, "batch vocab"]:
        model: Any = self._language_model.model
        output = model(
            ids,
            position_ids=positions,
            attention_mask=mask,
            past_key_values=cache,
            use_cache=True,
        )
        return cast("Tensor", output.logits[:, -1])


@final
class CompiledRun:
    """One batch of answers being decoded."""

    def __init__(
        self,
        compiled: Callable[..., Tensor],
        cache: StaticCache,
        mask: Bool[Tensor, "batch 1 1 all_time"],
        width: int,
    ) -> None:
        self._compiled, self._cache, self._mask, self._width = compiled, cache, mask, width

    def step(
        self, tokens: Int[Tensor, "batch 1"], positions: Int[Tensor, "batch 1"]
    ) -> Float[Tensor, "batch vocab"]:
        """One more token; the raw logits of the next. They are the caller's own."""
        self._mask[..., self._width] = True
        self._width += 1
        return self._compiled(tokens, positions, self._mask, self._cache).clone()
