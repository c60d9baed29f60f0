"""Several readers answer together, from the mixture of what each would say next."""

import numpy as np
import pytest
import torch
from transformers import GenerationConfig

from adaptive_moe.models.blending import Blend
from adaptive_moe.models.decoding import decode, prefill, take_rows
from tests.support.tiny_models import tiny_language_model

CPU = torch.device("cpu")
GREEDY = GenerationConfig(max_new_tokens=5, eos_token_id=-1)


def logits(*rows):
    return torch.tensor(rows).log()


def test_probabilities_are_mixed_and_not_logits():
    blend = Blend([[0.75, 0.25]], device=CPU)
    mixed = blend.combine(logits([0.5, 0.25, 0.25], [0.1, 0.1, 0.8])).exp()
    torch.testing.assert_close(mixed, torch.tensor([[0.4, 0.2125, 0.3875]]))


def test_every_reader_is_as_responsible_as_its_part_is_large():
    blend = Blend([[0.75, 0.25], [1.0]], device=CPU)
    rows = logits([0.5, 0.25, 0.25], [0.1, 0.1, 0.8], [0.2, 0.2, 0.6])
    for _ in range(2):
        blend.combine(rows)
        blend.note(torch.tensor([2, 0]))
    first, second = blend.responsibilities([2, 1])
    # .75 x .25 of .1875 + .25 x .8
    np.testing.assert_allclose(first, [[0.1875 / 0.3875, 0.2 / 0.3875]] * 2, rtol=1e-6)
    np.testing.assert_allclose(second, [[1.0]])


def test_what_holds_for_a_row_holds_for_its_readers():
    blend = Blend([[0.5, 0.5], [1.0]], device=CPU)
    assert blend.spread(torch.tensor([7, 8])).tolist() == [7, 7, 8]


def run(model, filled, *, blend=None, generation=GREEDY):
    *_, last = decode(
        model,
        filled.header_cache,
        filled.first_logits,
        attention_mask=filled.attention_mask,
        prompts=filled.prompts if blend is None else filled.prompts[::2],
        generation=generation,
        seed=1,
        blend=blend,
    )
    return last.completions


@pytest.mark.parametrize("settings", [{}, {"do_sample": True}, {"repetition_penalty": 1.5}])
def test_readers_that_agree_answer_as_one(settings):
    model = tiny_language_model("llama")
    filled = prefill(model, [model.encode(x) for x in ("hi", "the symbol of iron is")])
    generation = GenerationConfig(max_new_tokens=5, eos_token_id=-1, **settings)
    alone = run(model, filled, generation=generation)
    blend = Blend([[0.7, 0.3], [0.2, 0.8]], device=CPU)
    doubled = take_rows(filled, [0, 0, 1, 1])
    together = run(model, doubled, blend=blend, generation=generation)
    for one, two in zip(alone, together, strict=True):
        assert one.token_ids == two.token_ids
        np.testing.assert_allclose(two.trace.entropy, one.trace.entropy, atol=1e-4)
        np.testing.assert_allclose(two.responsibilities.sum(axis=1), 1.0, atol=1e-6)
        assert one.responsibilities is None
