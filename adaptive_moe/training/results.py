"""What a finished training gives back."""

from dataclasses import dataclass

from adaptive_moe.experts.weights import LoraWeights
from adaptive_moe.training.steps import Evaluation


@dataclass(frozen=True, slots=True)
class HistoryPoint:
    """One held-out evaluation: after how many steps, and the training loss since the last one."""

    step: int
    loss: float | None
    held_out: Evaluation


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """The best weights seen (scaling folded in) and how the training went.

    Losses are held-out nats per answer token; `exact_before` and `exact_after` the share of
    held-out answers that greedy decoding gets exactly right. `steps` counts those taken, `tokens`
    the answer tokens trained on, `reading_seconds` the part of `seconds` spent on reading prompts
    ahead of the first step. `skipped_steps` were not finite.
    """

    weights: LoraWeights
    steps: int
    best_step: int
    tokens: int
    seconds: float
    loss_before: float
    loss_after: float
    exact_before: float
    exact_after: float
    history: tuple[HistoryPoint, ...]
    skipped_steps: int
    prompt_cache_bytes: int
    reading_seconds: float
