"""Passes that keep what enters each decoder block, and compute the rest again for gradients."""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, final

from torch.utils.checkpoint import checkpoint
from transformers.cache_utils import Cache, DynamicLayer, DynamicSlidingWindowLayer

from adaptive_moe.models.language_model import LanguageModel
from adaptive_moe.training.block_passes import exchanged_forwards
from adaptive_moe.training.packing import PackedLayer

# They replace their tensors, never write into them.
_RESTORABLE = (DynamicLayer, DynamicSlidingWindowLayer, PackedLayer)


@final
class RecomputedBlocks:
    """The decoder blocks from `first` on, with gradient checkpointing (Chen et al. 2016).

    Unlike transformers' own it goes together with a key-value cache, and needs no training mode,
    in which a frozen base would drop units at random. Blocks on a cache that cannot be put back,
    such as a recurrent state, run as they are.
    """

    def __init__(self, language_model: LanguageModel, *, first: int = 0) -> None:
        self._blocks = list(enumerate(language_model.blocks))[first:]

    @contextmanager
    def active(self) -> Iterator[None]:
        """Passes begun in here are recomputed by `backward`, which may come later.

        Whatever is active in the blocks must still be active then.
        """
        forwards = {
            block: functools.partial(_forward, place, block.forward)
            for place, block in self._blocks
        }
        with exchanged_forwards(forwards):
            yield


def _forward(
    place: int,
    block: Callable[..., object],
    *arguments: Any,  # noqa: ANN401  the block's own
    **named: Any,  # noqa: ANN401  as above
) -> object:
    given = [each for each in (*arguments, *named.values()) if isinstance(each, Cache)]
    if not given:
        return checkpoint(block, *arguments, use_reentrant=False, preserve_rng_state=False, **named)
    layer = given[0].layers[place] if place < len(given[0].layers) else None
    if type(layer) not in _RESTORABLE:
        return block(*arguments, **named)
    before = dict(vars(layer))

    def on_the_prompt_alone(*again: Any, **too: Any) -> object:  # noqa: ANN401  as above
        """What the block adds to the cache is taken back, so that nothing else keeps it."""
        try:
            return block(*again, **too)
        finally:
            vars(layer).clear()
            vars(layer).update(before)

    return checkpoint(
        on_the_prompt_alone, *arguments, use_reentrant=False, preserve_rng_state=False, **named
    )
