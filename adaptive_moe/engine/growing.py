"""From material to a live expert: read, split, plan, train, gate, publish."""

import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Literal, final

from adaptive_moe.config.settings import TrainingSettings
from adaptive_moe.engine.answering import Answerer
from adaptive_moe.engine.classroom import Classroom
from adaptive_moe.engine.events import ExpertReady, TrainingStep, to_json
from adaptive_moe.engine.expert_folder import write_imported, write_trained
from adaptive_moe.engine.judging import Judge
from adaptive_moe.engine.orders import (
    Listener,
    Prepared,
    TrainingEstimate,
    TrainingOrder,
    TrainingOutcome,
)
from adaptive_moe.engine.rehearsal import rehearsal_stage
from adaptive_moe.engine.shelf import HELD_OUT_BASE, HELD_OUT_RIGHT, HELD_OUT_TRIALS, Trial
from adaptive_moe.engine.states import StateReader
from adaptive_moe.errors import TooFewExamplesError
from adaptive_moe.experts.adapter_files import import_adapter
from adaptive_moe.experts.store import ExpertRecord, Store, check_name
from adaptive_moe.models.linear_layers import LinearLayer, select, upper_blocks
from adaptive_moe.models.memory import peak_rss_bytes
from adaptive_moe.router.boundary import Outside, Placed
from adaptive_moe.training.batching import step_examples
from adaptive_moe.training.capacity import answer_bits, fitting_rank
from adaptive_moe.training.checkpoints import remove_checkpoint
from adaptive_moe.training.cleaning import clean
from adaptive_moe.training.conversations import conversation_stage, in_conversation
from adaptive_moe.training.encoding import encode_examples, fits_whole
from adaptive_moe.training.events import TrainingProgress
from adaptive_moe.training.fitting import fit_to_context
from adaptive_moe.training.foretelling import foretold_seconds, measuring, moments_of
from adaptive_moe.training.gate import GateReport
from adaptive_moe.training.importance import measured_importance
from adaptive_moe.training.interruption import interruptible
from adaptive_moe.training.lesson_prompts import pieces
from adaptive_moe.training.material import read_material
from adaptive_moe.training.ranks import MEASURED, RankPlan, plan_ranks
from adaptive_moe.training.results import TrainingResult
from adaptive_moe.training.splits import METRICS, split_examples, split_stage
from adaptive_moe.training.synthesis import Example, synthesis_stage, synthesise
from adaptive_moe.training.trainer import train_lora


@final
class Grower:
    """Trains experts for one runtime; the answerer keeps serving meanwhile."""

    def __init__(self, answerer: Answerer, store: Store, states: StateReader, judge: Judge) -> None:
        self._answerer = answerer
        self._store = store
        self._states = states
        self._judge = judge
        self._classroom = Classroom(answerer, store)

    def grow(
        self,
        order: TrainingOrder,
        settings: TrainingSettings,
        *,
        listener: Listener | None = None,
        cancelled: Callable[[], bool] | None = None,
        evaluating: Callable[[], None] | None = None,
    ) -> TrainingOutcome:
        """Train, measure and publish; live only if the gate accepts.

        Interrupted in training or at the gate it leaves a checkpoint and publishes nothing; the
        same order goes on from there.
        `evaluating` is called when the training is over and the gate begins.
        """
        started = time.perf_counter()
        check_name(order.name)
        self._store.check_writable()
        self._judge.check(settings)
        prepared = (
            order.data
            if isinstance(order.data, Prepared)
            else self.prepare(
                order.data, settings, limit=order.limit, listener=listener, cancelled=cancelled
            )
        )
        checkpoint = self._store.root / "training" / order.name
        result = self._train(
            order.name, prepared, settings, checkpoint, listener=listener, cancelled=cancelled
        )
        if evaluating is not None:
            evaluating()
        with interruptible(cancelled):
            record, report = self._admit(order, prepared, result, settings)
        remove_checkpoint(checkpoint)
        if listener is not None:
            listener(ExpertReady(record.name, record.version, record.status, record.reason))
        return TrainingOutcome(
            record=record,
            report=report,
            plan=prepared.plan,
            result=result,
            shape=prepared.material.shape,
            examples=len(prepared.split.train),
            selection=prepared.split.selection_only,
            held_out=len(prepared.split.held_out),
            dropped=prepared.dropped,
            cut=prepared.cut,
            seconds=time.perf_counter() - started,
            teacher=None if prepared.lessons is None else prepared.lessons.record(),
        )

    def prepare(
        self,
        data: Sequence[Path],
        settings: TrainingSettings,
        *,
        limit: int | None,
        listener: Listener | None = None,
        cancelled: Callable[[], bool] | None = None,
    ) -> Prepared:
        """Read the material, clean it, have it taught, split it and share out the ranks.

        Nothing is written but what a teacher said. Raises TeacherError where it cannot be asked,
        TrainingInterruptedError once `cancelled` says so, and DataError.
        """
        with interruptible(cancelled, at="while the material was prepared"):
            return self._prepare(data, settings, limit, listener, cancelled)

    def _prepare(
        self,
        data: Sequence[Path],
        settings: TrainingSettings,
        limit: int | None,
        listener: Listener | None,
        cancelled: Callable[[], bool] | None,
    ) -> Prepared:
        material, cleaned = clean(
            read_material(data, limit=limit),
            settings.filters,
            evaluated=self._judge.guarding(settings),
        )
        synthesised = synthesise(material.passages, seed=settings.seed)
        lessons = self._classroom.lessons(
            material, synthesised, settings, listener=listener, cancelled=cancelled
        )
        taught = () if lessons is None else lessons.examples
        language_model = self._answerer.language_model
        fitted = fit_to_context(language_model, material, (*synthesised, *taught))
        split = split_examples(fitted.material, fitted.examples, settings)
        layers = self._layers(settings)
        plan = self._plan(layers, settings, split.train)
        spoken = in_conversation(
            split.train,
            self._judge.exchanges(settings),
            fits=partial(fits_whole, language_model),
            share=settings.in_conversation,
            seed=settings.seed,
        )
        rehearsal = self._judge.rehearsal(settings, new=len(split.train))
        stages = (
            *cleaned,
            synthesis_stage(material, synthesised),
            *(() if lessons is None else (lessons.stage(),)),
            fitted.stage,
            split_stage(fitted.material, fitted.examples, split),
            conversation_stage(split.train, spoken),
            *((rehearsal_stage(rehearsal),) if rehearsal else ()),
        )
        return Prepared(
            fitted.material,
            split,
            spoken,
            layers,
            plan,
            settings,
            stages,
            lessons,
            rehearsal,
            fitted.cut,
        )

    def plan(self, data: Sequence[Path], settings: TrainingSettings) -> RankPlan:
        """The ranks that a training would use. `gradient` needs material to measure on.

        A teacher is asked only where the ranks depend on what it writes.
        """
        is_measured = settings.ranks in MEASURED or settings.budget == "auto"
        if data and (is_measured or settings.teacher is None):
            return self.prepare(data, settings, limit=None).plan
        if data:
            read_material(data)  # what cannot be read is told here too
        return self._plan(self._layers(settings), settings, ())

    def estimate(
        self, data: Sequence[Path], settings: TrainingSettings, *, limit: int | None
    ) -> TrainingEstimate:
        """Prepare, train a few steps that are thrown away, and extrapolate.

        A teacher is asked only where the rules alone make too few examples to measure with.
        """
        prepared = self._prepare_cheaply(data, settings, limit=limit)
        moments = moments_of(
            lambda listener: train_lora(
                self._answerer.language_model,
                self._answerer.bank,
                prepared.plan,
                prepared.trained_on,
                held_out=prepared.split.selection,
                settings=measuring(settings),
                seed=settings.seed,
                metric=METRICS[prepared.split.name],
                listener=listener,
            )
        )
        split = prepared.split
        return TrainingEstimate(
            steps=settings.max_steps,
            tokens=self._tokens(prepared.trained_on, settings),
            seconds=foretold_seconds(moments, settings),
            peak_bytes=peak_rss_bytes(),
            examples=len(split.train),
            selection=split.selection_only,
            held_out=len(split.held_out),
            shape=prepared.material.shape,
            split=split.name,
            parameters=prepared.plan.parameters,
            teacher_passages=(
                len(pieces(prepared.material.passages))
                if settings.teacher and prepared.lessons is None
                else 0
            ),
            stages=prepared.stages,
            dropped=prepared.dropped,
            cut=prepared.cut,
        )

    def import_adapter(self, name: str, path: Path) -> ExpertRecord:
        """A foreign PEFT adapter as a quarantined expert of this base.

        Raises AdapterFormatError naming the reason when it is refused.
        """
        check_name(name)
        language_model = self._answerer.language_model
        adapter = import_adapter(path, language_model.layers)
        with self._store.stage() as folder:
            manifest = write_imported(folder, name, adapter, language_model=language_model)
            return self._store.publish(
                name, folder, manifest, status="quarantine", reason="imported, not yet verified"
            )

    def _prepare_cheaply(
        self, data: Sequence[Path], settings: TrainingSettings, *, limit: int | None
    ) -> Prepared:
        rules_alone = settings.model_copy(update={"teacher": None})
        try:
            return self.prepare(data, rules_alone, limit=limit)
        except TooFewExamplesError:
            if settings.teacher is None:
                raise
            return self.prepare(data, settings, limit=limit)

    def _train(
        self,
        name: str,
        prepared: Prepared,
        settings: TrainingSettings,
        checkpoint: Path,
        *,
        listener: Listener | None,
        cancelled: Callable[[], bool] | None,
    ) -> TrainingResult:
        def tell(progress: TrainingProgress) -> None:
            if listener is not None:
                listener(TrainingStep(name, progress))

        return train_lora(
            self._answerer.language_model,
            self._answerer.bank,
            prepared.plan,
            prepared.trained_on,
            held_out=prepared.split.selection,
            settings=settings,
            seed=settings.seed,
            metric=METRICS[prepared.split.name],
            listener=tell,
            checkpoint=checkpoint,
            cancelled=cancelled,
        )

    def _admit(
        self,
        order: TrainingOrder,
        prepared: Prepared,
        result: TrainingResult,
        settings: TrainingSettings,
    ) -> tuple[ExpertRecord, GateReport]:
        """Write the expert down, measure it at the gate and publish it with the verdict."""
        with self._store.stage() as folder:
            trial = write_trained(
                folder,
                order.name,
                prepared,
                result,
                language_model=self._answerer.language_model,
                states=self._states,
                whitening=self._answerer.shelf.whitening,
                background=self._background(order.name, prepared, settings),
                settings=settings,
            )
            report = self._judge.judge(trial, prepared, settings)
            return self._publish(order, trial, report), report

    def _background(self, name: str, prepared: Prepared, settings: TrainingSettings) -> Outside:
        """What lies outside the new domain: known prompts, other experts' questions."""
        known = self._judge.background(settings)
        own = {each.prompt[-1][1] for each in prepared.split.train}
        others = [text for text in self._answerer.shelf.taught(besides=name) if text not in own]
        if not others or not len(known.prompts):
            return known
        return known.and_also(Placed(self._states(others), tuple(others)))

    def _layers(self, settings: TrainingSettings) -> tuple[LinearLayer, ...]:
        upper = upper_blocks(self._answerer.language_model.layers, settings.upper_share)
        return select(upper, settings.targets)

    def _plan(
        self, layers: tuple[LinearLayer, ...], settings: TrainingSettings, train: Sequence[Example]
    ) -> RankPlan:
        model, bank, rank = self._answerer.language_model, self._answerer.bank, settings.rank
        if settings.budget == "auto" and train:
            least, most = settings.auto_ranks
            bits = answer_bits(model, bank, train, settings)
            rank = fitting_rank(bits, layers, least=least, most=most)
        importance = None
        if settings.ranks in MEASURED and train:
            importance = measured_importance(
                settings.ranks,
                model,
                layers,
                train,
                bank=bank,
                reference_rank=rank,
                settings=settings,
            )
        return plan_ranks(
            layers,
            strategy=settings.ranks,
            reference_rank=rank,
            importance=importance,
            scaling=settings.scaling,
            alpha=settings.alpha,
            seed=settings.seed,
        )

    def _tokens(self, train: Sequence[Example], settings: TrainingSettings) -> int:
        """Answer tokens of all steps, in the order the trainer draws them."""
        encoded = encode_examples(self._answerer.language_model, train).examples
        lengths = [len(example.answer_ids) for example in encoded]
        return sum(
            lengths[index]
            for step in range(settings.max_steps)
            for index in step_examples(
                step, count=len(lengths), batch_size=settings.batch_size, seed=settings.seed
            )
        )

    def _publish(self, order: TrainingOrder, trial: Trial, report: GateReport) -> ExpertRecord:
        gate = to_json(report.to_dict())
        assert isinstance(gate, dict)
        gate[HELD_OUT_RIGHT] = report.held_out.right
        if report.held_out.base_right is not None:
            gate[HELD_OUT_BASE] = report.held_out.base_right
        gate[HELD_OUT_TRIALS] = report.held_out.examples
        status: Literal["active", "quarantine", "rejected"] = "active"
        if not report.accepted:
            status = "quarantine" if order.force else "rejected"
        manifest = trial.manifest.model_copy(update={"gate": gate})
        reason = "; ".join(report.reasons)
        return self._store.publish(
            order.name, trial.expert.folder, manifest, status=status, reason=reason
        )
