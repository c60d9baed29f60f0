"""Five ranks on three seeds as one job of shared passes, against as many runs of the Trainer."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import product

import torch

from adaptive_moe.config.settings import TrainingSettings
from adaptive_moe.experiments import bases, interleaved
from adaptive_moe.experiments.figures import Figure, Findings
from adaptive_moe.experiments.interleaved import Comparison, Variant
from adaptive_moe.experiments.plan import POCKET, Plan, Tell
from adaptive_moe.experiments.training_speed import (
    LOSS_TOLERANCE,
    examples_of_a_pack,
    factors_apart,
    losses_apart,
)
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
_STEPS, _COMPARED, _BATCH, _MICRO = 24, 4, 32, 8
_BANK_BYTES = 8 << 20
_ROUNDS, _CPU_ROUNDS = 10, 3
_TARGET = 1 / 3
_FACTOR_TOLERANCE = 1e-5
_RATE = 3e-3


def run(plan: Plan, tell: Tell) -> Findings:
    """Fifteen whole-prompt trainings on a knowledge pack's examples, by the plan's device."""
    model = bases.load(POCKET, plan.device)
    settings = TrainingSettings(
        optimizer="adamw",
        learning_rate=_RATE,
        max_steps=_COMPARED if plan.quick else _STEPS,
        batch_size=_BATCH,
        micro_batch_size=_MICRO,
        warmup_steps=2,
    )
    one = Work(model, examples_of_a_pack(model, plan.seed), "prompt", settings)
    works = [
        replace(one, settings=settings.model_copy(update={"rank": rank, "seed": seed}))
        for rank, seed in product(_RANKS, _SEEDS)
    ]
    tell("comparing the steps")
    return Findings((*_compared(works), *_timed(works, plan, tell)), {})


def _compared(works: Sequence[Work]) -> Iterator[Figure]:
    """How far steps and factors are from the Trainer's; in float64, as Adam makes rounding grow."""
    model = bases.in_float64(works[0].language_model)
    with _default_dtype(model.dtype), _bank(model) as bank:
        exact = [
            replace(
                work,
                language_model=model,
                settings=work.settings.model_copy(update={"max_steps": _COMPARED}),
            )
            for work in works
        ]
        ours = OurSweep(exact, bank).run()
        theirs = [PeerTraining(work).run() for work in exact]
    losses, factors = (max(map(apart, ours, theirs)) for apart in (losses_apart, factors_apart))
    note = f"the furthest apart of {len(works)} trainings, in float64"
    yield Figure(
        _ROW,
        f"losses of {_COMPARED} steps, largest difference",
        POCKET,
        losses,
        unit="nats",
        target=LOSS_TOLERANCE,
        is_timed=False,
        note=note,
    )
    yield Figure(
        _ROW,
        "factors after the last step, relative difference",
        POCKET,
        factors,
        target=_FACTOR_TOLERANCE,
        is_timed=False,
        note=note,
    )


def _timed(works: Sequence[Work], plan: Plan, tell: Tell) -> Iterator[Figure]:
    model = works[0].language_model
    is_gpu = model.device.type == "cuda"
    if not is_gpu:
        reason = "not measured: this machine has no CUDA device"
        yield Figure.failed(_ROW, "fifteen trainings as one job, on a GPU", POCKET, reason)
    note = "" if is_gpu else "on the CPU, for which nothing is to be reached"
    with _bank(model) as bank:
        comparisons = list(_comparisons(works, bank, _TARGET if is_gpu else None, note))
        seconds = interleaved.measure(
            comparisons,
            rounds=min(plan.most_rounds, _ROUNDS if is_gpu else _CPU_ROUNDS),
            seed=plan.seed,
            clock=interleaved.stopwatch(model.device),
            tell=tell,
        )
    yield from interleaved.figures(comparisons, seconds, model=POCKET)


def _comparisons(
    works: Sequence[Work], bank: LoraBank, target: float | None, note: str
) -> Iterator[Comparison]:
    job = OurSweep(works, bank)
    alone = [OurTraining(work, bank) for work in works]
    peers = [PeerTraining(work) for work in works]
    variant = Variant("one job", _BATCH, lambda: _steps(job.run()))
    yield Comparison(
        _ROW,
        variant,
        Variant(
            "Trainer and PEFT, run after run", _BATCH, lambda: _steps(each.run() for each in peers)
        ),
        target=target,
        note=note,
    )
    yield Comparison(
        _ROW,
        variant,
        Variant("our trainer, run after run", _BATCH, lambda: _steps(each.run() for each in alone)),
        note=note,
    )


def _steps(trained: Iterable[Trained]) -> int:
    return sum(len(each.losses) for each in trained)


@contextmanager
def _bank(model: LanguageModel) -> Iterator[LoraBank]:
    bank = LoraBank(model.model, model.layers, capacity_bytes=_BANK_BYTES, dtype=model.dtype)
    try:
        yield bank
    finally:
        bank.close()


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """New factors are of this dtype."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
