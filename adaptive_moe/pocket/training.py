"""Trains the pocket model: Muon and AdamW, batches of similar length, loss on the answers."""

import logging
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from tokenizers import Tokenizer
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from adaptive_moe.pocket.draws import seeded
from adaptive_moe.pocket.encoding import Encoded
from adaptive_moe.pocket.tokenizer import BEGIN, END, PAD

_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Shape:
    """The model's size; the defaults were chosen by experiment (see the model card)."""

    layers: int = 4
    width: int = 256
    feed_forward: int = 768
    heads: int = 4
    context: int = 512
    vocabulary: int = 4096


@dataclass(frozen=True, slots=True)
class Recipe:
    """How the model is trained: flat learning rates that fall over the last `decay_share` steps.

    The matrices of the layers are trained by Muon (Jordan et al. 2024, with the step sizes of Liu
    et al. 2025), everything else by AdamW. Measured here, 200 steps then bring the loss about to
    where 400 of AdamW alone do. `prompt_weight` is the loss weight of prompt tokens, counted in
    one row of `PROMPT_EVERY`.
    """

    steps: int
    tokens_per_batch: int = 2048
    peak_learning_rate: float = 2e-3
    peak_matrix_rate: float = 4e-3
    decay_share: float = 0.4
    final_share: float = 0.02
    warmup_steps: int = 100
    weight_decay: float = 0.05
    gradient_clip: float = 1.0
    prompt_weight: float = 0.1


def build_model(shape: Shape, tokenizer: Tokenizer, *, seed: int) -> LlamaForCausalLM:
    """An untrained Llama of this shape; the same seed gives the same weights."""
    torch.manual_seed(seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=tokenizer.get_vocab_size(),
            hidden_size=shape.width,
            intermediate_size=shape.feed_forward,
            num_hidden_layers=shape.layers,
            num_attention_heads=shape.heads,
            num_key_value_heads=shape.heads,
            max_position_embeddings=shape.context,
            tie_word_embeddings=True,
            bos_token_id=tokenizer.token_to_id(BEGIN),
            eos_token_id=tokenizer.token_to_id(END),
            pad_token_id=tokenizer.token_to_id(PAD),
        )
    )


def train(
    model: LlamaForCausalLM,
    epochs: Callable[[int], Sequence[Encoded]],
    *,
    recipe: Recipe,
    seed: int,
) -> None:
    """Train in place for `recipe.steps` batches; `epochs(n)` gives the rows of the n-th epoch."""
    optimizers = _optimizers(model, recipe)
    schedules = [
        torch.optim.lr_scheduler.LambdaLR(each, lambda step: learning_rate_share(step, recipe))
        for each in optimizers
    ]
    model.train()
    started = time.monotonic()
    batches = _endless_batches(epochs, recipe.tokens_per_batch, seed)
    losses: list[float] = []
    for step in range(recipe.steps):
        losses.append(_step(model, optimizers, next(batches), recipe.gradient_clip))
        for schedule in schedules:
            schedule.step()
        if (step + 1) % 100 == 0 or step + 1 == recipe.steps:
            _report(step + 1, recipe.steps, losses[-100:], time.monotonic() - started)
    model.eval()


def _optimizers(model: LlamaForCausalLM, recipe: Recipe) -> tuple[torch.optim.Optimizer, ...]:
    """Muon for the layers' matrices, AdamW for the embedding (which is the head) and the norms."""
    named = dict(model.model.layers.named_parameters())
    matrices = [parameter for parameter in named.values() if parameter.ndim == 2]  # noqa: PLR2004
    inside = {id(parameter) for parameter in matrices}
    others = [parameter for parameter in model.parameters() if id(parameter) not in inside]
    muon = torch.optim.Muon(
        matrices,
        lr=recipe.peak_matrix_rate,
        weight_decay=recipe.weight_decay,
        adjust_lr_fn="match_rms_adamw",
    )
    adamw = torch.optim.AdamW(
        others,
        lr=recipe.peak_learning_rate,
        betas=(0.9, 0.95),
        weight_decay=recipe.weight_decay,
        fused=True,
    )
    return muon, adamw


def learning_rate_share(step: int, recipe: Recipe) -> float:
    """Linear warm-up to 1, then 1, then straight down to `final_share` at the last step."""
    if step < recipe.warmup_steps:
        return (step + 1) / recipe.warmup_steps
    turn = (1 - recipe.decay_share) * recipe.steps
    progress = max(0.0, (step - turn) / max(1.0, recipe.steps - turn))
    return 1 - (1 - recipe.final_share) * progress


def _step(
    model: LlamaForCausalLM,
    optimizers: Sequence[torch.optim.Optimizer],
    batch: Sequence[Encoded],
    gradient_clip: float,
) -> float:
    ids, weights = _collate(batch)
    hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state
    wanted = weights[:, 1:] > 0
    logits = model.lm_head(hidden[:, :-1][wanted])
    losses = torch.nn.functional.cross_entropy(logits, ids[:, 1:][wanted], reduction="none")
    token_weights = weights[:, 1:][wanted]
    is_answer = token_weights == 1
    loss = (losses * token_weights).sum() / is_answer.sum()
    model.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), gradient_clip)
    for optimizer in optimizers:
        optimizer.step()
    return float(losses.detach()[is_answer].mean())


def _collate(batch: Sequence[Encoded]) -> tuple[Tensor, Tensor]:
    """Ids [batch, time] and weights of the same shape, padded on the right.

    Causal attention needs no mask then: no token ever sees the padding after it.
    """
    length = max(len(row.ids) for row in batch)
    ids = torch.zeros(len(batch), length, dtype=torch.long)
    weights = torch.zeros(len(batch), length)
    for index, row in enumerate(batch):
        ids[index, : len(row.ids)] = torch.tensor(row.ids)
        weights[index, : len(row.weights)] = torch.tensor(row.weights)
    return ids, weights


def _endless_batches(
    epochs: Callable[[int], Sequence[Encoded]], tokens_per_batch: int, seed: int
) -> Iterator[Sequence[Encoded]]:
    epoch = 0
    while True:
        chance = seeded(f"batches {seed} {epoch}")
        yield from _batches(epochs(epoch), tokens_per_batch, chance)
        epoch += 1


def _batches(
    rows: Sequence[Encoded], tokens_per_batch: int, chance: random.Random
) -> list[list[Encoded]]:
    """All rows once, in batches of about equal length and token count, in random order."""
    order = sorted(rows, key=lambda row: (len(row.ids) + chance.random() * 3, row.ids))
    batches: list[list[Encoded]] = [[]]
    for row in order:
        if (len(batches[-1]) + 1) * len(row.ids) > tokens_per_batch and batches[-1]:
            batches.append([])
        batches[-1].append(row)
    chance.shuffle(batches)
    return batches


def _report(step: int, steps: int, losses: Sequence[float], elapsed_seconds: float) -> None:
    remaining = elapsed_seconds / step * (steps - step)
    _LOGGER.info(
        "step %d/%d: answer loss %.4f, %.0f s so far, %.0f s to go",
        step,
        steps,
        sum(losses) / len(losses),
        elapsed_seconds,
        remaining,
    )
