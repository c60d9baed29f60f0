"""What every benchmark works on: prompts of one length, random experts, a runtime to ask."""

import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig

from adaptive_moe.config.settings import GapSettings, Settings
from adaptive_moe.engine.runtime import AdaptiveMoE
from adaptive_moe.errors import PromptError
from adaptive_moe.experts.adapter_files import write_adapter
from adaptive_moe.experts.bank import LoraBank
from adaptive_moe.experts.manifest import Manifest
from adaptive_moe.experts.pool import Mixture
from adaptive_moe.experts.store import Store
from adaptive_moe.experts.weights import LoraPair, LoraWeights
from adaptive_moe.models.compiled import CompiledSteps
from adaptive_moe.models.decoding import Completion, Prefill, decode, prefill, run_header
from adaptive_moe.models.language_model import EncodedPrompt, LanguageModel

NAMES = tuple(f"e{number}" for number in range(8))
NO_END_ID = -1  # no token has it, so every answer has its full length

ONE: Mixture = ((NAMES[0], 1.0),)
FOUR: Mixture = tuple((name, 0.25) for name in NAMES[:4])

_TEXT = "What is the capital of France and which river runs through the largest city of Spain"
_SHORT_WORDS = ("a", "is", "of", "?", ".", ",")
_NEVER = GapSettings(min_prompts=1_000_000, suspect_prompts=1_000_000)


def one_each(batch: int) -> list[Mixture]:
    """Another expert in every row, up to eight."""
    return [((NAMES[row % len(NAMES)], 1.0),) for row in range(batch)]


def random_experts(
    language_model: LanguageModel, *, rank: int, seed: int, names: Sequence[str] = NAMES
) -> dict[str, LoraWeights]:
    """Experts of one rank over all layers, small enough that answers stay finite."""
    generator = torch.Generator().manual_seed(seed)

    def draw(width: int) -> torch.Tensor:
        return torch.randn(rank, width, generator=generator).mul_(0.02)

    return {
        name: {
            layer.name: LoraPair(draw(layer.in_features), draw(layer.out_features))
            for layer in language_model.layers
        }
        for name in names
    }


def bank_with(language_model: LanguageModel, experts: Mapping[str, LoraWeights]) -> LoraBank:
    """A bank that just holds these experts."""
    ranks = sum(max(pair.rank for pair in weights.values()) for weights in experts.values())
    row_bytes = sum(layer.cost for layer in language_model.layers) * language_model.dtype.itemsize
    bank = LoraBank(
        language_model.model,
        language_model.layers,
        capacity_bytes=(ranks + 1) * row_bytes,
        dtype=language_model.dtype,
    )
    for name, weights in experts.items():
        bank.load(name, weights)
    return bank


def prompts_of(language_model: LanguageModel, tokens: int, batch: int) -> list[EncodedPrompt]:
    """Prompts of exactly so many tokens, header included, each beginning at another word."""
    return [_prompt_of(language_model, tokens, first=row) for row in range(batch)]


def token_ids(language_model: LanguageModel, prompts: Sequence[EncodedPrompt]) -> torch.Tensor:
    """Prompts of one length with their headers as one tensor on the model's device."""
    rows = [[*prompt.prompt_ids, *prompt.header_ids] for prompt in prompts]
    return torch.tensor(rows, device=language_model.device)


def full_length(new_tokens: int, *, pad_id: int | None = None) -> GenerationConfig:
    """Greedy answers of exactly so many tokens."""
    return GenerationConfig(
        max_new_tokens=new_tokens, do_sample=False, eos_token_id=NO_END_ID, pad_token_id=pad_id
    )


@torch.inference_mode()
def generated(
    model: Any,  # noqa: ANN401 - transformers' or PEFT's
    ids: torch.Tensor,
    new_tokens: int,
    *,
    pad_id: int,
    **options: object,
) -> int:
    """A model's own `generate`, greedily to full length; the new tokens of a row."""
    produced = model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        generation_config=full_length(new_tokens, pad_id=pad_id),
        **options,
    )
    return int(produced.shape[1] - ids.shape[1])


def answered(
    language_model: LanguageModel,
    bank: LoraBank,
    prompts: Sequence[EncodedPrompt],
    rows: Sequence[Mixture],
    *,
    new_tokens: int,
    compiled: CompiledSteps | None = None,
) -> tuple[Prefill, tuple[Completion, ...]]:
    """Prefill by the base, header and answers by each row's experts, greedily to full length."""
    with bank.activate([()] * len(prompts)):
        filled = prefill(language_model, prompts)
    with bank.activate(rows, static=compiled is not None):
        cache, logits = filled.header_cache, filled.first_logits
        if any(rows):
            cache, logits = run_header(language_model, filled)
        *_, last = decode(
            language_model,
            cache,
            logits,
            attention_mask=filled.attention_mask,
            prompts=filled.prompts,
            generation=full_length(new_tokens),
            compiled=compiled,
        )
    assert last.completions is not None
    return filled, last.completions


@contextmanager
def runtime(
    language_model: LanguageModel, experts: Mapping[str, LoraWeights]
) -> Iterator[AdaptiveMoE]:
    """The whole runtime over a fresh store with these experts; gaps are noted, not checked."""
    with (
        tempfile.TemporaryDirectory() as folder,
        _own_cache(Path(folder) / "cache"),
        Store(Path(folder) / "experts") as store,
    ):
        for name, weights in experts.items():
            publish(store, name, weights, language_model)
        with AdaptiveMoE(language_model, store, Settings(gaps=_NEVER)) as moe:
            yield moe


def publish(store: Store, name: str, weights: LoraWeights, language_model: LanguageModel) -> str:
    """Put an answer-activated expert into a store, in service; returns its id."""
    with store.stage() as staged:
        modules = write_adapter(
            staged,
            weights,
            scaling=dict.fromkeys(weights, 1.0),
            header_ids=language_model.header_ids,
            base_name="benchmark",
        )
        manifest = Manifest(
            base_id=language_model.base_id,
            numerics=asdict(language_model.numerics),
            activation="answer",
            header_ids=language_model.header_ids,
            modules=modules,
        )
        return store.publish(name, staged, manifest, status="active").expert_id


def _prompt_of(language_model: LanguageModel, tokens: int, *, first: int) -> EncodedPrompt:
    source, words = _TEXT.split(), list[str]()
    while True:
        word = source[(first + len(words)) % len(source)]
        for candidate in (word, *_SHORT_WORDS):
            prompt = language_model.encode(" ".join([*words, candidate]))
            if prompt.length <= tokens:
                words.append(candidate)
                break
        else:
            raise PromptError(
                f"no prompt of exactly {tokens} tokens can be written for this model; "
                "choose another length"
            )
        if prompt.length == tokens:
            return prompt


@contextmanager
def _own_cache(folder: Path) -> Iterator[None]:
    """The samples that an untrained router makes of its base belong to nobody's home."""
    before = os.environ.get("XDG_CACHE_HOME")
    os.environ["XDG_CACHE_HOME"] = str(folder)
    try:
        yield
    finally:
        if before is None:
            del os.environ["XDG_CACHE_HOME"]
        else:
            os.environ["XDG_CACHE_HOME"] = before
