"""Passes of which some tokens are wanted: the others end at the last block's key-values."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, cast, final

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers.cache_utils import Cache

from adaptive_moe.models.language_model import LanguageModel
from adaptive_moe.training.block_passes import PassEndedError, exchanged_forwards
from adaptive_moe.training.layouts import Layout, lay_out
from adaptive_moe.training.packing import PackedLayer, are_alike, packed, packed_cache


@final
class LastBlock:
    """The last decoder block, which of most tokens computes only what the others attend to."""

    def __init__(self, language_model: LanguageModel) -> None:
        self._block = language_model.blocks[-1]
        self._language_model = language_model

    @torch.no_grad()
    def gives_the_same(self, states: Callable[..., Tensor]) -> bool:
        """Whether the wanted tokens' last states are those of a pass that runs all to the end."""
        try:
            return all(self._is_same(states, slots) for slots in ((), (0, 1)))
        except (AttributeError, IndexError, KeyError, TypeError, ValueError, RuntimeError):
            return False

    @contextmanager
    def asked(
        self, cache: Cache, layout: Layout, tail: Layout, needed: Int[Tensor, " token"]
    ) -> Iterator[None]:
        """Inside, a packed pass on `cache` gives only some tokens, laid out as in `tail`.

        `needed` are the places of these in the order of `layout`. To be used while nobody else can
        run the model.
        """
        layer = cast("PackedLayer", cache.layers[-1])
        whole = self._block.forward

        def chosen(value: Any, shape: torch.Size) -> Any:  # noqa: ANN401  the block's own
            if isinstance(value, tuple):
                return tuple(chosen(each, shape) for each in value)
            if not isinstance(value, Tensor) or value.shape[:2] != shape:
                return value
            return tail.spread(layout.taken(value.flatten(0, 1)).index_select(0, needed))

        def forward(
            hidden_states: Float[Tensor, "slot time hidden"],
            *arguments: Any,  # noqa: ANN401  as above
            **named: Any,  # noqa: ANN401  as above
        ) -> object:
            shape = hidden_states.shape[:2]
            with layer.asked(tail):
                with suppress(PassEndedError):
                    whole(hidden_states, *arguments, **named)
                few = {name: chosen(value, shape) for name, value in named.items()}
                return whole(chosen(hidden_states, shape), *chosen(arguments, shape), **few)

        with exchanged_forwards({self._block: forward}):
            yield

    def _is_same(self, states: Callable[..., Tensor], slots: tuple[int, ...]) -> bool:
        """Two rows of any tokens, of which the last one and the last two are wanted."""
        device = self._language_model.device
        layout = lay_out((0, 0), (4, 5), device=device, slots=slots)
        tail = lay_out((3, 3), (1, 2), device=device, slots=slots, tail_of=layout)
        needed = torch.tensor([3, 7, 8], device=device)
        ids = layout.spread(torch.arange(3, 12, device=device))

        def run(cache: Cache) -> Tensor:
            found = states(
                ids, past_key_values=cache, position_ids=layout.positions, use_cache=True
            )
            return found.flatten(0, 1)

        with packed(self._language_model):
            whole = layout.taken(run(packed_cache(self._language_model, layout)))[needed]
            cache = packed_cache(self._language_model, layout)
            with self.asked(cache, layout, tail, needed):
                few = tail.taken(run(cache))
        return are_alike(few, whole)
