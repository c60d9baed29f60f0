"""One optimiser step and one evaluation, in as many forward passes as memory allows."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor
from torch.optim import Optimizer

from adaptive_moe.config.settings import TrainingSettings
from adaptive_moe.errors import InsufficientMemoryError
from adaptive_moe.experts.weights import LoraWeights
from adaptive_moe.models.memory import is_out_of_memory
from adaptive_moe.training.adapter import Adapter
from adaptive_moe.training.answer_loss import AnswerLoss
from adaptive_moe.training.batching import micro_batches
from adaptive_moe.training.interruption import stop_if_cancelled
from adaptive_moe.training.muon import Muon

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
    """The optimiser over an adapter; when memory runs out its micro-batch shrinks for good.

    Where not even one example fits, passes are recomputed for their gradients from then on.
    """

    def __init__(self, adapter: Adapter, loss: AnswerLoss, settings: TrainingSettings) -> None:
        self._adapter = adapter
        self._loss = loss
        self._clip_norm = settings.clip_norm
        self._size = settings.micro_batch_size
        self._optimizer = _optimizer(adapter, settings)

    def step(self, indexes: Sequence[int], rate: float) -> tuple[float, int] | None:
        """Mean loss and answer tokens of the step; None when it was not finite and not taken.

        Every answer token weighs the same, however the step is cut into passes. Raises
        InsufficientMemoryError when a single example does not fit.
        """
        loss, tokens = self._accumulate_within_memory(indexes)
        parameters = self._adapter.parameters
        norm = torch.nn.utils.clip_grad_norm_(parameters, self._clip_norm)
        finite = math.isfinite(loss) and bool(torch.isfinite(norm))
        if finite:
            for group in self._optimizer.param_groups:
                group["lr"] = rate
            self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return (loss, tokens) if finite else None

    def optimizer_tensors(self) -> dict[str, Tensor]:
        """The optimiser's moments and counters, named by the parameter's place."""
        state = self._optimizer.state_dict()["state"]
        return {
            f"optimizer.{index}.{name}": value.detach().cpu().clone()
            for index, values in state.items()
            for name, value in values.items()
        }

    def restore_optimizer(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over what `optimizer_tensors` returned earlier."""
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            if key.startswith("optimizer."):
                _, index, name = key.split(".")
                state.setdefault(int(index), {})[name] = value
        groups = self._optimizer.state_dict()["param_groups"]
        self._optimizer.load_state_dict({"state": state, "param_groups": groups})

    def _accumulate_within_memory(self, indexes: Sequence[int]) -> tuple[float, int]:
        """Gradients of the whole step, in passes halved until they fit."""
        while True:
            try:
                return self._accumulate(indexes)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                if self._size == 1 and self._loss.recompute:
                    raise InsufficientMemoryError(
                        "not even one training example fits into memory; shorten the examples or "
                        "lower training.rank"
                    ) from None
            # Outside the handler, so that no traceback keeps the failed pass alive.
            self._optimizer.zero_grad(set_to_none=True)
            self._loss.recompute |= self._size == 1
            self._size = max(1, self._size // 2)

    def _accumulate(self, indexes: Sequence[int]) -> tuple[float, int]:
        examples = self._loss.examples
        tokens = sum(len(examples[index].answer_ids) for index in indexes)
        groups = micro_batches(indexes, examples, size=self._size, max_width=self._loss.max_width)
        summed = 0.0
        for group in groups:
            with self._loss.active({}):
                prompts = self._loss.prompts(group)
            with self._loss.active(self._adapter.weights()):
                total = self._loss.compute(group, prompts).total
                (total / tokens).backward()
            summed += float(total.detach())
        return summed / tokens, tokens


def _optimizer(adapter: Adapter, settings: TrainingSettings) -> Optimizer:
    rate, decay = settings.learning_rate, settings.weight_decay
    if settings.optimizer == "muon":
        return Muon(adapter.parameters, lr=rate, weight_decay=decay)
    return torch.optim.AdamW(adapter.parameters, lr=rate, weight_decay=decay, fused=True)


def evaluate(weights: LoraWeights, loss: AnswerLoss, settings: TrainingSettings) -> Evaluation:
    """Loss and exact answers of all examples of `loss` under `weights`; {} is the base."""
    scores = score_examples(weights, loss, settings)
    tokens = sum(score.tokens for score in scores)
    return Evaluation(
        loss=sum(score.loss for score in scores) / tokens,
        exact=sum(score.exact for score in scores) / len(scores),
    )


@torch.no_grad()
def score_examples(
    weights: LoraWeights, loss: AnswerLoss, settings: TrainingSettings
) -> list[ExampleScore]:
    """The score of every example of `loss`, in order, under `weights`; may be interrupted."""
    scores: dict[int, ExampleScore] = {}
    groups = micro_batches(
        range(len(loss.examples)),
        loss.examples,
        size=settings.micro_batch_size * _EVALUATION_FACTOR,
        max_width=loss.max_width,
    )
    for group in groups:
        stop_if_cancelled()
        with loss.active({}):
            prompts = loss.prompts(group)
        with loss.active(weights):
            found = loss.compute(group, prompts)
        rows = zip(group, found.per_example.tolist(), found.exact.tolist(), strict=True)
        for index, nats, exact in rows:
            scores[index] = ExampleScore(nats, len(loss.examples[index].answer_ids), exact)
    return [scores[index] for index in range(len(loss.examples))]
