"""What a training tells its listener while it runs."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TrainingProgress:
    """One finished optimiser step.

    `loss` is the mean over the step's answer tokens, in nats; `tokens_per_second` counts answer
    tokens over the whole run so far; `eta_seconds` assumes that every planned step is taken.
    The held-out figures are those of the latest evaluation, None before the first.
    """

    step: int
    steps: int
    loss: float
    tokens_per_second: float
    eta_seconds: float
    learning_rate: float
    held_out_loss: float | None = None
    held_out_exact: float | None = None
