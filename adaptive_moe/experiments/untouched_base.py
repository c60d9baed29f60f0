"""Are the base's logits those of the bare model, to the bit, whatever happened in between?"""

from collections.abc import Iterator
from contextlib import suppress

import torch

from adaptive_moe.errors import BankFullError
from adaptive_moe.experiments.plan import Plan
from adaptive_moe.experiments.workload import (
    NAMES,
    ONE,
    bank_with,
    one_each,
    prompts_of,
    random_experts,
    runtime,
    token_ids,
)
from adaptive_moe.experts.bank import LoraBank
from adaptive_moe.experts.weights import LoraPair, LoraWeights
from adaptive_moe.models.language_model import LanguageModel


class _BrokenOffError(Exception):
    """Stands for whatever may go wrong in the middle of an answer."""


def largest_changes(language_model: LanguageModel, plan: Plan) -> dict[str, float]:
    """Largest change of any logit of the idle base, by what happened before; 0 is to the bit."""
    prompts = prompts_of(language_model, plan.prompt_tokens, max(plan.batches))
    ids = token_ids(language_model, prompts)
    bare = _logits(language_model, ids)

    def change() -> float:
        return float((_logits(language_model, ids) - bare).abs().max())

    experts = random_experts(language_model, rank=plan.rank, seed=plan.seed)
    bank = bank_with(language_model, experts)
    changes = {event: change() for event in _events(language_model, bank, experts, ids)}
    bank.close()
    with runtime(language_model, {NAMES[0]: experts[NAMES[0]]}) as moe:
        for route in ("auto", [NAMES[0]]):
            moe.generate("What is it?", experts=route, max_new_tokens=4)
        changes["a runtime that answered"] = change()
    return changes


def _events(
    language_model: LanguageModel,
    bank: LoraBank,
    experts: dict[str, LoraWeights],
    ids: torch.Tensor,
) -> Iterator[str]:
    """What may happen to a bank, one after another, with the name of what just happened."""
    yield "experts added"
    with bank.activate(one_each(len(ids))):
        _logits(language_model, ids)
    yield "experts used"
    _train(language_model, bank, experts[NAMES[0]], ids)
    yield "weights trained"
    with suppress(_BrokenOffError), bank.activate([ONE] * len(ids)):
        raise _BrokenOffError
    yield "an answer broken off"
    with suppress(BankFullError):
        bank.load("one too many", experts[NAMES[0]])
    assert "one too many" not in bank.resident
    yield "an expert refused"
    for name in experts:
        bank.evict(name)
    yield "experts evicted"


def _train(
    language_model: LanguageModel, bank: LoraBank, weights: LoraWeights, ids: torch.Tensor
) -> None:
    """One backward pass into an expert's factors."""
    trained = {
        name: LoraPair(
            pair.a.to(ids.device, language_model.dtype).requires_grad_(),
            pair.b.to(ids.device, language_model.dtype).requires_grad_(),
        )
        for name, pair in weights.items()
    }
    with bank.activate_weights(trained):
        language_model.model(ids[:1], use_cache=False).logits.float().mean().backward()


@torch.inference_mode()
def _logits(language_model: LanguageModel, ids: torch.Tensor) -> torch.Tensor:
    logits: torch.Tensor = language_model.model(ids, use_cache=False).logits
    return logits
