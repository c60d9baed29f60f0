"""Optimiser steps and evaluations, in as many forward passes as memory allows."""

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from itertools import zip_longest
from typing import TypeVar, final

import torch
from torch import Tensor
from torch.optim import Optimizer

from adaptive_moe.config.settings import TrainingSettings
from adaptive_moe.errors import InsufficientMemoryError
from adaptive_moe.experts.weights import LoraWeights
from adaptive_moe.models.memory import is_out_of_memory
from adaptive_moe.training.adapter import Adapter, AdapterStack
from adaptive_moe.training.answer_loss import AnswerLoss
from adaptive_moe.training.batching import micro_batches
from adaptive_moe.training.interruption import stop_if_cancelled
from adaptive_moe.training.muon import Muon

_Found = TypeVar("_Found")
_log = logging.getLogger(__name__)

_EVALUATION_FACTOR = 4  # without gradients, so many more examples fit into one pass


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Mean loss in nats per answer token, and the share of answers exactly right (greedy)."""

    loss: float
    exact: float


@dataclass(frozen=True, slots=True)
class ExampleScore:
    """One answer under some weights: summed nats, its tokens, and whether greedy gets it."""

    loss: float
    tokens: int
    exact: bool


@final
class Stepper:
    """The optimisers of adapters that are trained side by side, one a slot.

    Slots share their forward passes where the loss packs them; elsewhere each has its own, with
    the same outcome. When memory runs out, in an evaluation too, the micro-batch shrinks for good,
    then the number of slots in a pass. Where not even one example fits, passes are recomputed for
    their gradients from then on.
    """

    def __init__(
        self, adapters: Sequence[Adapter], loss: AnswerLoss, settings: TrainingSettings
    ) -> None:
        self._adapters = tuple(adapters)
        self._loss = loss
        self._clip_norm = settings.clip_norm
        self._size = settings.micro_batch_size
        self._slots_a_pass = len(adapters) if loss.packs else 1
        self._stack = AdapterStack(adapters) if self._slots_a_pass > 1 else None
        if self._slots_a_pass < len(adapters):
            _log.warning("passes of this model cannot be packed: every slot has its own")
        self._optimizers = [_optimizer(adapter, settings) for adapter in adapters]

    def step(
        self, chosen: Mapping[int, Sequence[int]], rates: Mapping[int, float]
    ) -> dict[int, tuple[float, int] | None]:
        """One step of some slots on examples by index: mean loss and answer tokens of each.

        None for a slot whose loss or gradients were not finite: it does not move. Every answer
        token of a slot weighs the same, however the step is cut into passes. Raises
        InsufficientMemoryError when a single example does not fit.
        """
        found = self._within_memory(lambda: self._accumulate(chosen))
        if self._stack is not None:
            self._stack.hand_out_gradients(tuple(chosen))
        return {
            slot: each if self._update(slot, each[0], rates[slot]) else None
            for slot, each in found.items()
        }

    def evaluate(self, slots: Sequence[int], tests: AnswerLoss) -> dict[int, Evaluation]:
        """What the adapters of these slots make of all examples of `tests`.

        Raises InsufficientMemoryError when a single example does not fit.
        """
        return self._within_memory(lambda: self._evaluated(slots, tests))

    def optimizer_tensors(self, slot: int) -> dict[str, Tensor]:
        """Moments and counters of a slot's optimiser, named by the parameter's place."""
        state = self._optimizers[slot].state_dict()["state"]
        return {
            f"optimizer.{index}.{name}": value.detach().cpu().clone()
            for index, values in state.items()
            for name, value in values.items()
        }

    def restore_optimizer(self, slot: int, tensors: Mapping[str, Tensor]) -> None:
        """Take over what `optimizer_tensors` returned earlier."""
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            if key.startswith("optimizer."):
                _, index, name = key.split(".")
                state.setdefault(int(index), {})[name] = value
        groups = self._optimizers[slot].state_dict()["param_groups"]
        self._optimizers[slot].load_state_dict({"state": state, "param_groups": groups})

    def _update(self, slot: int, loss: float, rate: float) -> bool:
        """Move a slot along its gradients; False where they, or its loss, are not finite."""
        optimizer, parameters = self._optimizers[slot], self._adapters[slot].parameters
        norm = torch.nn.utils.clip_grad_norm_(parameters, self._clip_norm)
        finite = math.isfinite(loss) and bool(torch.isfinite(norm))
        if finite:
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return finite

    def _within_memory(self, work: Callable[[], _Found]) -> _Found:
        """What the work gives, in passes halved until they fit."""
        while True:
            try:
                return work()
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                if self._size == 1 and self._slots_a_pass == 1 and self._loss.recompute:
                    raise InsufficientMemoryError(
                        "not even one training example fits into memory; shorten the examples or "
                        "lower training.rank"
                    ) from None
            # Outside the handler, so that no traceback keeps the failed pass alive.
            self._forget_gradients()
            self._take_less()

    def _take_less(self) -> None:
        if self._size > 1:
            self._size //= 2
        elif self._slots_a_pass > 1:
            self._slots_a_pass //= 2
        else:
            self._loss.recompute = True

    def _forget_gradients(self) -> None:
        for optimizer in self._optimizers:
            optimizer.zero_grad(set_to_none=True)
        if self._stack is not None:
            self._stack.hand_out_gradients(())

    def _accumulate(self, chosen: Mapping[int, Sequence[int]]) -> dict[int, tuple[float, int]]:
        examples = self._loss.examples
        tokens = {
            slot: sum(len(examples[index].answer_ids) for index in indexes)
            for slot, indexes in chosen.items()
        }
        summed = dict.fromkeys(chosen, 0.0)
        for groups in self._passes(chosen):
            totals = self._backward(groups, tokens)
            for slot, total in zip(groups, totals, strict=True):
                summed[slot] += total
        return {slot: (summed[slot] / tokens[slot], tokens[slot]) for slot in chosen}

    def _backward(
        self, groups: Mapping[int, Sequence[int]], tokens: Mapping[int, int]
    ) -> list[float]:
        """One pass over a group of each slot: their summed losses."""
        indexes = [index for group in groups.values() for index in group]
        places = [place for place, group in enumerate(groups.values()) for _ in group]
        with self._loss.active({}):
            prompts = self._loss.prompts(indexes, slots=places)
        with self._activation(tuple(groups), self._loss)():
            totals = self._loss.compute(indexes, prompts).totals
            means = [total / tokens[slot] for slot, total in zip(groups, totals, strict=True)]
            torch.stack(means).sum().backward()
        return totals.tolist()

    def _passes(self, chosen: Mapping[int, Sequence[int]]) -> Iterator[dict[int, list[int]]]:
        """Groups of like length of every slot, as many slots to a pass as go together."""
        examples, width = self._loss.examples, self._loss.max_width
        by_slot = [
            micro_batches(indexes, examples, size=self._size, max_width=width)
            for indexes in chosen.values()
        ]
        for groups in zip_longest(*by_slot, fillvalue=()):
            there = [(slot, group) for slot, group in zip(chosen, groups, strict=True) if group]
            for start in range(0, len(there), self._slots_a_pass):
                part = there[start : start + self._slots_a_pass]
                yield {slot: list(group) for slot, group in part}

    def _evaluated(self, slots: Sequence[int], tests: AnswerLoss) -> dict[int, Evaluation]:
        found: dict[int, Evaluation] = {}
        for start in range(0, len(slots), self._slots_a_pass):
            part = slots[start : start + self._slots_a_pass]
            size = self._size * max(1, _EVALUATION_FACTOR // len(part))
            scores = _score(self._activation(part, tests), tests, size, len(part))
            found |= dict(zip(part, map(_evaluation, scores), strict=True))
        return found

    def _activation(
        self, slots: Sequence[int], loss: AnswerLoss
    ) -> Callable[[], AbstractContextManager[None]]:
        """What switches these slots' weights on, as they are now."""
        if self._stack is not None:
            return partial(loss.active_stack, self._stack.weights(slots))
        (slot,) = slots
        return partial(loss.active, self._adapters[slot].weights())


def _optimizer(adapter: Adapter, settings: TrainingSettings) -> Optimizer:
    rate, decay = settings.learning_rate, settings.weight_decay
    if settings.optimizer == "muon":
        return Muon(adapter.parameters, lr=rate, weight_decay=decay)
    return torch.optim.AdamW(adapter.parameters, lr=rate, weight_decay=decay, fused=True)


def evaluate(weights: LoraWeights, loss: AnswerLoss, settings: TrainingSettings) -> Evaluation:
    """Loss and exact answers of all examples of `loss` under `weights`; {} is the base."""
    return _evaluation(score_examples(weights, loss, settings))


def score_examples(
    weights: LoraWeights, loss: AnswerLoss, settings: TrainingSettings
) -> list[ExampleScore]:
    """The score of every example of `loss`, in order, under `weights`; may be interrupted."""
    size = settings.micro_batch_size * _EVALUATION_FACTOR
    return _score(partial(loss.active, weights), loss, size, 1)[0]


def _evaluation(scores: Sequence[ExampleScore]) -> Evaluation:
    return Evaluation(
        loss=sum(score.loss for score in scores) / sum(score.tokens for score in scores),
        exact=sum(score.exact for score in scores) / len(scores),
    )


@torch.no_grad()
def _score(
    active: Callable[[], AbstractContextManager[None]], loss: AnswerLoss, size: int, slots: int
) -> list[list[ExampleScore]]:
    """The scores of all examples by slot, under what `active` switches on."""
    scores: list[dict[int, ExampleScore]] = [{} for _ in range(slots)]
    examples = loss.examples
    groups = micro_batches(range(len(examples)), examples, size=size, max_width=loss.max_width)
    for group in groups:
        stop_if_cancelled()
        places = [place for place in range(slots) for _ in group]
        indexes = [*group] * slots
        with loss.active({}):
            prompts = loss.prompts(indexes, slots=places)
        with active():
            found = loss.compute(indexes, prompts)
        rows = zip(places, indexes, found.per_example.tolist(), found.exact.tolist(), strict=True)
        for place, index, nats, exact in rows:
            tokens = len(examples[index].answer_ids)
            scores[place][index] = ExampleScore(nats, tokens, exact)
    return [[each[index] for index in range(len(examples))] for each in scores]
