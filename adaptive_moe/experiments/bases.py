"""The models that are measured: by name, those with random weights made on the spot."""

import copy
import tempfile
from pathlib import Path
from typing import Any, cast

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from adaptive_moe.experiments.plan import (
    POCKET,
    RANDOM_30M,
    RANDOM_BILLION,
    RANDOM_BILLION_NF4,
)
from adaptive_moe.models.language_model import LanguageModel
from adaptive_moe.models.loading import adopt, choose_device, load_language_model
from adaptive_moe.pocket import model_path

_SIZES: dict[str, dict[str, Any]] = {
    RANDOM_30M: {
        "hidden_size": 512,
        "intermediate_size": 1664,
        "num_hidden_layers": 8,
        "num_attention_heads": 8,
        "num_key_value_heads": 8,
    },
    # A Llama 3.2 1B with four more layers in place of its large vocabulary.
    RANDOM_BILLION: {
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 20,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
    },
}


def load(name: str, device: str) -> LanguageModel:
    """A model with random weights by its name, else whatever `load_language_model` knows.

    The pocket model and the small random one are float32 everywhere; the large one is bfloat16 or
    nf4 where there is an accelerator.
    """
    if name == RANDOM_BILLION_NF4:
        with tempfile.TemporaryDirectory() as folder:
            write_checkpoint(RANDOM_BILLION, Path(folder))
            return load_language_model(folder, quantization="nf4", device=device)
    if name not in _SIZES:
        dtype = "float32" if name == POCKET else None
        return load_language_model(name, dtype=dtype, device=device)
    place = choose_device(device)
    is_half = name == RANDOM_BILLION and place.type != "cpu"
    model = _random_llama(name, torch.bfloat16 if is_half else torch.float32, place)
    return adopt(model, _tokenizer())


def write_checkpoint(name: str, folder: Path) -> None:
    """Write one of the random models as a bfloat16 checkpoint, the way models are published."""
    _random_llama(name, torch.bfloat16, torch.device("cpu")).save_pretrained(folder)
    _tokenizer().save_pretrained(folder)


def in_float64(language_model: LanguageModel) -> LanguageModel:
    """The same model in double precision, with weights of its own."""
    return adopt(copy.deepcopy(language_model.model).double(), language_model.tokenizer)


def _tokenizer() -> PreTrainedTokenizerBase:
    return cast("PreTrainedTokenizerBase", AutoTokenizer.from_pretrained(model_path()))


def _random_llama(name: str, dtype: torch.dtype, device: torch.device) -> PreTrainedModel:
    tokenizer = _tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        **_SIZES[name],
    )
    with torch.random.fork_rng(), torch.device(device):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    return cast("PreTrainedModel", model)
