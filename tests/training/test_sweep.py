"""Trainings that share their passes come to what each would have come to alone."""

import pytest
import torch

from adaptive_moe.errors import DivergedError, InsufficientMemoryError, TrainingInterruptedError
from adaptive_moe.models.linear_layers import upper_blocks
from adaptive_moe.models.loading import adopt
from adaptive_moe.training import layouts
from adaptive_moe.training.ranks import plan_ranks
from adaptive_moe.training.trainer import Slot, train_lora, train_sweep
from tests.support.tiny_models import tiny_language_model, tiny_model
from tests.training.test_trainer import limit_memory, same_weights


def slots_for(language_model, share=1.0):
    """Other ranks, seeds and rates each; the second has modules without any rank, by its plan."""
    layers = upper_blocks(language_model.layers, share)
    few = [layer for layer in layers if "down" in layer.name or "dense" in layer.name] or layers
    return [
        Slot(plan_ranks(layers, strategy="fixed", reference_rank=2), 1),
        Slot(plan_ranks(few, strategy="fixed", reference_rank=5), 2, 1e-3),
        Slot(plan_ranks(layers, strategy="linear_decay", reference_rank=4), 1, 2e-3),
    ]


def sweep(language_model, make_bank, examples, settings, slots=None, **more):
    return train_sweep(
        language_model,
        make_bank(language_model),
        slots_for(language_model) if slots is None else slots,
        examples,
        held_out=examples[:6],
        settings=settings,
        **more,
    )


def alone(language_model, make_bank, examples, settings, slot):
    rate = settings.learning_rate if slot.learning_rate is None else slot.learning_rate
    return train_lora(
        language_model,
        make_bank(language_model),
        slot.plan,
        examples,
        held_out=examples[:6],
        settings=settings.model_copy(update={"learning_rate": rate}),
        seed=slot.seed,
    )


def apart(found, expected):
    return float((found - expected).norm() / expected.norm())


@pytest.fixture(scope="session")
def steady(quick):
    """Adam divides by what it has seen and not by a matrix, so that rounding stays small."""
    return quick.model_copy(update={"optimizer": "adamw", "micro_batch_size": 3, "max_steps": 5})


@pytest.mark.parametrize("architecture", ["llama", "mistral", "gpt2", "bloom", "gemma2"])
@pytest.mark.parametrize("activation", ["answer", "prompt"])
def test_every_slot_comes_to_what_it_would_alone(
    architecture, activation, make_bank, examples, steady
):
    """Bloom and gemma2 cannot be packed: there every slot has its own passes."""
    language_model = tiny_language_model(architecture)
    settings = steady.model_copy(update={"activation": activation})
    found = sweep(language_model, make_bank, examples, settings)
    for slot, result in zip(slots_for(language_model), found, strict=True):
        expected = alone(language_model, make_bank, examples, settings, slot)
        assert {name: pair.rank for name, pair in result.weights.items()} == dict(slot.plan.ranks)
        for mine, theirs in zip(result.history, expected.history, strict=True):
            assert mine.held_out.loss == pytest.approx(theirs.held_out.loss, rel=1e-5)
            assert mine.loss is None or mine.loss == pytest.approx(theirs.loss, rel=1e-5)
        for name, pair in expected.weights.items():
            assert apart(result.weights[name].a, pair.a) < 1e-3
            assert apart(result.weights[name].b, pair.b) < 1e-3


@pytest.mark.gpu
def test_a_gpu_gives_every_slot_the_same(make_bank, examples, steady):
    model, tokenizer = tiny_model("llama")
    language_model = adopt(model.to("cuda"), tokenizer)
    sizes = limit_memory(language_model, lambda _rows, _count: True)
    found = sweep(language_model, make_bank, examples, steady)
    assert max(sizes) == 3 * steady.micro_batch_size
    for slot, result in zip(slots_for(language_model), found, strict=True):
        expected = alone(language_model, make_bank, examples, steady, slot)
        assert result.loss_after == pytest.approx(expected.loss_after, rel=1e-4)


@pytest.mark.parametrize("activation", ["answer", "prompt"])
def test_parts_of_like_length_hold_rows_of_several_slots(
    activation, make_bank, examples, steady, monkeypatch
):
    settings = steady.model_copy(update={"activation": activation})
    whole = sweep(tiny_language_model("llama"), make_bank, examples, settings)
    monkeypatch.setattr(layouts, "_WORTH_A_PART", 8)
    parted = sweep(tiny_language_model("llama"), make_bank, examples, settings)
    for first, second in zip(whole, parted, strict=True):
        assert first.loss_after == pytest.approx(second.loss_after, rel=1e-5)


def test_a_prompt_that_several_slots_ask_for_is_read_once(make_bank, examples, steady):
    language_model = tiny_language_model("llama")
    rows = []
    language_model.model.get_decoder().register_forward_pre_hook(
        lambda _module, given, named: rows.append(len(given[0] if given else named["input_ids"])),
        with_kwargs=True,
    )
    settings = steady.model_copy(
        update={"prompt_cache_bytes": 0, "max_steps": 1, "evaluate_every": 1}
    )
    plan = slots_for(language_model)[0].plan
    sweep(language_model, make_bank, examples, settings, [Slot(plan, 1)] * 5)
    assert max(rows) <= 5  # slots are rows of a pass; of prompts there are three at a time


def test_blocks_below_all_slots_are_skipped_as_for_one(make_bank, examples, steady):
    language_model = tiny_language_model("llama", layers=4)
    slots = slots_for(language_model, share=0.5)
    found = sweep(language_model, make_bank, examples, steady, slots)
    for slot, result in zip(slots, found, strict=True):
        expected = alone(language_model, make_bank, examples, steady, slot)
        assert result.loss_after == pytest.approx(expected.loss_after, rel=1e-5)


def test_recomputed_passes_are_the_same(make_bank, examples, steady):
    thrifty = steady.model_copy(update={"gradient_checkpointing": True})
    first, second = (
        sweep(tiny_language_model("llama"), make_bank, examples, settings)
        for settings in (steady, thrifty)
    )
    assert all(same_weights(a.weights, b.weights) for a, b in zip(first, second, strict=True))


def test_muon_learns_in_company_what_it_learns_alone(llama, make_bank, examples, quick):
    slots = slots_for(llama)
    found = sweep(llama, make_bank, examples, quick, slots)
    for slot, result in zip(slots, found, strict=True):
        expected = alone(llama, make_bank, examples, quick, slot)
        assert result.loss_after == pytest.approx(expected.loss_after, rel=1e-2)


def test_a_slot_that_diverges_leaves_the_others_alone(tmp_path, llama, make_bank, examples, steady):
    """It is evaluated before it is given up, and its loss of nan is written down with the rest."""
    healthy, *_, other = slots_for(llama)
    slots = [healthy, Slot(healthy.plan, 3, 1e30), other]
    settings = steady.model_copy(update={"evaluate_every": 1, "checkpoint_every": 1})
    found = sweep(llama, make_bank, examples, settings, slots, checkpoint=tmp_path)
    assert isinstance(found[1], DivergedError)
    assert "1e+30" in str(found[1])
    for slot, result in zip((healthy, other), (found[0], found[2]), strict=True):
        expected = alone(llama, make_bank, examples, settings, slot)
        assert result.loss_after == pytest.approx(expected.loss_after, rel=1e-5)
        assert result.skipped_steps == 0
    told = []
    again = sweep(
        llama,
        make_bank,
        examples,
        settings,
        slots,
        checkpoint=tmp_path,
        listener=lambda slot, progress: told.append((slot, progress.step)),
    )
    assert told == [(0, 5), (1, 4), (2, 5)]  # told again, not taken again
    assert str(again[1]) == str(found[1])
    assert same_weights(again[2].weights, found[2].weights)


def test_a_slot_that_has_learnt_everything_lets_the_others_go_on(llama, make_bank, examples, quick):
    settings = quick.model_copy(
        update={"max_steps": 60, "evaluate_every": 10, "patience": 9, "batch_size": 4}
    )
    plan = plan_ranks(llama.layers, strategy="fixed", reference_rank=4)
    slots = [Slot(plan, 0, 1e-2), Slot(plan, 0, 1e-5)]
    steps = []
    found = train_sweep(
        llama,
        make_bank(llama),
        slots,
        examples[:4],
        held_out=examples[:2],
        settings=settings,
        listener=lambda slot, progress: steps.append((slot, progress.step)),
    )
    learnt, slow = found
    assert learnt.exact_after == 1.0
    assert learnt.steps < slow.steps == 60
    assert steps.count((1, 60)) == 1
    assert max(step for slot, step in steps if slot == 0) == learnt.steps


def test_an_interrupted_sweep_ends_in_the_same_weights(tmp_path, make_bank, examples, quick):
    whole = sweep(tiny_language_model("llama"), make_bank, examples, quick)
    told = []

    def go_on(**more):
        return sweep(
            tiny_language_model("llama"),
            make_bank,
            examples,
            quick,
            checkpoint=tmp_path / "run",
            listener=lambda slot, progress: told.append((slot, progress.step)),
            **more,
        )

    with pytest.raises(TrainingInterruptedError, match="after step 4"):
        go_on(cancelled=lambda: (2, 4) in told)
    resumed = go_on()
    assert told == [(slot, step) for step in range(1, 7) for slot in range(3)]
    assert all(same_weights(a.weights, b.weights) for a, b in zip(whole, resumed, strict=True))
    assert [each.history for each in whole] == [each.history for each in resumed]


def test_memory_shortage_halves_the_micro_batch_then_the_slots(make_bank, examples, steady):
    """Four slots of two examples a pass at first; two examples fit, so it is two slots of one."""
    scarce = tiny_language_model("llama")
    sizes = limit_memory(scarce, lambda rows, _count: rows <= 2)
    slots = [*slots_for(scarce), Slot(slots_for(scarce)[0].plan, 5)]
    settings = steady.model_copy(update={"micro_batch_size": 2})
    found = sweep(scarce, make_bank, examples, settings, slots)
    assert sizes[:4] == [8, 4, 2, 2]
    assert len(sizes) == 2 + 2 * settings.batch_size * settings.max_steps
    for slot, result in zip(slots, found, strict=True):
        expected = alone(tiny_language_model("llama"), make_bank, examples, steady, slot)
        assert result.loss_after == pytest.approx(expected.loss_after, rel=1e-5)


def test_an_evaluation_is_cut_until_it_fits_as_well(make_bank, examples, steady):
    scarce, asked = tiny_language_model("llama"), []

    def allocate(_module, arguments, keywords):
        ids = arguments[0] if arguments else keywords["input_ids"]
        rows = int((ids == scarce.header_ids[0]).sum())
        if rows and not torch.is_grad_enabled():
            asked.append(rows)
            if rows > 3:
                raise torch.OutOfMemoryError("out of memory")

    scarce.model.get_decoder().register_forward_pre_hook(allocate, with_kwargs=True)
    found = sweep(scarce, make_bank, examples, steady)
    first = asked.index(9)
    assert asked[first : first + 2] == [9, 3]
    for slot, result in zip(slots_for(scarce), found, strict=True):
        expected = alone(tiny_language_model("llama"), make_bank, examples, steady, slot)
        assert result.loss_after == pytest.approx(expected.loss_after, rel=1e-5)


def test_when_nothing_fits_it_says_so(llama, make_bank, examples, quick):
    sizes = limit_memory(llama, lambda _rows, _count: False)
    with pytest.raises(InsufficientMemoryError):
        sweep(llama, make_bank, examples, quick)
    assert sizes == [24, 12, 6, 3, 1, 1]


def test_a_sweep_of_nothing_is_nothing(llama, make_bank, examples, quick):
    assert sweep(llama, make_bank, examples, quick, []) == ()
