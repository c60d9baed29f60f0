"""How long a training will take, from a few of its steps."""

from collections.abc import Sequence
from itertools import pairwise
from statistics import median

from adaptive_moe.config.settings import TrainingSettings


def foretold_seconds(
    told: Sequence[float], settings: TrainingSettings, *, reading_seconds: float
) -> float:
    """Seconds of all steps, of the evaluations between them, and of reading the prompts.

    `told` are the moments at which three measured steps or more were over; the last one was
    followed by an evaluation. By the median one step that warms up or is held up does not count.
    """
    *steps, last = (after - before for before, after in pairwise(told))
    per_step = median(steps)
    evaluation = max(0.0, last - per_step)
    # The first is before the first step.
    evaluations = settings.max_steps // settings.evaluate_every + 1
    return reading_seconds + settings.max_steps * per_step + evaluations * evaluation
