"""The batched loss on cached prompts is the loss of a plain full pass, example by example."""

import functools
import threading

import pytest
import torch

from adaptive_moe.experts.weights import LoraPair
from adaptive_moe.training.answer_loss import AnswerLoss
from adaptive_moe.training.batching import micro_batches, step_examples
from adaptive_moe.training.encoding import encode_examples
from adaptive_moe.training.lower_blocks import LowerBlocks
from adaptive_moe.training.synthesis import Example
from tests.support.tiny_models import ARCHITECTURES, tiny_language_model
from tests.training.reference import reference_loss


def random_weights(language_model, rank=3):
    generator = torch.Generator().manual_seed(3)
    return {
        layer.name: LoraPair(
            (torch.randn(rank, layer.in_features, generator=generator) * 0.1).requires_grad_(),
            (torch.randn(rank, layer.out_features, generator=generator) * 0.1).requires_grad_(),
        )
        for layer in language_model.layers
    }


def losses_and_gradients(weights, total):
    factors = [factor for pair in weights.values() for factor in (pair.a, pair.b)]
    return torch.autograd.grad(total, factors, allow_unused=True)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("activation", ["answer", "prompt"])
def test_loss_and_gradients_equal_a_plain_pass(architecture, activation, examples, make_bank):
    language_model = tiny_language_model(architecture)
    encoded = encode_examples(language_model, examples[:6]).examples
    bank, weights = make_bank(language_model), random_weights(language_model)
    loss = AnswerLoss(
        language_model, bank, encoded, activation=activation, prompt_cache_bytes=1 << 20
    )
    prompts = loss.prompts(range(6))
    with loss.active(weights):
        found = loss.compute(range(6), prompts)
    gradients = losses_and_gradients(weights, found.total)
    expected = [
        reference_loss(language_model, item, weights, from_header=activation == "answer")
        for item in encoded
    ]
    wanted = losses_and_gradients(weights, sum(expected))
    assert torch.allclose(found.per_example, torch.stack(expected).detach(), rtol=1e-4, atol=1e-4)
    assert found.tokens == sum(len(item.answer_ids) for item in encoded)
    for got, want in zip(gradients, wanted, strict=True):
        if want is not None:
            assert torch.allclose(got, want, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "mistral", "gemma2"])
@pytest.mark.parametrize("activation", ["answer", "prompt"])
def test_recomputed_blocks_give_the_same_gradients_and_keep_less(
    architecture, activation, examples, make_bank
):
    language_model = tiny_language_model(architecture, layers=4)
    encoded = encode_examples(language_model, examples[:6]).examples
    bank, weights = make_bank(language_model), random_weights(language_model)
    kept, gradients = [], []
    for recompute in (False, True):
        loss = AnswerLoss(
            language_model,
            bank,
            encoded,
            activation=activation,
            prompt_cache_bytes=1 << 20,
            recompute=recompute,
        )
        prompts = loss.prompts(range(6))
        saved = {}

        def keep(tensor, saved=saved):
            saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with loss.active(weights):
            with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
                total = loss.compute(range(6), prompts).total
            gradients.append(losses_and_gradients(weights, total))
        kept.append(sum(saved.values()))
    assert all(map(torch.equal, *gradients))
    assert kept[1] < kept[0] / 2


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("capacity", [0, 1 << 20])
def test_blocks_below_the_expert_run_once_and_change_nothing(
    architecture, capacity, examples, make_bank
):
    language_model = tiny_language_model(architecture)
    encoded = encode_examples(language_model, examples[:6]).examples
    bank = make_bank(language_model)
    top = max(layer.depth for layer in language_model.layers)
    named = {layer.name for layer in language_model.layers if layer.depth == top}
    weights = {name: pair for name, pair in random_weights(language_model).items() if name in named}
    found = []
    for lower_blocks in (0, top):
        loss = AnswerLoss(
            language_model,
            bank,
            encoded,
            activation="answer",
            prompt_cache_bytes=capacity,
            lower_blocks=lower_blocks,
        )
        for group in ([0, 3], [5, 2, 1, 0]):
            prompts = loss.prompts(group)
            with loss.active(weights):
                batch = loss.compute(group, prompts)
        found.append((batch.per_example, losses_and_gradients(weights, batch.total)))
    (plain, gradients), (skipping, others) = found
    assert torch.allclose(plain, skipping, rtol=1e-5, atol=1e-5)
    for one, other in zip(gradients, others, strict=True):
        if one is not None:
            assert torch.allclose(one, other, rtol=1e-4, atol=1e-5)
    ids = torch.tensor([[1, 2, 3]])
    before = language_model.model(ids).logits
    assert torch.equal(before, tiny_language_model(architecture).model(ids).logits)


def test_a_block_keeps_a_forward_of_its_own_whatever_happens(llama):
    block, lower = llama.model.model.layers[0], LowerBlocks(llama, 1)
    own = block.forward = functools.partial(block.forward)

    def fail():
        with lower.skipped(torch.zeros(1, 3, 32)):
            assert block.forward is not own
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert block.forward is own
    del block.forward
    assert not llama.model.model.layers[1]._forward_pre_hooks


def test_kept_prompts_give_the_same_loss_as_prompts_read_again(llama, examples, make_bank):
    encoded = encode_examples(llama, examples[:8]).examples
    bank, weights = make_bank(llama), random_weights(llama)
    totals = []
    for capacity in (0, 3000, 1 << 20):
        loss = AnswerLoss(llama, bank, encoded, activation="answer", prompt_cache_bytes=capacity)
        for group in ([0, 1, 2], [5, 2, 7, 0]):
            prompts = loss.prompts(group)
            with loss.active(weights):
                total = loss.compute(group, prompts).total
        assert loss.cached_bytes <= capacity
        totals.append(float(total.detach()))
    assert totals[1:] == pytest.approx([totals[0]] * 2, rel=1e-6)


def test_prompts_are_the_base_s_while_another_thread_uses_an_expert(llama, examples, make_bank):
    encoded = encode_examples(llama, examples[:4]).examples
    bank, weights = make_bank(llama), random_weights(llama)
    made = []

    def make():
        loss = AnswerLoss(llama, bank, encoded, activation="answer", prompt_cache_bytes=1 << 20)
        loss.read_ahead()
        made.append(loss)

    def prompt_keys(loss):
        prompts = loss.prompts([0, 1])
        return prompts.cache.layers[-1].prompts[0][0]

    make()
    other = threading.Thread(target=make)
    with bank.activate_weights(weights):
        other.start()
        other.join(timeout=0.3)
    other.join()
    alone, beside = made
    assert torch.equal(prompt_keys(alone), prompt_keys(beside))


def test_prompts_are_read_no_further_than_to_their_key_values(llama, examples, make_bank):
    encoded = encode_examples(llama, examples[:4]).examples
    counts = []
    llama.model.model.layers[-1].mlp.register_forward_pre_hook(
        lambda _module, given: counts.append(given[0].shape)
    )
    loss = AnswerLoss(llama, make_bank(llama), encoded, activation="answer", prompt_cache_bytes=0)
    counts.clear()
    with loss.active({}):
        prompts = loss.prompts(range(4))
        assert not counts
        loss.compute(range(4), prompts)
    assert counts


def test_exact_means_that_greedy_decoding_gives_the_answer(llama, make_bank):
    prompt = (("user", "hello there"),)
    prompt_ids = llama.encode("hello there").prompt_ids
    ids = torch.tensor([[*prompt_ids, *llama.header_ids]])
    produced = llama.model.generate(ids, max_new_tokens=3, do_sample=False)[0, ids.shape[1] :]
    answer = llama.decode(produced.tolist())
    encoded = encode_examples(llama, [Example(prompt, answer, "f", "x", "f", 1)]).examples
    bank = make_bank(llama)
    loss = AnswerLoss(llama, bank, encoded, activation="answer", prompt_cache_bytes=0)
    with loss.active({}):
        found = loss.compute([0], loss.prompts([0]))
    wanted = [int(token) for token in produced]
    greedy_gives_it = list(encoded[0].answer_ids) == wanted
    assert bool(found.exact[0]) == greedy_gives_it


def test_a_long_prompt_loses_its_left_end_and_the_answer_nothing(llama):
    example = Example((("user", "x" * 600),), "short", "f", "x", "f", 1)
    hopeless = Example((("user", "x"),), "y" * 600, "f", "x", "f", 2)
    encoded = encode_examples(llama, [example, hopeless])
    only = encoded.examples[0]
    used = len(only.prompt_ids) + len(llama.header_ids) + len(only.answer_ids)
    assert used == llama.context_length
    assert llama.decode(only.answer_ids) == "short"
    assert only.answer_ids[-1] in llama.eos_ids
    assert encoded.cut == 1
    assert [dropped.line for dropped, _ in encoded.dropped] == [2]


def test_every_epoch_sees_every_example_once():
    seen = [i for step in range(5) for i in step_examples(step, count=10, batch_size=4, seed=1)]
    assert sorted(seen[:10]) == sorted(seen[10:]) == list(range(10))
    assert seen[:10] != seen[10:]
    other = [i for step in range(5) for i in step_examples(step, count=10, batch_size=4, seed=2)]
    assert seen != other


def test_micro_batches_hold_everything_once_and_alike_lengths(llama, examples):
    encoded = encode_examples(llama, examples).examples
    groups = micro_batches(range(24), encoded, size=5)
    assert sorted(i for group in groups for i in group) == list(range(24))
    assert max(len(group) for group in groups) <= 5
    longest = [len(encoded[group[0]].answer_ids) for group in groups]
    assert longest == sorted(longest, reverse=True)
