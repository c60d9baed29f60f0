"""Tells a training that blew up from one that learnt or merely overfitted."""

from collections.abc import Sequence

from adaptive_moe.config.settings import TrainingSettings
from adaptive_moe.errors import DivergedError
from adaptive_moe.training.results import HistoryPoint

_RISEN = 1.1  # times the loss before the first step: clearly above it
_BLOWN_UP = 1.5  # times it, in training: what was adapted is destroyed, whatever is learnt later
_FEWEST_STEPS, _FEWEST_EXAMPLES = 4, 64  # in a row, for their mean loss to tell anything


def steps_in_a_row(settings: TrainingSettings) -> int:
    """How many steps' mean loss is held against that before the first step."""
    return max(_FEWEST_STEPS, -(-_FEWEST_EXAMPLES // settings.batch_size))


def check_convergence(
    history: Sequence[HistoryPoint],
    *,
    best_step: int,
    first_loss: float,
    peak_loss: float,
    settings: TrainingSettings,
) -> None:
    """Raise DivergedError, naming the rate, where the finished training of a history diverged.

    `history` begins before the first step; `first_loss` is that of the first step's examples, under
    the base still, `peak_loss` the highest mean of `steps_in_a_row`. Overfitting raises the
    held-out loss alone. Divergence raises that of training too: it ends above where it began, with
    no better weights than none, or has jumped far above it, and no more answers are exactly right.
    """
    before, *_, last = history
    best = next(point for point in history if point.step == best_step)
    reference = max(first_loss, before.held_out.loss)
    has_risen = (
        last.loss is not None
        and last.loss > _RISEN * reference
        and last.held_out.loss > _RISEN * before.held_out.loss
    )
    if best_step == 0 and has_risen:
        assert last.loss is not None
        raise DivergedError(_told(reference, last.loss, settings))
    if peak_loss > _BLOWN_UP * reference and best.held_out.exact <= before.held_out.exact:
        raise DivergedError(_told(reference, peak_loss, settings))


def _told(before: float, after: float, settings: TrainingSettings) -> str:
    return (
        f"the training diverged: its loss rose from {before:.2f} to {after:.2f} nats per token; "
        f"lower training.learning_rate ({settings.learning_rate:g}) or training.alpha "
        f"({settings.alpha:g})"
    )
