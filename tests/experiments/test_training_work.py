"""Our optimiser steps are those of transformers' Trainer over PEFT, one by one.

In float64, as Adam makes any rounding grow; both still take the loss itself in float32.
"""

from dataclasses import replace

import pytest
import torch

from adaptive_moe.config.settings import TrainingSettings
from adaptive_moe.experiments.training_work import OurSweep, OurTraining, PeerTraining, Work
from adaptive_moe.experts.bank import LoraBank
from adaptive_moe.models.loading import adopt
from adaptive_moe.training.encoding import EncodedExample
from tests.support.tiny_models import tiny_model

STEPS = 6


def _examples():
    """Prompts of 1 to 9 tokens and answers of 1 to 4, so that every pass is padded."""
    return tuple(
        EncodedExample(tuple(range(50, 51 + i % 9)), (*range(100 + i, 100 + i + i % 4), 2))
        for i in range(24)
    )


def _work(activation, scaling):
    model, tokenizer = tiny_model("llama")
    language_model = adopt(model.double(), tokenizer)
    settings = TrainingSettings(
        optimizer="adamw",
        rank=4,
        max_steps=STEPS,
        batch_size=8,
        micro_batch_size=2,  # four passes are accumulated
        warmup_steps=2,
        learning_rate=1e-2,
        clip_norm=0.5,
        weight_decay=0.1,
        scaling=scaling,
    )
    layers = language_model.layers
    bank = LoraBank(model, layers, capacity_bytes=1 << 20, dtype=torch.float64)
    return Work(language_model, _examples(), activation, settings), bank


@pytest.fixture(autouse=True)
def _doubles():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.slow
def test_trls_steps_are_ours_too():
    pytest.importorskip("trl", reason="a peer of the benchmarks only")
    work, bank = _work("answer", "rslora")
    theirs = PeerTraining(work, "SFTTrainer").run()
    assert OurTraining(work, bank).run().losses == pytest.approx(theirs.losses, rel=0, abs=1e-6)


@pytest.mark.slow  # importing the Trainer takes seconds
@pytest.mark.parametrize("activation", ["prompt", "answer"])
@pytest.mark.parametrize("scaling", ["rslora", "alpha_over_r"])
def test_every_step_is_the_trainers(activation, scaling):
    work, bank = _work(activation, scaling)
    ours = OurTraining(work, bank).run()
    theirs = PeerTraining(work).run()
    assert ours.losses[-1] < ours.losses[0] - 0.1
    assert ours.losses == pytest.approx(theirs.losses, rel=0, abs=1e-6)
    for name, factor in ours.factors.items():
        other = theirs.factors[name] if name.startswith("a.") else theirs.factors[name].T
        assert (factor - other).norm() <= 1e-5 * other.norm(), name


@pytest.mark.slow
@pytest.mark.parametrize("activation", ["prompt", "answer"])
def test_every_step_of_a_sweep_is_the_trainers(activation):
    work, bank = _work(activation, "rslora")
    works = [
        replace(work, settings=work.settings.model_copy(update={"rank": rank, "seed": seed}))
        for rank, seed in ((2, 0), (8, 0), (3, 1))
    ]
    for each, ours in zip(works, OurSweep(works, bank).run(), strict=True):
        theirs = PeerTraining(each).run()
        assert ours.losses == pytest.approx(theirs.losses, rel=0, abs=1e-6)
        for name, factor in ours.factors.items():
            other = theirs.factors[name] if name.startswith("a.") else theirs.factors[name].T
            assert (factor - other).norm() <= 1e-5 * other.norm(), name


@pytest.mark.slow
def test_the_benchmark_of_a_sweep_tells_what_it_could_not_measure(monkeypatch):
    from adaptive_moe.experiments import packed_sweep
    from adaptive_moe.experiments.plan import Plan

    torch.set_default_dtype(torch.float32)
    monkeypatch.setattr(packed_sweep, "_RANKS", (2, 4))
    monkeypatch.setattr(packed_sweep, "_SEEDS", (0,))
    found = packed_sweep.run(Plan(quick=True), lambda _: None).figures
    losses, factors, on_gpu, beside_trainer, beside_ours = found
    assert losses.verdict(contended=False) == factors.verdict(contended=False) == "met"
    assert on_gpu.note.endswith("this machine has no CUDA device")
    assert beside_trainer.rounds == beside_ours.rounds == 3
    assert torch.get_default_dtype() is torch.float32
