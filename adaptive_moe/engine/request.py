"""How a batch of prompts is to be answered."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from transformers import GenerationConfig

from adaptive_moe.router.router import ExpertArm

Forced = Literal["auto"] | None | Sequence[str]


@dataclass(frozen=True, slots=True)
class Request:
    """The settings of one call; they hold for all its prompts.

    `experts` None is the base alone. `samples` counts the answers to each prompt. With `arms` the
    router chooses among these instead of all active experts.
    """

    generation: GenerationConfig
    experts: Forced = "auto"
    attribution: bool = True
    seed: int | None = None
    stop: Callable[[], bool] | None = None
    arms: tuple[ExpertArm, ...] | None = None
    samples: int = 1
