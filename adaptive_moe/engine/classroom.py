"""Has a teacher write about the material of a training: the base itself, or another."""

from collections.abc import Callable, Sequence
from typing import final

from adaptive_moe.config.settings import TrainingSettings
from adaptive_moe.engine.answering import Answerer
from adaptive_moe.engine.events import TeacherStep
from adaptive_moe.engine.orders import Listener
from adaptive_moe.experts.store import Store
from adaptive_moe.training.interruption import interruptible
from adaptive_moe.training.lessons import Known, Lessons, write_lessons
from adaptive_moe.training.material import Material
from adaptive_moe.training.remembered import RememberingTeacher
from adaptive_moe.training.splits import row_example
from adaptive_moe.training.synthesis import Example
from adaptive_moe.training.teacher import LocalTeacher, Teacher, open_teacher

LESSONS_FOLDER = "lessons"


@final
class Classroom:
    """Opens the teacher of the settings for one material at a time; its replies are kept."""

    def __init__(self, answerer: Answerer, store: Store) -> None:
        self._answerer = answerer
        self._store = store

    def lessons(
        self,
        material: Material,
        synthesised: Sequence[Example],
        settings: TrainingSettings,
        *,
        listener: Listener | None,
        cancelled: Callable[[], bool] | None,
    ) -> Lessons | None:
        """What the teacher wrote about the documents; None without a teacher or documents.

        Raises TeacherError, ModelError where a local one cannot be loaded, and
        TrainingInterruptedError; whatever was written until then is kept.
        """
        if settings.teacher is None or not material.passages:
            return None
        rows = [row_example(row) for row in material.rows]
        asks_again = settings.teacher_round_trip
        with (
            interruptible(cancelled, at="while the teacher was asked"),
            open_teacher(
                settings,
                base=lambda: self._base(settings),
                device=str(self._answerer.language_model.device),
                seed=settings.seed,
            ) as teacher,
        ):
            assert teacher is not None, "the settings name one"

            def tell(done: int, passages: int) -> None:
                if listener is not None:
                    listener(TeacherStep(teacher.name, done, passages))

            return write_lessons(
                RememberingTeacher(teacher, self._store.root / LESSONS_FOLDER),
                material.passages,
                Known((*synthesised, *rows), material.reserved),
                seed=settings.seed,
                round_trip=settings.teacher == "base" if asks_again is None else asks_again,
                tell=tell,
            )

    def _base(self, settings: TrainingSettings) -> Teacher:
        bank = self._answerer.bank
        return LocalTeacher(
            self._answerer.language_model,
            "base",
            settings,
            seed=settings.seed,
            alone=lambda rows: bank.activate([()] * rows),
            make_room=self._answerer.cache.evict_idle,
        )
