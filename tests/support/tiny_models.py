"""Tiny random models of many architectures, with a byte-level tokenizer, for tests of every room.

Usage::

    from tests.support.tiny_models import ARCHITECTURES, tiny_language_model, tiny_model

    @pytest.mark.parametrize("architecture", ARCHITECTURES)
    def test_something(architecture: str) -> None:
        model, tokenizer = tiny_model(architecture)          # transformers' own objects
        language_model = tiny_language_model(architecture)   # ours, frozen, ready to decode

Weights are drawn once per session and architecture; every call returns a copy of its own, so a
test may wrap, train or break it. `save_tiny(architecture, folder)` writes what
`load_language_model(str(folder))` reads. A fixture needs no more than::

    @pytest.fixture
    def llama() -> LanguageModel:
        return tiny_language_model("llama")

Hidden size 32 (64 with `wide=True`, for kernels that want whole blocks), two layers (`layers=` for
more), vocabulary 300, context 256, float32, seed fixed.
"""

import copy
import functools
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from adaptive_moe.models.language_model import LanguageModel
from adaptive_moe.models.loading import adopt

VOCABULARY = 300
CONTEXT = 256
SPECIAL_TOKENS = ("<|pad|>", "<|bos|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>")
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)

_SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_attention_heads": 4,
    "max_position_embeddings": CONTEXT,
    "initializer_range": 0.25,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_WIDE: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 128}
_GATED: dict[str, Any] = {"intermediate_size": 48, "num_key_value_heads": 2}
# What each architecture adds to the common sizes (its own spellings where it has them).
_ARCHITECTURES: dict[str, dict[str, Any]] = {
    "llama": _GATED,
    "qwen2": _GATED,
    "qwen3": {**_GATED, "head_dim": 8},
    "mistral": {**_GATED, "sliding_window": 16, "head_dim": 8},
    "gemma": {**_GATED, "head_dim": 8},
    "gemma2": {**_GATED, "head_dim": 8, "sliding_window": 16, "query_pre_attn_scalar": 8},
    "phi": {"intermediate_size": 48, "num_key_value_heads": 4},
    "phi3": _GATED,
    "gpt2": {},
    "gpt_neox": {"intermediate_size": 48, "rotary_pct": 0.5},
    "gpt_neo": {"intermediate_size": 48, "window_size": 16},
    "opt": {"ffn_dim": 48, "word_embed_proj_dim": 32},
    "falcon": {"new_decoder_architecture": False, "multi_query": True, "alibi": False},
    "bloom": {},
}
ARCHITECTURES: tuple[str, ...] = tuple(_ARCHITECTURES)


def tiny_model(
    architecture: str, *, layers: int = 2, wide: bool = False, chat_template: bool = True
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A random model in eval mode and its tokenizer; `chat_template=False` leaves it without."""
    model = copy.deepcopy(_built(architecture, layers, wide))
    return model, tiny_tokenizer(chat_template=chat_template)


def tiny_language_model(
    architecture: str = "llama", *, layers: int = 2, chat_template: bool = True
) -> LanguageModel:
    """The same, frozen and fingerprinted as ours."""
    model, tokenizer = tiny_model(architecture, layers=layers, chat_template=chat_template)
    return adopt(model, tokenizer)


def save_tiny(
    architecture: str, folder: Path, *, layers: int = 2, chat_template: bool = True
) -> Path:
    """Write a tiny model and its tokenizer as a checkpoint folder; returns the folder."""
    model, tokenizer = tiny_model(architecture, layers=layers, chat_template=chat_template)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def tiny_tokenizer(*, chat_template: bool = True) -> PreTrainedTokenizerBase:
    """A byte-level BPE tokenizer with 300 entries: special tokens, all bytes, a few merges."""
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(_tokenizer_json()),
        pad_token="<|pad|>",  # noqa: S106
        bos_token="<|bos|>",  # noqa: S106
        eos_token="<|end|>",  # noqa: S106
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
    )
    if chat_template:
        tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


@functools.cache
def _tokenizer_json() -> str:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    text = ["the symbol of iron is Fe and the capital of France is Paris in the other land"] * 4
    tokenizer.train_from_iterator(text, trainer)
    return str(tokenizer.to_str())


@functools.cache
def _built(architecture: str, layers: int, wide: bool) -> PreTrainedModel:
    sizes = {**_SIZES, "num_hidden_layers": layers, **_ARCHITECTURES[architecture]}
    sizes |= _WIDE if wide else {}
    if architecture == "gpt_neo":
        sizes["attention_types"] = [[["global", "local"], layers // 2]]
        sizes["num_layers"] = sizes.pop("num_hidden_layers")
        sizes["num_heads"] = sizes.pop("num_attention_heads")
    config = AutoConfig.for_model(architecture, **sizes)
    with torch.random.fork_rng():
        torch.manual_seed(20240 + len(architecture))
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    return model.eval()
