"""Passes that skip the blocks below an expert: what those make of an answer stays the same."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from adaptive_moe.models.language_model import LanguageModel
from adaptive_moe.training.block_passes import PassEndedError, exchanged_forwards


@final
class LowerBlocks:
    """The first `count` decoder blocks of a model, which no expert of this training touches."""

    def __init__(self, language_model: LanguageModel, count: int) -> None:
        self.count = count
        self._skipped = list(language_model.blocks[:count])
        self._next = language_model.blocks[count]
        self._gives_tuples = False

    @torch.no_grad()
    def states(self, run: Callable[[], object]) -> Float[Tensor, "batch time hidden"]:
        """What reaches the next block when `run` passes tokens through the model; it ends there."""
        found: list[Tensor] = []

        def stop(_block: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
            found.append(_states(arguments, named))
            raise PassEndedError

        def look(_block: nn.Module, _arguments: object, output: object) -> None:
            self._gives_tuples = isinstance(output, tuple)

        handles = [
            self._next.register_forward_pre_hook(stop, with_kwargs=True),
            self._skipped[-1].register_forward_hook(look),
        ]
        try:
            run()
        except PassEndedError:
            pass
        finally:
            for handle in handles:
                handle.remove()
        return found[0]

    @contextmanager
    def skipped(self, states: Float[Tensor, "batch time hidden"]) -> Iterator[None]:
        """Inside the block the model passes these states to the next block, whatever its input.

        To be used while nobody else can run the model.
        """

        def idle(hidden_states: Tensor, *_: object, **__: object) -> object:
            return (hidden_states,) if self._gives_tuples else hidden_states

        def exchange(
            _block: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]
        ) -> tuple[tuple[Any, ...], dict[str, Any]]:
            if "hidden_states" in named:
                return arguments, {**named, "hidden_states": states}
            return (states, *arguments[1:]), named

        handle = self._next.register_forward_pre_hook(exchange, with_kwargs=True)
        try:
            with exchanged_forwards(dict.fromkeys(self._skipped, idle)):
                yield
        finally:
            handle.remove()


def _states(arguments: tuple[Any, ...], named: dict[str, Any]) -> Tensor:
    states = named["hidden_states"] if "hidden_states" in named else arguments[0]
    return cast("Tensor", states).detach()
