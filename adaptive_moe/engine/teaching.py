"""What a runtime offers to those who teach it: prepare, plan, estimate and train."""

from abc import ABC
from collections.abc import Callable

from adaptive_moe.config.loading import amend
from adaptive_moe.config.settings import Settings, TrainingSettings
from adaptive_moe.engine.closing import Closable
from adaptive_moe.engine.growing import Grower
from adaptive_moe.engine.orders import (
    Listener,
    Paths,
    Prepared,
    TrainingEstimate,
    TrainingOrder,
    TrainingOutcome,
    as_paths,
)
from adaptive_moe.errors import ConfigurationError
from adaptive_moe.training.ranks import MEASURED, RankPlan


class Teachable(Closable, ABC):
    """The part of the runtime that makes experts of material."""

    settings: Settings
    _grower: Grower

    def train_expert(
        self,
        name: str,
        data: Paths | Prepared,
        *,
        ranks: str | None = None,
        rank: int | None = None,
        limit: int | None = None,
        force: bool = False,
        listener: Listener | None = None,
        cancelled: Callable[[], bool] | None = None,
        evaluating: Callable[[], None] | None = None,
    ) -> TrainingOutcome:
        """Train an expert on files or folders, or on what was prepared of them; ask the gate.

        It goes live if the gate accepts it; otherwise it is kept as rejected with the figures
        (with `force` as quarantined). Raises DataError for unusable material, TeacherError where
        `training.teacher` does not answer, and TrainingError when the training does not end well;
        the version in service stays as it was. `evaluating` is called when the training is over
        and the gate begins.
        """
        if not isinstance(data, Prepared):
            order = TrainingOrder(name, as_paths(data), limit, force)
            settings = self._training(ranks, rank)
        elif (ranks, rank, limit) == (None, None, None):
            order, settings = TrainingOrder(name, data, force=force), data.settings
        else:
            raise ConfigurationError(
                "this material is prepared already; give ranks, rank and limit to prepare_expert"
            )
        return self._grower.grow(
            order, settings, listener=listener, cancelled=cancelled, evaluating=evaluating
        )

    def prepare_expert(
        self,
        data: Paths,
        *,
        ranks: str | None = None,
        rank: int | None = None,
        limit: int | None = None,
        listener: Listener | None = None,
        cancelled: Callable[[], bool] | None = None,
    ) -> Prepared:
        """Read and split the material and plan the ranks, to be looked at before `train_expert`.

        With `training.teacher` the teacher is asked here, which takes its time. Raises DataError
        for unusable material, and TeacherError.
        """
        return self._grower.prepare(
            as_paths(data),
            self._training(ranks, rank),
            limit=limit,
            listener=listener,
            cancelled=cancelled,
        )

    def plan_expert(
        self,
        data: Paths | None = None,
        *,
        ranks: str | None = None,
        rank: int | None = None,
    ) -> RankPlan:
        """The rank of every module that a training would use; `gradient` needs `data`.

        Raises ConfigurationError when it has none.
        """
        paths = () if data is None else as_paths(data)
        settings = self._training(ranks, rank)
        is_measured = settings.ranks in MEASURED or settings.budget == "auto"
        if is_measured and not paths:
            what = f"ranks {settings.ranks}" if settings.ranks in MEASURED else "budget auto"
            raise ConfigurationError(
                f"{what}: this is measured on training material; name it (data, or --data on the "
                "command line), or choose otherwise"
            )
        return self._grower.plan(paths, settings)

    def estimate_expert(
        self,
        data: Paths,
        *,
        ranks: str | None = None,
        rank: int | None = None,
        limit: int | None = None,
    ) -> TrainingEstimate:
        """Steps and tokens of a training, and seconds and bytes from a few measured steps."""
        settings = self._training(ranks, rank)
        return self._grower.estimate(as_paths(data), settings, limit=limit)

    def _training(self, ranks: str | None, rank: int | None) -> TrainingSettings:
        return amend(self.settings.training, {"ranks": ranks, "rank": rank}, name="training")
