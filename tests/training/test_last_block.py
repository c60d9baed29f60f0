"""Of the last block most tokens of a whole-prompt pass give key-values and nothing else."""

import pytest
import torch

from adaptive_moe.training import answer_loss
from adaptive_moe.training.answer_loss import AnswerLoss
from adaptive_moe.training.encoding import EncodedExample
from adaptive_moe.training.last_block import LastBlock
from tests.support.tiny_models import tiny_language_model
from tests.training.test_answer_loss import losses_and_gradients, random_weights

# The longest prompt reaches beyond mistral's window of 16 tokens, so that it slides.
EXAMPLES = [
    EncodedExample(tuple(range(50, 53 + 8 * row)), (*range(100, 101 + row % 3), 2))
    for row in range(4)
]
NEEDED = sum(len(example.answer_ids) for example in EXAMPLES)


def whole_prompts(language_model, make_bank, **options):
    return AnswerLoss(
        language_model,
        make_bank(language_model),
        EXAMPLES,
        activation="prompt",
        prompt_cache_bytes=0,
        **options,
    )


def passed(language_model, loss, slots=()):
    """The loss of one pass, and how many tokens went through the last block's MLP and norm."""
    counts = []
    last = language_model.model.model.layers[-1]
    handles = [
        module.register_forward_pre_hook(
            lambda _module, given: counts.append(given[0].shape[:-1].numel())
        )
        for module in (last.mlp, language_model.model.model.norm)
    ]
    with loss.active({}):
        found = loss.compute(range(4), loss.prompts(range(4), slots=slots))
    for handle in handles:
        handle.remove()
    return found, counts


def test_only_what_foretells_an_answer_runs_to_the_end(llama, make_bank):
    tokens = sum(len(each.prompt_ids) + len(each.answer_ids) - 1 for each in EXAMPLES)
    tokens += 4 * len(llama.header_ids)
    few, counted = passed(llama, whole_prompts(llama, make_bank))
    every, all_counted = passed(llama, whole_prompts(llama, make_bank, every_token=True))
    assert counted == [NEEDED, NEEDED]
    assert all_counted == [tokens, tokens]
    assert torch.allclose(few.per_example, every.per_example, rtol=1e-5)


def test_slots_are_padded_to_the_longest_of_their_ends(llama, make_bank):
    """Answers of 2, 3, 4 and 2 tokens: the second slot has six that are needed, the first five."""
    few, counted = passed(llama, whole_prompts(llama, make_bank), slots=(0, 0, 1, 1))
    every, _ = passed(llama, whole_prompts(llama, make_bank, every_token=True), slots=(0, 0, 1, 1))
    assert counted == [12, 12]
    assert torch.allclose(few.totals, every.totals, rtol=1e-5)


def test_a_pass_of_little_else_than_answers_runs_as_it_is(llama, make_bank, monkeypatch):
    monkeypatch.setattr(answer_loss, "_FEW", 20)
    _, counted = passed(llama, whole_prompts(llama, make_bank))
    assert counted[0] > NEEDED


@pytest.mark.parametrize("architecture", ["llama", "mistral", "qwen3", "phi3", "gpt_neox", "opt"])
@pytest.mark.parametrize("recompute", [False, True])
def test_gradients_are_those_of_passes_that_run_to_the_end(architecture, recompute, make_bank):
    language_model = tiny_language_model(architecture)
    weights, found = random_weights(language_model), []
    for every in (False, True):
        loss = whole_prompts(language_model, make_bank, recompute=recompute, every_token=every)
        with loss.active(weights):
            total = loss.compute(range(4), loss.prompts(range(4))).total
            found.append(losses_and_gradients(weights, total))
    for few, whole in zip(*found, strict=True):
        assert torch.allclose(few, whole, rtol=1e-4, atol=1e-5)


def test_a_model_that_counts_on_all_tokens_is_left_alone(make_bank):
    """GPT-2 gives its states the shape of its ids, and would fail with fewer."""
    language_model = tiny_language_model("gpt2")
    states = answer_loss._states_function(language_model)
    assert not LastBlock(language_model).gives_the_same(states[0])
    whole_prompts(language_model, make_bank)
    assert "forward" not in vars(language_model.model.transformer.h[-1])


def test_the_block_has_its_own_forward_again_whatever_happens(llama, make_bank, monkeypatch):
    loss, last = whole_prompts(llama, make_bank), llama.model.model.layers[-1]

    def fail(*_given, **_named):
        raise ZeroDivisionError

    with monkeypatch.context() as broken:
        broken.setattr(last.mlp, "forward", fail)
        with loss.active({}):
            prompts = loss.prompts(range(4))
            with pytest.raises(ZeroDivisionError):
                loss.compute(range(4), prompts)
    assert "forward" not in vars(last)
    _, counted = passed(llama, loss)
    assert counted == [NEEDED, NEEDED]
