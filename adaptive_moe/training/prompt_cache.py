"""Key-values of prompts, computed once by the base and kept in RAM for every later step."""

from collections.abc import Sequence
from typing import Any, cast, final

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import pad
from transformers.cache_utils import (
    Cache,
    DynamicCache,
    DynamicLayer,
    DynamicSlidingWindowLayer,
)

from adaptive_moe.models.growing_cache import new_cache
from adaptive_moe.models.language_model import LanguageModel
from adaptive_moe.models.prefilling import forward, left_pad
from adaptive_moe.training.encoding import EncodedExample

_Layers = tuple[tuple[Float[Tensor, "head _ width"], Float[Tensor, "head _ width"]], ...]
_SLICEABLE = (DynamicLayer, DynamicSlidingWindowLayer)


_BLOCK = 32  # prompts of similar length that are read together


@final
class PromptCache:
    """Gives any batch of examples its left-padded prompt cache, as the base would compute it.

    The shortest prompts are kept, as many as fit into `capacity_bytes`; the others are read again
    every time. Which ones, and in what company they are read, depends on the examples alone, so
    that a resumed training computes the same numbers to the last bit. Models with other than
    attention layers are read again always.
    """

    def __init__(
        self,
        language_model: LanguageModel,
        examples: Sequence[EncodedExample],
        *,
        capacity_bytes: int,
    ) -> None:
        self._language_model = language_model
        self._examples = examples
        self._kept: dict[int, _Layers] = {}
        self._block_of: dict[int, list[int]] = {}
        self._used_bytes = 0
        layers = new_cache(language_model).layers
        self._sliceable = all(type(layer) in _SLICEABLE for layer in layers)
        if self._sliceable and capacity_bytes > 0:
            self._plan_blocks(capacity_bytes)

    @property
    def used_bytes(self) -> int:
        """Bytes of the key-values kept now."""
        return self._used_bytes

    @torch.no_grad()
    def read_ahead(self) -> bool:
        """Read one block of the prompts that are to be kept; False when all are there."""
        for index, block in self._block_of.items():
            if index not in self._kept:
                self._keep(self._read_rows(block))
                return True
        return False

    @torch.no_grad()
    def batch(self, indexes: Sequence[int]) -> tuple[Cache, Int[Tensor, "batch time"]]:
        """A fresh cache of these prompts and its mask (1 = a token); it may be continued freely."""
        ids, mask = left_pad(
            self._language_model, [self._examples[index].prompt_ids for index in indexes]
        )
        if not self._sliceable:
            return self._read(ids, mask), mask
        for index in indexes:
            if index in self._block_of and index not in self._kept:
                self._keep(self._read_rows(self._block_of[index]))
        missing = [index for index in indexes if index not in self._kept]
        fresh = self._read_rows(missing) if missing else {}
        rows = [self._kept[index] if index in self._kept else fresh[index] for index in indexes]
        return self._joined(rows, mask.shape[1]), mask

    @torch.no_grad()
    def _plan_blocks(self, capacity_bytes: int) -> None:
        """Decide which prompts are kept; the first block is read to learn the bytes per token."""
        order = sorted(
            range(len(self._examples)), key=lambda i: (len(self._examples[i].prompt_ids), i)
        )
        blocks = [order[start : start + _BLOCK] for start in range(0, len(order), _BLOCK)]
        first = self._read_rows(blocks[0])
        per_token = _bytes(first) // sum(len(self._examples[i].prompt_ids) for i in first)
        planned = 0
        for block in blocks:
            planned += per_token * sum(len(self._examples[i].prompt_ids) for i in block)
            if planned > capacity_bytes:
                return
            self._block_of |= dict.fromkeys(block, block)
            if block is blocks[0]:
                self._keep(first)

    def _keep(self, fresh: dict[int, _Layers]) -> None:
        self._kept |= fresh
        self._used_bytes += _bytes(fresh)

    def _read(self, ids: Int[Tensor, "batch time"], mask: Int[Tensor, "batch time"]) -> Cache:
        # Every layer keeps all its tokens; the model's own mask still slides where it should.
        cache = DynamicCache() if self._sliceable else new_cache(self._language_model)
        whole = None if bool(mask.all()) else mask
        forward(self._language_model, ids, cache=cache, attention_mask=whole)
        return cache

    def _read_rows(self, indexes: Sequence[int]) -> dict[int, _Layers]:
        ids, mask = left_pad(
            self._language_model, [self._examples[index].prompt_ids for index in indexes]
        )
        tensors = _tensors(self._read(ids, mask))
        rows = {}
        for row, index in enumerate(indexes):
            length = len(self._examples[index].prompt_ids)
            rows[index] = tuple(
                (keys[row, :, -length:].clone(), values[row, :, -length:].clone())
                for keys, values in tensors
            )
        return rows

    def _joined(self, rows: Sequence[_Layers], width: int) -> Cache:
        cache = DynamicCache()
        for layer in range(len(rows[0])):
            keys = torch.stack([_left_padded(row[layer][0], width) for row in rows])
            values = torch.stack([_left_padded(row[layer][1], width) for row in rows])
            cache.update(keys, values, layer)
        return cache


def _left_padded(
    states: Float[Tensor, "head time width"], width: int
) -> Float[Tensor, "head all_time width"]:
    missing = width - states.shape[1]
    return pad(states, (0, 0, missing, 0)) if missing else states


def _tensors(cache: Cache) -> list[tuple[Tensor, Tensor]]:
    layers = cast("list[Any]", cache.layers)
    return [(layer.keys, layer.values) for layer in layers]


def _bytes(rows: dict[int, _Layers]) -> int:
    return sum(keys.nbytes + values.nbytes for layers in rows.values() for keys, values in layers)
