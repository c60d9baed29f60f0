"""Five ranks on three seeds as one job of shared passes, against as many runs of the Trainer."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product

from adaptive_moe.config.settings import TrainingSettings
from adaptive_moe.experiments import bases, interleaved
from adaptive_moe.experiments.figures import Figure, Findings
from adaptive_moe.experiments.interleaved import Comparison, Variant
from adaptive_moe.experiments.plan import POCKET, Plan, Tell
from adaptive_moe.experiments.training_speed import LOSS_TOLERANCE, examples_of_a_pack
from adaptive_moe.experiments.training_work import (
    OurSweep,
    OurTraining,
    PeerTraining,
    Trained,
    Work,
)
from adaptive_moe.experts.bank import LoraBank
from adaptive_moe.models.language_model import LanguageModel

_ROW = "packed_sweep"
_RANKS, _SEEDS = (2, 4, 8, 16, 32), (0, 1, 2)
_STEPS, _BATCH, _MICRO = 24, 32, 8
_BANK_BYTES = 8 << 20
_ROUNDS, _CPU_ROUNDS = 10, 3
_TARGET = 1 / 3
_RATE = 3e-3


def run(plan: Plan, tell: Tell) -> Findings:
    """Fifteen whole-prompt trainings on a knowledge pack's examples, by the plan's device."""
    model = bases.load(POCKET, plan.device)
    bank = LoraBank(model.model, model.layers, capacity_bytes=_BANK_BYTES, dtype=model.dtype)
    settings = TrainingSettings(
        optimizer="adamw",
        learning_rate=_RATE,
        max_steps=4 if plan.quick else _STEPS,
        batch_size=_BATCH,
        micro_batch_size=_MICRO,
        warmup_steps=2,
    )
    one = Work(model, examples_of_a_pack(model, plan.seed), "prompt", settings)
    works = [
        replace(one, settings=settings.model_copy(update={"rank": rank, "seed": seed}))
        for rank, seed in product(_RANKS, _SEEDS)
    ]
    try:
        found = _Contestants(
            OurSweep(works, bank),
            [OurTraining(work, bank) for work in works],
            [PeerTraining(work) for work in works],
        )
        tell("comparing the steps")
        figures = (_apart(found), *_timed(found, model, plan, tell))
    finally:
        bank.close()
    return Findings(figures, {})


@dataclass(frozen=True, slots=True)
class _Contestants:
    """The same trainings three times: as one job, one after another, and by the Trainer."""

    job: OurSweep
    alone: Sequence[OurTraining]
    peers: Sequence[PeerTraining]


def _apart(found: _Contestants) -> Figure:
    """How far the losses are from the Trainer's: at first nothing but the passes differs."""
    theirs = [each.run() for each in found.peers]
    together = _differences(found.job.run(), theirs)
    alone = _differences([each.run() for each in found.alone], theirs)
    return Figure(
        _ROW,
        "losses of the first step, largest difference",
        POCKET,
        max(each[0] for each in together),
        unit="nats",
        target=LOSS_TOLERANCE,
        is_timed=False,
        note=f"of {len(together)} trainings; up to {max(map(max, together)):.1e} in "
        f"{len(together[0])} steps, as every update carries rounding on, and "
        f"{max(map(max, alone)):.1e} where ours are trained one by one",
    )


def _differences(ours: Sequence[Trained], theirs: Sequence[Trained]) -> list[list[float]]:
    """Of every loss, by training."""
    return [
        [abs(a - b) for a, b in zip(own.losses, other.losses, strict=True)]
        for own, other in zip(ours, theirs, strict=True)
    ]


def _timed(found: _Contestants, model: LanguageModel, plan: Plan, tell: Tell) -> Iterator[Figure]:
    is_gpu = model.device.type == "cuda"
    if not is_gpu:
        reason = "not measured: this machine has no CUDA device"
        yield Figure.failed(_ROW, "fifteen trainings as one job, on a GPU", POCKET, reason)
    job = Variant("one job", _BATCH, lambda: _steps(found.job.run()))
    trainer = Variant(
        "Trainer and PEFT, run after run", _BATCH, lambda: _steps(p.run() for p in found.peers)
    )
    ours = Variant(
        "our trainer, run after run", _BATCH, lambda: _steps(each.run() for each in found.alone)
    )
    note = "" if is_gpu else "on the CPU, for which nothing is to be reached"
    comparisons = [
        Comparison(_ROW, job, trainer, target=_TARGET if is_gpu else None, note=note),
        Comparison(_ROW, job, ours, note=note),
    ]
    seconds = interleaved.measure(
        comparisons,
        rounds=min(plan.most_rounds, _ROUNDS if is_gpu else _CPU_ROUNDS),
        seed=plan.seed,
        clock=interleaved.stopwatch(model.device),
        tell=tell,
    )
    yield from interleaved.figures(comparisons, seconds, model=POCKET)


def _steps(trained: Iterable[Trained]) -> int:
    return sum(len(each.losses) for each in trained)
