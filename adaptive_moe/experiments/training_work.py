"""The same optimiser steps by our trainer, transformers' Trainer and trl's SFTTrainer over PEFT.

All start from the same factors, see the same examples in the same steps, and use the same
optimiser, rates and clipping; the loss is over the answers' tokens, each weighing the same within
a step.
"""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast, final

import torch
from torch import Tensor, nn
from torch.utils.data import SequentialSampler
from transformers import PrinterCallback, Trainer, TrainingArguments

from adaptive_moe.config.settings import TrainingSettings
from adaptive_moe.experiments.peers import trainable, twin
from adaptive_moe.experts.bank import LoraBank
from adaptive_moe.models.language_model import LanguageModel
from adaptive_moe.models.linear_layers import LinearLayer, upper_blocks
from adaptive_moe.training.adapter import Adapter
from adaptive_moe.training.answer_loss import AnswerLoss
from adaptive_moe.training.batching import step_examples
from adaptive_moe.training.encoding import EncodedExample
from adaptive_moe.training.ranks import RankPlan, plan_ranks
from adaptive_moe.training.steps import Stepper
from adaptive_moe.training.trainer import learning_rate

_IGNORED = -100


@dataclass(frozen=True, slots=True)
class Work:
    """Examples, and how many steps of them to take; ranks are the reference rank everywhere."""

    language_model: LanguageModel
    examples: tuple[EncodedExample, ...]
    activation: Literal["answer", "prompt"]
    settings: TrainingSettings

    @property
    def layers(self) -> tuple[LinearLayer, ...]:
        """Those that get ranks."""
        return upper_blocks(self.language_model.layers, self.settings.upper_share)

    @property
    def plan(self) -> RankPlan:
        """Uniform ranks over these layers."""
        return plan_ranks(
            self.layers,
            strategy="fixed",
            reference_rank=self.settings.rank,
            scaling=self.settings.scaling,
            alpha=self.settings.alpha,
        )

    def start(self) -> Adapter:
        """The factors that every training begins with."""
        model = self.language_model
        return Adapter(self.plan, model.layers, seed=self.settings.seed, device=model.device)

    def order(self) -> list[int]:
        """The examples of all steps, one after the other."""
        settings = self.settings
        return [
            index
            for step in range(settings.max_steps)
            for index in step_examples(
                step,
                count=len(self.examples),
                batch_size=settings.batch_size,
                seed=settings.seed,
            )
        ]


@dataclass(frozen=True, slots=True)
class Trained:
    """Mean loss of every step in nats per answer token, and the factors after the last one."""

    losses: tuple[float, ...]
    factors: dict[str, Tensor]


@final
class OurTraining:
    """Our trainer's steps of one work, prompts' key-values read anew in every run."""

    def __init__(self, work: Work, bank: LoraBank) -> None:
        self._sweep = OurSweep([work], bank)

    def run(self) -> Trained:
        """All steps from the start."""
        return self._sweep.run()[0]


@final
class OurSweep:
    """Our trainer's steps of several works on the same examples, in passes that they share."""

    def __init__(self, works: Sequence[Work], bank: LoraBank) -> None:
        self._works = works
        self._bank = bank

    def run(self) -> tuple[Trained, ...]:
        """All steps of all works from the start."""
        first, settings = self._works[0], self._works[0].settings
        adapters = [work.start() for work in self._works]
        loss = AnswerLoss(
            first.language_model,
            self._bank,
            first.examples,
            activation=first.activation,
            prompt_cache_bytes=settings.prompt_cache_bytes,
            lower_blocks=min(layer.depth for work in self._works for layer in work.layers),
        )
        stepper = Stepper(adapters, loss, settings)
        loss.read_ahead()
        orders = [work.order() for work in self._works]
        losses: list[list[float]] = [[] for _ in self._works]
        for step in range(settings.max_steps):
            start = step * settings.batch_size
            chosen = {
                slot: order[start : start + settings.batch_size]
                for slot, order in enumerate(orders)
            }
            rates = dict.fromkeys(chosen, learning_rate(step, settings))
            for slot, found in stepper.step(chosen, rates).items():
                losses[slot].append(float("nan") if found is None else found[0])
        return tuple(
            Trained(tuple(own), adapter.tensors())
            for own, adapter in zip(losses, adapters, strict=True)
        )


@final
class PeerTraining:
    """A trainer over a PEFT model: LoRA, or aLoRA where experts act on the answer.

    Raises ImportError for "SFTTrainer" where trl is not installed.
    """

    def __init__(self, work: Work, trainer: Literal["Trainer", "SFTTrainer"] = "Trainer") -> None:
        self._work = work
        self._begin = _trl() if trainer == "SFTTrainer" else _transformers()
        settings = work.settings
        header = work.language_model.header_ids
        self._model = trainable(
            twin(work.language_model.model),
            [layer.name for layer in work.layers],
            rank=settings.rank,
            alpha=settings.alpha,
            use_rslora=settings.scaling == "rslora",
            header_ids=header if work.activation == "answer" else None,
        )
        self._factors = self._named_factors()
        rows = [_row(work.language_model, each) for each in work.examples]
        self._rows = [rows[index] for index in work.order()]
        self._pad_id = work.language_model.pad_id

    def run(self) -> Trained:
        """All steps from the start."""
        settings = self._work.settings
        self._restart()
        parameters = [each for each in self._model.parameters() if each.requires_grad]
        optimizer = torch.optim.AdamW(
            parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True
        )
        rate = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: learning_rate(step, settings) / settings.learning_rate
        )
        with tempfile.TemporaryDirectory() as folder:
            trainer = self._begin(
                _arguments(settings, folder, self._work.language_model.device),
                {
                    "model": self._model,
                    "processing_class": self._work.language_model.tokenizer,
                    "data_collator": self._padded,
                    "optimizers": (optimizer, rate),
                },
                self._rows,
            )
            trainer.remove_callback(PrinterCallback)  # it would print among our JSON
            trainer.train()
        passes = torch.stack(trainer.passes).reshape(settings.max_steps, -1)
        factors = {
            name: parameter.detach().cpu().clone() for name, parameter in self._factors.items()
        }
        return Trained(tuple(passes.sum(dim=1).tolist()), factors)

    def _named_factors(self) -> dict[str, nn.Parameter]:
        """PEFT's factors under our names; its B is ours transposed."""
        modules = dict(cast("Any", self._model).get_base_model().named_modules())
        found: dict[str, nn.Parameter] = {}
        for layer in self._work.layers:
            found[f"a.{layer.name}"] = modules[layer.name].lora_A["default"].weight
            found[f"b.{layer.name}"] = modules[layer.name].lora_B["default"].weight
        return found

    @torch.no_grad()
    def _restart(self) -> None:
        for name, tensor in self._work.start().tensors().items():
            place = self._factors[name]
            place.copy_(tensor if name.startswith("a.") else tensor.T)

    def _padded(self, rows: Sequence[dict[str, list[int]]]) -> dict[str, Tensor]:
        width = max(len(row["input_ids"]) for row in rows)
        fill = {"input_ids": self._pad_id, "labels": _IGNORED, "attention_mask": 0}
        return {
            name: torch.tensor([row[name] + [value] * (width - len(row[name])) for row in rows])
            for name, value in fill.items()
        }


class _InOrder(Trainer):
    """Takes the rows as they come, and keeps the unrounded losses of all passes."""

    def __init__(self, **arguments: Any) -> None:  # noqa: ANN401  handed through as they are
        super().__init__(**arguments)
        self.passes: list[Tensor] = []

    def training_step(self, *arguments: Any, **named: Any) -> Tensor:  # noqa: ANN401  as above
        loss = super().training_step(*arguments, **named)
        self.passes.append(loss.detach())
        return loss

    def _get_train_sampler(self, train_dataset: object = None) -> SequentialSampler:
        return SequentialSampler(cast("Any", train_dataset or self.train_dataset))


_Begin = Callable[[dict[str, Any], dict[str, Any], list[dict[str, list[int]]]], _InOrder]


def _transformers() -> _Begin:
    return lambda arguments, parts, rows: _InOrder(
        args=TrainingArguments(**arguments), train_dataset=cast("Any", rows), **parts
    )


def _trl() -> _Begin:
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    # Its own methods are looked up before the Trainer's, and those above before both.
    in_order = type("_InOrderSFT", (_InOrder, SFTTrainer), {})

    def begin(
        arguments: dict[str, Any], parts: dict[str, Any], rows: list[dict[str, list[int]]]
    ) -> _InOrder:
        options = SFTConfig(
            **arguments,
            dataset_kwargs={"skip_prepare_dataset": True},
            max_length=None,
            # On by default, and both slower here.
            bf16=False,
            gradient_checkpointing=False,
        )
        trainer = in_order(args=options, train_dataset=Dataset.from_list(rows), **parts)
        return cast("_InOrder", trainer)

    return begin


def _row(language_model: LanguageModel, example: EncodedExample) -> dict[str, list[int]]:
    before = [*example.prompt_ids, *language_model.header_ids]
    answer = list(example.answer_ids)
    return {
        "input_ids": before + answer,
        "labels": [_IGNORED] * len(before) + answer,
        "attention_mask": [1] * (len(before) + len(answer)),
    }


def _arguments(settings: TrainingSettings, folder: str, device: torch.device) -> dict[str, Any]:
    return {
        "output_dir": folder,
        "max_steps": settings.max_steps,
        "per_device_train_batch_size": settings.micro_batch_size,
        "gradient_accumulation_steps": settings.batch_size // settings.micro_batch_size,
        "max_grad_norm": settings.clip_norm,
        "logging_strategy": "no",
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
        "use_cpu": device.type == "cpu",
        "dataloader_pin_memory": False,
        "remove_unused_columns": False,
        "seed": settings.seed,
    }
