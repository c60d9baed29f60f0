"""How long a training will take, from some of its steps."""

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import pairwise
from statistics import fmean

from adaptive_moe.config.settings import TrainingSettings

_EVALUATED = 6  # steps
_MOST_STEPS = 60
_ENOUGH_SECONDS = 5.0  # a machine's pace changes from second to second
_NO_END = 1 << 30


class _Enough(Exception):  # noqa: N818  nothing went wrong
    """The training has been measured."""


def measuring(settings: TrainingSettings) -> TrainingSettings:
    """The settings of a training that is only to be measured."""
    changes = {"max_steps": _MOST_STEPS, "evaluate_every": _EVALUATED, "patience": _NO_END}
    return settings.model_copy(update=changes)


def moments_of(train: Callable[[Callable[[object], None]], object]) -> list[float]:
    """When a training with such settings began, and when each of its first steps was over.

    `train` hands its argument to the training, to be called after each step. It is stopped after
    the first evaluation when five seconds of steps are there.
    """
    told = [time.perf_counter()]

    def listen(_: object) -> None:
        told.append(time.perf_counter())
        if len(told) > _EVALUATED and told[-1] - told[1] >= _ENOUGH_SECONDS:
            raise _Enough

    with suppress(_Enough):
        train(listen)
    return told


def foretold_seconds(told: Sequence[float], settings: TrainingSettings) -> float:
    """Seconds of a whole training, from `moments_of` it: six steps at least.

    The time to the first moment, with reading and the evaluation before the first step, is taken
    as it is; every other step and evaluation counts as much as those that were measured.
    """
    first, *others = (after - before for before, after in pairwise(told))
    evaluated = others[_EVALUATED - 2 :: _EVALUATED]
    steps = [each for number, each in enumerate(others, start=2) if number % _EVALUATED]
    per_step = fmean(steps)
    evaluation = max(0.0, fmean(evaluated) - per_step)
    evaluations = settings.max_steps // settings.evaluate_every
    return first + (settings.max_steps - 1) * per_step + evaluations * evaluation
