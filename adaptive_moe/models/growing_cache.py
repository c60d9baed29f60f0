"""Key-value caches that are shared, cut and continued without copying what they hold.

transformers' `DynamicLayer` concatenates: every token of every layer copies all that came before.
Here a layer that is decoded on has a buffer with room at its end, and a token is written there.
"""

import copy
from typing import Any, cast, final

from jaxtyping import Float
from torch import Tensor
from transformers.cache_utils import (
    Cache,
    DynamicCache,
    DynamicLayer,
    DynamicSlidingWindowLayer,
)

from adaptive_moe.models.language_model import LanguageModel

_LEAST_ROOM = 64  # tokens; a buffer that is full doubles what it has room for


@final
class GrowingLayer(DynamicLayer):
    """A full-attention layer that owns its buffer; `keys` and `values` are views of its beginning.

    It only ever writes behind its own end, so a shallow copy that gives up the buffer keeps what
    it sees for good, whatever the owner goes on to write.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # transformers does not annotate it
        self._buffers: tuple[Tensor, Tensor] | None = None

    @classmethod
    def continuing(cls, layer: DynamicLayer) -> "GrowingLayer":
        """A layer that begins with the content of another one, which is left as it is."""
        grown = cls()
        if layer.is_initialized:
            grown.dtype, grown.device = layer.dtype, layer.device
            grown.keys, grown.values = layer.keys, layer.values
            grown.is_initialized = True
        return grown

    def forked(self) -> "GrowingLayer":
        """A second layer with the same content; the first to keep the buffer."""
        return GrowingLayer.continuing(self)

    def update(
        self,
        key_states: Float[Tensor, "batch head time width"],
        value_states: Float[Tensor, "batch head time value_width"],
        *_arguments: object,
        **_options: object,
    ) -> tuple[Float[Tensor, "batch head all width"], Float[Tensor, "batch head all value_width"]]:
        """Write the new tokens behind the old ones; returns views of all of them."""
        if not self.is_initialized:
            self.dtype, self.device = key_states.dtype, key_states.device
            self.keys = key_states.new_empty((*key_states.shape[:2], 0, key_states.shape[3]))
            self.values = value_states.new_empty(
                (*value_states.shape[:2], 0, value_states.shape[3])
            )
            self.is_initialized = True
        held_keys, held_values = cast("Tensor", self.keys), cast("Tensor", self.values)
        start = held_keys.shape[2]
        end = start + key_states.shape[2]
        if self._buffers is None or self._buffers[0].shape[2] < end:
            self._buffers = (_with_room(held_keys, end), _with_room(held_values, end))
        keys, values = self._buffers
        keys[:, :, start:end] = key_states
        values[:, :, start:end] = value_states
        self.keys, self.values = keys[:, :, :end], values[:, :, :end]
        return self.keys, self.values


# Their update() binds new tensors and never writes into the old ones.
_CONCATENATING = (DynamicLayer, DynamicSlidingWindowLayer)


def new_cache(language_model: LanguageModel) -> Cache:
    """An empty cache with the layer types (full, sliding, ...) that this model needs."""
    return DynamicCache(config=cast("Any", language_model.model.config))


def is_attention_alone(cache: Cache) -> bool:
    """Whether every layer of a new cache keeps keys and values by token, of all or the last."""
    return all(type(layer) in {DynamicLayer, DynamicSlidingWindowLayer} for layer in cache.layers)


def fork(cache: Cache) -> Cache:
    """A second cache with the same content; continuing one leaves the other as it was.

    Layers whose old tensors are never written to are shared; any other kind is copied.
    """
    return _like(cache, [_forked(layer) for layer in cache.layers])


def growing(cache: Cache) -> Cache:
    """A fork to be decoded on, a token at a time."""
    layers = fork(cache).layers
    return _like(
        cache,
        [GrowingLayer.continuing(each) if type(each) is DynamicLayer else each for each in layers],
    )


def can_be_cut(cache: Cache) -> bool:
    """Whether `without_last` is exact: sliding and recurrent layers have forgotten too much."""
    return all(type(layer) in {DynamicLayer, GrowingLayer} for layer in cache.layers)


def without_last(cache: Cache, tokens: int) -> Cache:
    """A fork that ends so many tokens earlier; the cache is one that `can_be_cut`."""
    assert can_be_cut(cache), "this cache cannot be cut"
    shorter = fork(cache)
    if tokens:
        for layer in cast("list[Any]", shorter.layers):
            layer.keys, layer.values = layer.keys[:, :, :-tokens], layer.values[:, :, :-tokens]
    return shorter


def _with_room(states: Float[Tensor, "batch head time width"], length: int) -> Tensor:
    """A buffer that begins with the states and has room for at least `length` tokens."""
    batch, heads, held, width = states.shape
    room = max(length, 2 * held if held > _LEAST_ROOM else held + _LEAST_ROOM)
    buffer = states.new_empty((batch, heads, room, width))
    buffer[:, :, :held] = states
    return buffer


def _forked(layer: Any) -> Any:  # noqa: ANN401 - the mixin of cache layers is not public
    if type(layer) is GrowingLayer:
        return layer.forked()
    return copy.copy(layer) if type(layer) in _CONCATENATING else copy.deepcopy(layer)


def _like(cache: Cache, layers: list[Any]) -> Cache:
    twin = copy.copy(cache)
    twin.layers = layers
    return twin
