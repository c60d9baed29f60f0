"""Training learns, stops, resumes, and fails loudly."""

import dataclasses
import math
from pathlib import Path

import pytest
import torch

from adaptive_moe.errors import (
    DivergedError,
    InsufficientMemoryError,
    TooFewExamplesError,
    TrainingInterruptedError,
)
from adaptive_moe.training import divergence
from adaptive_moe.training.adapter import Adapter
from adaptive_moe.training.checkpoints import remove_checkpoint
from adaptive_moe.training.divergence import check_convergence
from adaptive_moe.training.importance import gradient_importance, gradient_norm
from adaptive_moe.training.ranks import plan_ranks
from adaptive_moe.training.results import HistoryPoint
from adaptive_moe.training.steps import Evaluation
from adaptive_moe.training.trainer import learning_rate, train_lora
from tests.support.tiny_models import ARCHITECTURES, tiny_language_model


def plan_for(language_model, rank=4):
    return plan_ranks(language_model.layers, strategy="linear_decay", reference_rank=rank)


def same_weights(first, second):
    return first.keys() == second.keys() and all(
        torch.equal(first[name].a, second[name].a) and torch.equal(first[name].b, second[name].b)
        for name in first
    )


def train(language_model, make_bank, examples, settings, **more):
    return train_lora(
        language_model,
        make_bank(language_model),
        plan_for(language_model),
        examples,
        settings=settings,
        seed=0,
        **{"held_out": examples[:6]} | more,
    )


@pytest.mark.parametrize("activation", ["answer", "prompt"])
def test_it_learns_what_it_is_taught(llama, make_bank, examples, quick, activation):
    settings = quick.model_copy(
        update={"max_steps": 80, "activation": activation, "evaluate_every": 20, "patience": 9}
    )
    result = train(llama, make_bank, examples[:8], settings)
    assert result.loss_after < 0.5 * result.loss_before
    assert result.exact_after > result.exact_before
    assert result.best_step <= result.steps <= 80


def test_weights_are_chosen_by_the_metric(llama, make_bank, examples, quick):
    """One taught answer and two that contradict what is taught: exact rises, and so does loss."""
    slow = {"optimizer": "adamw", "max_steps": 60, "evaluate_every": 5, "patience": 99}
    settings = quick.model_copy(update=slow)
    told, first, second = examples[3], examples[4], examples[5]
    held_out = [
        told,
        dataclasses.replace(first, answer=second.answer),
        dataclasses.replace(second, answer=first.answer),
    ]
    exact, loss = (
        train(llama, make_bank, examples[:8], settings, metric=metric, held_out=held_out)
        for metric in ("exact", "loss")
    )
    assert exact.exact_after == max(point.held_out.exact for point in exact.history) > 0
    assert loss.loss_after <= min(point.held_out.loss for point in loss.history) + 1e-4
    assert loss.best_step < exact.best_step


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture_takes_a_step(architecture, make_bank, examples, quick):
    language_model = tiny_language_model(architecture)
    before = {name: p.clone() for name, p in language_model.model.named_parameters()}
    settings = quick.model_copy(update={"max_steps": 2, "evaluate_every": 2})
    result = train(language_model, make_bank, examples, settings)
    assert math.isfinite(result.loss_after)
    assert result.steps == 2
    assert {name: pair.a.shape[0] for name, pair in result.weights.items()} == dict(
        plan_for(language_model).ranks
    )
    assert all(torch.equal(p, before[n]) for n, p in language_model.model.named_parameters())


def test_the_same_inputs_give_the_same_weights(make_bank, examples, quick):
    results = [train(tiny_language_model("llama"), make_bank, examples, quick) for _ in range(2)]
    assert same_weights(results[0].weights, results[1].weights)


@pytest.mark.parametrize("stop_after", [1, 4])
def test_a_resumed_training_ends_in_the_same_weights(
    tmp_path, make_bank, examples, quick, stop_after
):
    whole = train(tiny_language_model("llama"), make_bank, examples, quick)
    steps = []
    with pytest.raises(TrainingInterruptedError, match=f"after step {stop_after}"):
        train(
            tiny_language_model("llama"),
            make_bank,
            examples,
            quick,
            checkpoint=tmp_path / "run",
            listener=lambda progress: steps.append(progress.step),
            cancelled=lambda: len(steps) == stop_after,
        )
    resumed = train(
        tiny_language_model("llama"),
        make_bank,
        examples,
        quick,
        checkpoint=tmp_path / "run",
        listener=lambda progress: steps.append(progress.step),
    )
    assert steps == [1, 2, 3, 4, 5, 6]
    assert same_weights(whole.weights, resumed.weights)
    assert [dataclasses.replace(point) for point in whole.history] == list(resumed.history)


@pytest.mark.parametrize("stop_after", [0, 2])
def test_reading_the_prompts_ahead_can_be_stopped_and_gone_on_from(
    tmp_path, make_bank, examples, quick, stop_after
):
    """Three blocks of prompts: the first is read when planning, the reading stops before another.

    With `stop_after` it is a resumed training that is stopped so, and it keeps its steps.
    """
    many = [*examples, *(dataclasses.replace(e, answer=e.answer + "x") for e in examples * 2)]
    whole = train(tiny_language_model("llama"), make_bank, many, quick)
    folder, steps, asked = tmp_path / "run", [], []

    def listen(progress):
        steps.append(progress.step)

    if stop_after:
        with pytest.raises(TrainingInterruptedError):
            train(
                tiny_language_model("llama"), make_bank, many, quick, checkpoint=folder,
                listener=listen, cancelled=lambda: len(steps) == stop_after,
            )  # fmt: skip
    reader = tiny_language_model("llama")
    passes = []
    reader.model.register_forward_pre_hook(lambda *_: passes.append(len(asked)))

    def cancelled():
        asked.append(len(passes))
        return len(asked) == 2

    with pytest.raises(TrainingInterruptedError, match=f"after step {stop_after} of"):
        train(reader, make_bank, many, quick, checkpoint=folder, cancelled=cancelled)
    assert asked[1] - asked[0] == 1  # one block, no evaluation, no step
    assert len(passes) == asked[1]
    resumed = train(
        tiny_language_model("llama"), make_bank, many, quick, checkpoint=folder, listener=listen
    )
    assert steps == [1, 2, 3, 4, 5, 6]
    assert same_weights(whole.weights, resumed.weights)
    assert whole.history == resumed.history


def test_a_training_that_diverged_is_no_success_when_it_is_resumed(
    tmp_path, monkeypatch, llama, make_bank, examples, quick
):
    """Its listener fails after the last checkpoint, before anybody asked whether it converged.

    A model this small never diverges; here it counts as that whatever its loss is.
    """
    monkeypatch.setattr(divergence, "_BLOWN_UP", 0.1)
    settings = quick.model_copy(
        update={"learning_rate": 1e-6, "checkpoint_every": 1, "batch_size": 16}
    )

    def fail(progress):
        if progress.step == settings.max_steps:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        train(llama, make_bank, examples, settings, checkpoint=tmp_path, listener=fail)
    for _ in range(2):
        with pytest.raises(DivergedError, match="rose from"):
            train(llama, make_bank, examples, settings, checkpoint=tmp_path)


def test_a_finished_training_is_kept_until_its_result_is_used(
    tmp_path, llama, make_bank, examples, quick
):
    folder = tmp_path / "run"
    first = train(llama, make_bank, examples, quick, checkpoint=folder)
    steps = []
    again = train(
        llama, make_bank, examples, quick, checkpoint=folder,
        listener=lambda progress: steps.append(progress.step),
    )  # fmt: skip
    assert steps == [6]  # told again, not taken again
    assert same_weights(first.weights, again.weights)
    assert first.history == again.history
    remove_checkpoint(folder)
    assert not folder.exists()


def test_what_decides_no_weights_may_change_while_a_training_rests(
    tmp_path, llama, make_bank, examples, quick
):
    folder, seen = tmp_path / "run", []
    with pytest.raises(TrainingInterruptedError):
        train(
            llama,
            make_bank,
            examples,
            quick,
            checkpoint=folder,
            listener=seen.append,
            cancelled=lambda: len(seen) == 3,
        )
    changed = {"max_guard_loss": 0.5, "teacher_timeout_seconds": 9.0, "checkpoint_every": 1}
    changed |= {"gradient_checkpointing": True, "guard": Path("other.jsonl")}
    steps = []
    other = quick.model_copy(update=changed)
    train(llama, make_bank, examples, other, checkpoint=folder, listener=steps.append)
    assert steps[0].step == 4


def test_a_foreign_or_broken_checkpoint_is_not_believed(
    tmp_path, llama, make_bank, examples, quick
):
    folder = tmp_path / "run"
    with pytest.raises(TrainingInterruptedError):
        train(llama, make_bank, examples, quick, checkpoint=folder, cancelled=lambda: True)
    other = train(llama, make_bank, examples[:20], quick, checkpoint=folder)
    assert other.steps == quick.max_steps
    folder.mkdir(exist_ok=True)
    (folder / "training.safetensors").write_bytes(b"\xff" * 100)
    again = train(llama, make_bank, examples[:20], quick, checkpoint=folder)
    assert same_weights(other.weights, again.weights)


def test_micro_batches_change_nothing_but_memory(make_bank, examples, quick):
    whole, cut = (
        train(
            tiny_language_model("llama"),
            make_bank,
            examples,
            quick.model_copy(update={"micro_batch_size": size}),
        )
        for size in (8, 3)
    )
    for name, pair in whole.weights.items():
        assert torch.allclose(pair.b, cut.weights[name].b, atol=1e-3)


def test_nonsense_gradients_abort_with_the_step(llama, make_bank, examples, quick):
    with torch.no_grad():
        llama.model.get_submodule(llama.layers[-1].name).weight.fill_(float("inf"))
    with pytest.raises(DivergedError, match="step 3"):
        train(llama, make_bank, examples, quick)


def points(*losses):
    """(training, held out, exact) of every evaluation, two steps apart."""
    return [HistoryPoint(2 * n, loss, Evaluation(*rest)) for n, (loss, *rest) in enumerate(losses)]


@pytest.mark.parametrize(
    ("history", "best_step", "peak_loss"),
    [
        (points((None, 4.0, 0.0), (3.0, 4.5, 0.0), (0.5, 9.0, 0.0)), 0, 3.0),  # overfitted
        (points((None, 4.0, 0.0), (4.3, 4.3, 0.0)), 0, 4.3),  # learnt nothing
        (points((None, 4.0, 0.0), (9.0, 9.0, 0.0), (1.0, 1.0, 0.5)), 4, 9.0),  # found back
        (points((None, 6.5, 0.0), (9.0, 5.0, 0.0)), 2, 9.0),  # hard examples
    ],
)
def test_what_did_not_learn_or_found_back_has_not_diverged(history, best_step, peak_loss, quick):
    check_convergence(
        history, best_step=best_step, first_loss=4.0, peak_loss=peak_loss, settings=quick
    )


def test_a_jump_after_which_no_answer_is_right_is_a_divergence(quick):
    history = points((None, 4.0, 0.0), (9.0, 5.0, 0.0), (3.0, 3.0, 0.0))
    with pytest.raises(DivergedError, match=r"rose from 4\.00 to 9\.00 .*rate \(0\.005\)"):
        check_convergence(history, best_step=4, first_loss=4.0, peak_loss=9.0, settings=quick)


def test_too_little_material_is_refused(llama, make_bank, examples, quick):
    with pytest.raises(TooFewExamplesError):
        train(llama, make_bank, examples[:3], quick)


def limit_memory(language_model, fits):
    """Let training passes of the real model fail whose number of examples does not fit.

    Only with gradients, as it is what a backward pass needs that fills the memory. Gives the
    number of examples of every pass that was tried.
    """
    sizes = []

    def allocate(_module, arguments, keywords):
        ids = arguments[0] if arguments else keywords["input_ids"]
        rows = int((ids == language_model.header_ids[0]).sum())  # however they are laid out
        if torch.is_grad_enabled():
            sizes.append(rows)
            if not fits(rows, sizes.count(rows)):
                raise torch.OutOfMemoryError("out of memory")

    language_model.model.get_decoder().register_forward_pre_hook(allocate, with_kwargs=True)
    return sizes


def test_memory_shortage_halves_the_micro_batch_for_good(make_bank, examples, quick):
    scarce, roomy = tiny_language_model("llama"), tiny_language_model("llama")
    # Four fit once and then no more: what the first pass of that step gave must be thrown away.
    sizes = limit_memory(scarce, lambda rows, count: rows <= 2 or (rows == 4 and count == 1))
    result = train(scarce, make_bank, examples, quick)
    assert sizes == [8, 4, 4, *[2] * 4 * quick.max_steps]
    assert result.skipped_steps == 0
    small = quick.model_copy(update={"micro_batch_size": 2})
    assert same_weights(result.weights, train(roomy, make_bank, examples, small).weights)


def test_when_nothing_fits_it_says_so(llama, make_bank, examples, quick):
    sizes = limit_memory(llama, lambda _rows, _count: False)
    with pytest.raises(InsufficientMemoryError):
        train(llama, make_bank, examples, quick)
    assert sizes == [8, 4, 2, 1, 1]  # the last one keeps less for its gradients


def test_recomputing_changes_nothing_but_memory(make_bank, examples, quick):
    once, twice = tiny_language_model("llama"), tiny_language_model("llama")
    thrifty = quick.model_copy(update={"gradient_checkpointing": True})
    result = train(twice, make_bank, examples, thrifty)
    assert same_weights(result.weights, train(once, make_bank, examples, quick).weights)


def test_where_one_example_does_not_fit_passes_are_recomputed(make_bank, examples, quick):
    scarce, roomy = tiny_language_model("llama"), tiny_language_model("llama")
    # Every size fails once; one example fits at the second try, which is recomputed.
    limit_memory(scarce, lambda rows, count: rows == 1 and count > 1)
    result = train(scarce, make_bank, examples, quick)
    single = quick.model_copy(update={"micro_batch_size": 1})
    assert same_weights(result.weights, train(roomy, make_bank, examples, single).weights)


def test_progress_counts_every_step(llama, make_bank, examples, quick):
    events = []
    result = train(llama, make_bank, examples, quick, listener=events.append)
    assert [event.step for event in events] == list(range(1, 7))
    assert events[-1].eta_seconds == 0
    assert events[-1].held_out_loss == result.history[-1].held_out.loss
    assert all(event.tokens_per_second > 0 for event in events)


def test_the_rate_warms_up_and_decays_to_five_percent(quick):
    settings = quick.model_copy(update={"max_steps": 101, "warmup_steps": 1})
    rates = [learning_rate(step, settings) for step in range(101)]
    assert rates[0] == pytest.approx(0.5 * settings.learning_rate)
    assert rates[1] == settings.learning_rate
    assert rates[100] == pytest.approx(0.06 * settings.learning_rate, rel=0.02)


def test_a_new_adapter_changes_nothing_and_is_seeded(llama):
    adapters = [
        Adapter(plan_for(llama), llama.layers, seed=seed, device=llama.device) for seed in (1, 1, 2)
    ]
    first, again, other = (adapter.weights() for adapter in adapters)
    assert same_weights(first, again)
    assert not same_weights(first, other)
    assert all(float(pair.b.detach().abs().max()) == 0 for pair in first.values())
    bounds = {layer.name: layer.in_features**-0.5 for layer in llama.layers}
    assert all(float(first[name].a.detach().abs().max()) <= bound for name, bound in bounds.items())


@pytest.mark.parametrize("activation", ["answer", "prompt"])
def test_importance_is_the_norm_of_the_weight_gradient(llama, make_bank, examples, activation):
    from adaptive_moe.training.answer_loss import AnswerLoss
    from adaptive_moe.training.encoding import encode_examples

    bank = make_bank(llama)
    measured = gradient_importance(llama, llama.layers, examples, bank=bank, activation=activation)
    encoded = encode_examples(llama, examples).examples
    loss = AnswerLoss(llama, bank, encoded, activation=activation, prompt_cache_bytes=0)
    prompts = loss.prompts(range(len(encoded)))
    weights = [llama.model.get_submodule(layer.name).weight for layer in llama.layers]
    for weight in weights:
        weight.requires_grad_(True)
    with loss.active({}):
        found = loss.compute(range(len(encoded)), prompts)
    gradients = torch.autograd.grad(found.total / found.tokens, weights)
    for layer, gradient in zip(llama.layers, gradients, strict=True):
        assert measured[layer.name] == pytest.approx(float(gradient.norm()), rel=1e-3)


def test_the_gram_way_gives_the_same_norm():
    x, d = torch.randn(5, 40), torch.randn(5, 30)
    assert gradient_norm(x, d) == pytest.approx(float((x.T @ d).norm()), rel=1e-4)
