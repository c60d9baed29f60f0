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

_LEAST_LENGTH = 256  # tokens; a static cache is as long, or this doubled as often as it takes
_KEPT = 2  # sizes of batch and length whose caches stay
_MOST_COMPILED = (
    64  # sizes of batch, length and rank; torch gives up after 8, and runs the rest as is
)


def can_compile(language_model: LanguageModel) -> bool:
    """Whether one token's pass can be compiled as a whole, with masks and positions of ours."""
    return _obstacle(language_model) is None


def compiled_steps(language_model: LanguageModel, *, wanted: bool) -> "CompiledSteps | None":
    """Compiled passes if they are wanted; a model that has none goes on without, and says so."""
    if not wanted:
        return None
    obstacle = _obstacle(language_model)
    if obstacle is not None:
        logger.warning(
            "%s cannot be compiled: %s; it answers as it is", language_model.name, obstacle
        )
        return None
    return CompiledSteps(language_model)


@dataclass(frozen=True, slots=True, eq=False)
class _Place:
    """What one size of batch and length decodes in."""

    cache: StaticCache
    mask: Bool[Tensor, "batch 1 1 all_time"]


@final
class CompiledSteps:
    """Takes over prefilled caches and continues them a token at a time; one answer at a time.

    `options` go to torch.compile. By default CUDA graphs are used where there is CUDA. The caches
    of the last two sizes of batch and length are kept for the next answers.
    """

    def __init__(self, language_model: LanguageModel, **options: object) -> None:
        self._language_model = language_model
        if not options and language_model.device.type == "cuda":
            options = {"mode": "reduce-overhead"}
        compiled = torch.compile(self._pass, dynamic=False, **cast("dict[str, Any]", options))
        self._compiled = cast("Callable[..., Tensor]", compiled)
        self._places: OrderedDict[tuple[int, int], _Place] = OrderedDict()

    @property
    def allocated_bytes(self) -> int:
        """Bytes of the caches that are kept."""
        return sum(
            layer.keys.nbytes + layer.values.nbytes
            for place in self._places.values()
            for layer in cast("list[Any]", place.cache.layers)
            if layer.is_initialized
        )

    def forget(self) -> bool:
        """Give the kept caches back, which compiles nothing anew; False if there are none."""
        places, self._places = self._places, OrderedDict()
        return bool(places)

    def begin(
        self, cache: Cache, mask: Int[Tensor, "batch time"] | None, *, room: int
    ) -> "CompiledRun":
        """Go on from a cache, which is left as it is, for up to `room` tokens.

        `mask` may be wider than the cache; None says that nothing is padded.
        """
        layers = cast("list[Any]", cache.layers)
        width, batch = cache.get_seq_length(), layers[0].keys.shape[0]
        length = _static_length(width + room)
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
        self._is_compiled = False

    def step(
        self, tokens: Int[Tensor, "batch 1"], positions: Int[Tensor, "batch 1"]
    ) -> Float[Tensor, "batch vocab"]:
        """One more token; the raw logits of the next. They are the caller's own."""
        self._mask[..., self._width] = True
        self._width += 1
        if self._is_compiled:
            return self._compiled(tokens, positions, self._mask, self._cache).clone()
        # Only a first step meets another size; setting the limit costs tens of microseconds.
        with cast("Any", torch.compiler.config).patch(recompile_limit=_MOST_COMPILED):
            logits = self._compiled(tokens, positions, self._mask, self._cache).clone()
        self._is_compiled = True
        return logits


def _obstacle(language_model: LanguageModel) -> str | None:
    """Why a pass cannot be compiled, or could in so many pieces only that nothing is gained."""
    model: Any = language_model.model
    obstacles = {
        "its code is not made for it": not getattr(model, "_can_compile_fullgraph", False),
        "it takes no positions": not language_model.takes_positions,
        "it looks its mask up by column": language_model.has_fixed_mask,
        "it reads positions off the mask": bool(getattr(model.config, "alibi", False)),
        "its attention is not sdpa": model.config._attn_implementation != "sdpa",
        "not all of its attention is full": not can_be_cut(new_cache(language_model)),
        "its int8 layers look for outliers": any(
            type(module).__name__ == "Linear8bitLt" for module in model.modules()
        ),
        "it lies on several devices": len({each.device for each in model.parameters()}) > 1,
    }
    return next((reason for reason, applies in obstacles.items() if applies), None)


def _static_length(tokens: int) -> int:
    """Room for so many tokens, in few lengths: each is compiled for itself."""
    length = _LEAST_LENGTH
    while length < tokens:
        length *= 2
    return length
