"""Key-values of prompts, computed once by the base and kept in RAM for every later step."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, cast, final

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

from adaptive_moe.models.growing_cache import is_attention_alone, new_cache
from adaptive_moe.models.language_model import LanguageModel
from adaptive_moe.models.prefilling import forward, left_pad
from adaptive_moe.training.block_passes import PassEndedError
from adaptive_moe.training.encoding import EncodedExample
from adaptive_moe.training.layouts import Layout
from adaptive_moe.training.lower_blocks import LowerBlocks
from adaptive_moe.training.packing import KeyValues, packed_cache

_Parts = Float[Tensor, "part head _ width"]
_States = Float[Tensor, "_ hidden"]

_BLOCK = 32  # prompts of similar length that are read together


@dataclass(frozen=True, slots=True)
class Prompts:
    """A batch's prompts as the base has read them; `mask` is 1 where there is a token.

    Without a `cache` they have to run with their answers. `lower_states` are what header and answer
    are after the blocks that nothing is trained in, padded on the right.
    """

    cache: Cache | None
    mask: Int[Tensor, "batch time"]
    lower_states: Float[Tensor, "batch answer_time hidden"] | None = None


@dataclass(frozen=True, slots=True)
class PackedPrompts:
    """A packed pass's prompts, if it runs on any; `lower_states` as above, without padding."""

    cache: Cache
    layout: Layout
    lower_states: Float[Tensor, "slot token hidden"] | None = None


@dataclass(frozen=True, slots=True)
class _Kept:
    """One prompt's key-values in the blocks that are trained, and its example's lower states.

    `parts` are keys and values by turns, block by block: all in one tensor where they are alike.
    """

    parts: tuple[_Parts, ...]
    states: _States | None

    @property
    def bytes(self) -> int:
        kept = 0 if self.states is None else self.states.nbytes
        return kept + sum(each.nbytes for each in self.parts)


@final
class _LastLayer(DynamicLayer):
    """The last block's key-values, with which a prompt is read: the pass ends there."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # transformers does not annotate it

    def update(self, *given: Any, **named: Any) -> tuple[Tensor, Tensor]:  # noqa: ANN401  transformers' own
        super().update(*given, **named)
        raise PassEndedError


@final
class PromptCache:
    """Gives any batch of examples its left-padded prompt cache, as the base would compute it.

    The shortest prompts are kept, as many as fit into `capacity_bytes`; the others are read again
    every time. Which ones, and in what company they are read, depends on the examples alone, so
    that a resumed training computes the same numbers to the last bit. Models with other than
    attention layers are read again always. Of the blocks in `lower`, the states of header and
    answer are kept and no key-values.
    """

    def __init__(
        self,
        language_model: LanguageModel,
        examples: Sequence[EncodedExample],
        *,
        capacity_bytes: int,
        lower: LowerBlocks | None = None,
    ) -> None:
        self._language_model = language_model
        self._examples = examples
        self._kept: dict[int, _Kept] = {}
        self._block_of: dict[int, list[int]] = {}
        self._used_bytes = 0
        self._sliceable = is_attention_alone(new_cache(language_model))
        self._lower = lower if self._sliceable else None
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
    def batch(self, indexes: Sequence[int]) -> Prompts:
        """These prompts with a fresh cache, which may be continued freely."""
        ids, mask = left_pad(
            self._language_model, [self._examples[index].prompt_ids for index in indexes]
        )
        if not self._sliceable:
            return Prompts(self._read(ids, mask), mask)
        rows = self._rows(indexes)
        return Prompts(self._joined(rows, mask.shape[1]), mask, _right_padded(rows))

    @torch.no_grad()
    def packed(self, indexes: Sequence[int], layout: Layout) -> PackedPrompts:
        """These prompts for a pass of that layout, of a model that can be packed."""
        rows = self._rows([indexes[row] for row in layout.order])
        by_part, first = [], 0
        for part in layout.parts:
            by_part.append(_pairs(rows[first : first + part.rows], part.prompt_width))
            first += part.rows
        prompts = list(zip(*by_part, strict=True))
        cache = packed_cache(self._language_model, layout, [()] * self._skipped + prompts)
        states = [row.states for row in rows if row.states is not None]
        return PackedPrompts(cache, layout, layout.spread(torch.cat(states)) if states else None)

    @torch.no_grad()
    def _plan_blocks(self, capacity_bytes: int) -> None:
        """Decide which prompts are kept; the first block is read to learn the bytes per token."""
        order = sorted(
            range(len(self._examples)), key=lambda i: (len(self._examples[i].prompt_ids), i)
        )
        blocks = [order[start : start + _BLOCK] for start in range(0, len(order), _BLOCK)]
        first = self._read_rows(blocks[0])
        per_token = _bytes(first) // sum(map(self._tokens, first))
        planned = 0
        for block in blocks:
            planned += per_token * sum(map(self._tokens, block))
            if planned > capacity_bytes:
                return
            self._block_of |= dict.fromkeys(block, block)
            if block is blocks[0]:
                self._keep(first)

    @property
    def _skipped(self) -> int:
        return 0 if self._lower is None else self._lower.count

    def _rows(self, indexes: Sequence[int]) -> list[_Kept]:
        for index in indexes:
            if index in self._block_of and index not in self._kept:
                self._keep(self._read_rows(self._block_of[index]))
        missing = [index for index in dict.fromkeys(indexes) if index not in self._kept]
        fresh = self._read_rows(missing) if missing else {}
        return [self._kept[index] if index in self._kept else fresh[index] for index in indexes]

    def _tokens(self, index: int) -> int:
        example = self._examples[index]
        return len(example.prompt_ids) + (len(example.answer_ids) if self._lower else 0)

    def _keep(self, fresh: dict[int, _Kept]) -> None:
        self._kept |= fresh
        self._used_bytes += _bytes(fresh)

    def _read(self, ids: Int[Tensor, "batch time"], mask: Int[Tensor, "batch time"]) -> Cache:
        whole = None if bool(mask.all()) else mask
        cache = new_cache(self._language_model)
        if self._sliceable:
            # Every layer keeps all its tokens; the model's own mask still slides where it should.
            cache.layers = [*(DynamicLayer() for _ in cache.layers[1:]), _LastLayer()]
        with suppress(PassEndedError):
            forward(self._language_model, ids, cache=cache, attention_mask=whole)
        return cache

    def _read_rows(self, indexes: Sequence[int]) -> dict[int, _Kept]:
        ids, mask = left_pad(
            self._language_model, [self._examples[index].prompt_ids for index in indexes]
        )
        cache = self._read(ids, mask)
        parts = [part for pair in _tensors(cache)[self._skipped :] for part in pair]
        states = self._lower_states(indexes, cache, mask)
        kept = {}
        for row, index in enumerate(indexes):
            length = len(self._examples[index].prompt_ids)
            own = _stacked([part[row, :, -length:] for part in parts])
            kept[index] = _Kept(own, None if states is None else states[row])
        return kept

    def _lower_states(
        self, indexes: Sequence[int], cache: Cache, mask: Int[Tensor, "batch time"]
    ) -> list[_States] | None:
        """What the lower blocks make of every header and answer, behind its prompt."""
        if self._lower is None:
            return None
        model, header = self._language_model, self._language_model.header_ids
        rows = [[*header, *self._examples[index].answer_ids[:-1]] for index in indexes]
        width = max(map(len, rows))
        ids = torch.tensor([row + [0] * (width - len(row)) for row in rows], device=mask.device)
        arguments = pass_arguments(model, ids, cache, mask)
        states = self._lower.states(lambda: cast("Any", model.model)(ids, **arguments))
        return [states[place, : len(row)].clone() for place, row in enumerate(rows)]

    def _joined(self, rows: Sequence[_Kept], width: int) -> Cache:
        pairs = _pairs(rows, width)
        # Skipped blocks still tell how long the prompt is; no block reads this.
        short = (pairs[0][0][:, :1, :, :1], pairs[0][1][:, :1, :, :1])
        cache = DynamicCache()
        cache.layers = [_dynamic_layer(*pair) for pair in [short] * self._skipped + pairs]
        return cache


def pass_arguments(
    language_model: LanguageModel,
    ids: Int[Tensor, "batch time"],
    cache: Cache | None,
    mask: Int[Tensor, "batch prompt"],
) -> dict[str, Any]:
    """What the model is to be told to read `ids` after the prompts in `cache`, or with them."""
    total = ids.shape[1] + (mask.shape[1] if cache is not None else 0)
    whole = torch.cat([mask, mask.new_ones(len(ids), total - mask.shape[1])], dim=1)
    arguments: dict[str, Any] = {"use_cache": cache is not None}
    if cache is not None:
        arguments["past_key_values"] = cache
    if not bool(mask.all()):
        arguments["attention_mask"] = whole
    if language_model.takes_positions:
        positions = (whole.cumsum(dim=1) - 1)[:, -ids.shape[1] :]
        # Padding behind a short answer may lie beyond the context; nobody reads it.
        arguments["position_ids"] = positions.clamp(0, language_model.context_length - 1)
    return arguments


def _right_padded(rows: Sequence[_Kept]) -> Float[Tensor, "batch time hidden"] | None:
    states = [row.states for row in rows if row.states is not None]
    return pad_sequence(states, batch_first=True) if states else None


def _pairs(rows: Sequence[_Kept], width: int) -> list[KeyValues]:
    """Keys and values of every block, padded on the left."""
    stacks = zip(*(row.parts for row in rows), strict=True)
    parts = [part for stack in stacks for part in _left_padded(stack, width)]
    return list(zip(parts[::2], parts[1::2], strict=True))


def _dynamic_layer(keys: Tensor, values: Tensor) -> DynamicLayer:
    layer = DynamicLayer()
    layer.update(keys, values)
    return layer


def _stacked(parts: Sequence[Float[Tensor, "head _ width"]]) -> tuple[_Parts, ...]:
    """Copies of them in one tensor, or in one each where they differ in shape."""
    if len({part.shape for part in parts}) == 1:
        return (torch.stack(list(parts)),)
    return tuple(part[None].clone() for part in parts)


def _left_padded(rows: Sequence[_Parts], width: int) -> Float[Tensor, "part batch head time width"]:
    parts, heads, _, size = rows[0].shape
    padded = rows[0].new_empty((parts, len(rows), heads, width, size))
    for place, row in enumerate(rows):
        missing = width - row.shape[2]
        padded[:, place, :, :missing] = 0
        padded[:, place, :, missing:] = row
    return padded


def _tensors(cache: Cache) -> list[tuple[Tensor, Tensor]]:
    layers = cast("list[Any]", cache.layers)
    return [(layer.keys, layer.values) for layer in layers]


def _bytes(rows: dict[int, _Kept]) -> int:
    return sum(row.bytes for row in rows.values())
