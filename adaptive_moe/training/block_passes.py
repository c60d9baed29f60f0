"""Decoder blocks that run otherwise for a while, and passes that end before their model does."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import nn


class PassEndedError(Exception):
    """A pass has come as far as it is needed; nothing went wrong."""


@contextmanager
def exchanged_forwards(forwards: Mapping[nn.Module, Callable[..., Any]]) -> Iterator[None]:
    """Inside, blocks run by these functions; to be used while nobody else can run the model."""
    # A block may have a forward of its own already, from whoever moves its weights.
    own = {block: vars(block).get("forward") for block in forwards}
    try:
        for block, forward in forwards.items():
            vars(block)["forward"] = forward
        yield
    finally:
        for block, before in own.items():
            vars(block).pop("forward", None)
            if before is not None:
                vars(block)["forward"] = before
