"""Loads a base model by name or folder, on any device and in any precision, and freezes it."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import huggingface_hub
import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from adaptive_moe.config.settings import BaseModelSettings
from adaptive_moe.errors import (
    AdaptiveMoEError,
    ConfigurationError,
    InsufficientMemoryError,
    ModelNotFoundError,
    QuantizationError,
    UnsupportedModelError,
)
from adaptive_moe.models.fingerprint import Numerics, base_id
from adaptive_moe.models.language_model import LanguageModel
from adaptive_moe.models.memory import is_out_of_memory

if TYPE_CHECKING:
    from transformers import BitsAndBytesConfig

Quantization = Literal["nf4", "int8"]

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_SHORT = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
_WEIGHT_PATTERNS = ("model*.safetensors", "pytorch_model*.bin")
_HUB_PATIENCE_SECONDS = 5.0
_TOKENIZER_ADVICE = "put its tokenizer files beside config.json, or name another model"

_logger = logging.getLogger(__name__)


def load_language_model(
    base: str,
    *,
    dtype: str | None = None,
    quantization: Quantization | None = None,
    device: str = "auto",
    revision: str | None = None,
    local_files_only: bool = False,
) -> LanguageModel:
    """Load, place, freeze and fingerprint a base: "pocket", a local folder, or a hub id.

    `dtype` is float32, bfloat16 or float16 (or fp32, bf16, fp16); without one, or with auto, it
    is float32 on the CPU and the best 16-bit type on an accelerator. Code that a repository brings
    along never runs. Raises ModelNotFoundError, UnsupportedModelError, QuantizationError,
    InsufficientMemoryError, and ConfigurationError for an unknown dtype or device.
    """
    place = choose_device(device)
    kind = _choose_dtype(dtype, place)
    source = _locate(base)
    is_local = Path(source).is_dir()
    offline = local_files_only or is_local or not can_reach_hub()
    options = {"revision": revision, "local_files_only": offline}
    with _plain_errors(base, is_local=is_local):
        config = _read_config(source, options)
        folder = Path(source) if is_local else _snapshot(source, options)
        tokenizer = _read_tokenizer(source, options)
        bits = _quantization_config(quantization, kind, place, config)
        model = _read_model(source, kind, place, bits, options)
        identity = base_id(folder, tokenizer)
    stored = getattr(config, "quantization_config", None)
    numerics = Numerics(_name(kind), quantization or _stored_method(stored), place.type)
    _logger.info("loaded %s as %s on %s: %s", base, numerics.dtype, place, identity)
    name = Path(base).name if is_local and base != "pocket" else base
    return LanguageModel(model, tokenizer, base_id=identity, numerics=numerics, name=name)


def can_reach_hub() -> bool:
    """Whether anything answers there, asked once, through the hub's own client and its proxies.

    That client would ask six times for every file, which takes 23 seconds without a network.
    """
    try:
        huggingface_hub.get_session().head(
            huggingface_hub.constants.ENDPOINT, timeout=_HUB_PATIENCE_SECONDS
        )
    except Exception as error:  # noqa: BLE001  which HTTP library raises it, the hub may change
        _logger.info("the hub %s does not answer: %s", huggingface_hub.constants.ENDPOINT, error)
        return False
    return True


def load_base(settings: BaseModelSettings) -> LanguageModel:
    """The base that the settings describe; see `load_language_model`."""
    return load_language_model(
        settings.id,
        dtype=settings.dtype,
        quantization=settings.quantization,
        device=settings.device,
        revision=settings.revision,
        local_files_only=settings.local_files_only,
    )


def read_base_id(settings: BaseModelSettings) -> str:
    """The identity of the base that the settings describe, from files that are here already.

    Loads no weights and asks no hub. Raises ModelNotFoundError where the files are not here, and
    UnsupportedModelError where they are damaged.
    """
    source = _locate(settings.id)
    is_local = Path(source).is_dir()
    options = {"revision": settings.revision, "local_files_only": True}
    with _plain_errors(settings.id, is_local=is_local):
        folder = Path(source) if is_local else _fetched(source, options)
        return base_id(folder, _read_tokenizer(source, options))


def adopt(model: nn.Module, tokenizer: PreTrainedTokenizerBase) -> LanguageModel:
    """Freeze and fingerprint a model that is in memory already, unquantised and not yet wrapped."""
    first = next(model.parameters())
    numerics = Numerics(_name(first.dtype), None, first.device.type)
    identity = base_id(model, tokenizer)
    return LanguageModel(model, tokenizer, base_id=identity, numerics=numerics)


def choose_device(name: str) -> torch.device:
    """The device meant by a name; "auto" takes CUDA, then Apple's MPS, then the CPU.

    Raises ConfigurationError for a name torch does not know and a device that is not there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else _mps_or_cpu()
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigurationError(
            f"device {name!r} is unknown; use auto, cpu, cuda, cuda:1 or mps"
        ) from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigurationError(f"there is no device {name!r} on this machine; use auto or cpu")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise ConfigurationError("there is no device 'mps' on this machine; use auto or cpu")
    return device


def _mps_or_cpu() -> str:
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _choose_dtype(name: str | None, device: torch.device) -> torch.dtype:
    if name is None or name == "auto":
        if device.type == "cpu":
            return torch.float32
        has_bfloat16 = device.type != "cuda" or torch.cuda.is_bf16_supported()
        return torch.bfloat16 if has_bfloat16 else torch.float16
    chosen = _DTYPES.get(_SHORT.get(name, name))
    if chosen is None:
        raise ConfigurationError(f"dtype {name!r} is unknown; use auto, {', '.join(_DTYPES)}")
    return chosen


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _locate(base: str) -> str:
    """A folder or a hub id; whatever looks like a path must exist."""
    if base == "pocket":
        from adaptive_moe.pocket import model_path

        return str(model_path())
    path = Path(base or "?").expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise ModelNotFoundError(
                f"{base} is a folder, but it holds no config.json; name the folder of a model, "
                "with config.json, weights and tokenizer in it, or a hub id"
            )
        if not any(file for pattern in _WEIGHT_PATTERNS for file in path.glob(pattern)):
            raise ModelNotFoundError(
                f"{base} has a config.json, but no weights beside it; put its *.safetensors files "
                "there, or name another folder"
            )
        return str(path)
    if path.exists():
        raise ModelNotFoundError(
            f"{base} is a file; name the folder of the model, with config.json in it, or a hub id"
        )
    if not base or base.startswith(("/", "./", "../", "~")) or base.count("/") > 1:
        raise ModelNotFoundError(
            f"there is no folder {base!r}; check the path, or name a hub id such as owner/model"
        )
    return base


def _read_config(source: str, options: dict[str, Any]) -> PreTrainedConfig:
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(source, trust_remote_code=False, **options)
    names = config.architectures or []
    is_generator = not names or any("CausalLM" in n or "LMHead" in n for n in names)
    # Gemma 3 and the like: a decoder inside a multimodal wrapper.
    is_wrapped = any("ConditionalGeneration" in n for n in names)
    if config.is_encoder_decoder or not (is_generator or is_wrapped):
        raise UnsupportedModelError(
            f"{source} is no causal language model but {', '.join(names) or config.model_type}; "
            "name a model that generates text"
        )
    return cast("PreTrainedConfig", config)


def _snapshot(source: str, options: dict[str, Any]) -> Path:
    """Folder of a hub model in the local cache, with its weights fetched."""
    from huggingface_hub import snapshot_download

    def fetch(*patterns: str) -> Path:
        return Path(snapshot_download(source, allow_patterns=list(patterns), **options))

    folder = fetch("config.json", "model*.safetensors", "model.safetensors.index.json")
    if not any(folder.glob("model*.safetensors")):
        folder = fetch("config.json", "pytorch_model*.bin", "pytorch_model.bin.index.json")
    return folder


def _fetched(source: str, options: dict[str, Any]) -> Path:
    try:
        return _snapshot(source, options)
    except OSError as error:
        raise ModelNotFoundError(
            f"{source} is neither a folder nor fetched to this machine, so nothing here belongs to "
            "it; check the name, or ask it something, which fetches it"
        ) from error


def _read_tokenizer(source: str, options: dict[str, Any]) -> PreTrainedTokenizerBase:
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False, **options)
    except (OSError, ValueError, TypeError, KeyError, ImportError) as error:
        raise UnsupportedModelError(
            f"{source} comes without a tokenizer that can be read: {_first_line(error)}; "
            f"{_TOKENIZER_ADVICE}"
        ) from error
    if not len(tokenizer):
        raise UnsupportedModelError(
            f"{source} comes without a tokenizer: its vocabulary is empty; {_TOKENIZER_ADVICE}"
        )
    return cast("PreTrainedTokenizerBase", tokenizer)


def _quantization_config(
    quantization: Quantization | None,
    dtype: torch.dtype,
    device: torch.device,
    config: PreTrainedConfig,
) -> "BitsAndBytesConfig | None":
    if quantization is None:
        return None
    if quantization not in ("nf4", "int8"):
        raise ConfigurationError(f"quantization {quantization!r} is unknown; use nf4 or int8")
    if device.type not in ("cpu", "cuda"):
        raise QuantizationError(
            f"{quantization} needs the CPU or CUDA, not {device.type}; leave quantization out, or "
            "choose one of these devices"
        )
    if getattr(config, "quantization_config", None) is not None:
        raise QuantizationError("this model is stored quantised already; leave quantization out")
    try:
        import bitsandbytes  # noqa: F401
    except ImportError as error:
        raise QuantizationError(
            f"{quantization} needs bitsandbytes, which cannot be imported: {error}; install it, or "
            "leave quantization out"
        ) from error
    from transformers import BitsAndBytesConfig

    if quantization == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype
    )


def _read_model(
    source: str,
    dtype: torch.dtype,
    device: torch.device,
    bits: "BitsAndBytesConfig | None",
    options: dict[str, Any],
) -> nn.Module:
    from transformers import AutoModelForCausalLM

    placed: dict[str, Any] = (
        {} if device.type == "cpu" and bits is None else {"device_map": {"": device}}
    )
    if bits is not None:
        placed["quantization_config"] = bits
    with _no_progress_bar():
        model = AutoModelForCausalLM.from_pretrained(
            source, dtype=dtype, trust_remote_code=False, weights_only=True, **placed, **options
        )
    _keep_unpacked(model)
    return cast("nn.Module", model)


def _keep_unpacked(model: nn.Module) -> None:
    """Keep 4-bit layers on one code path on CPUs with bfloat16 instructions.

    There bitsandbytes would repack the weights at the first forward pass, compute in bfloat16,
    let no gradient through afterwards, and fail for widths that are no multiple of 64.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            setattr(module, "support_avx512bf16_for_cpu", False)  # noqa: B010 - untyped


@contextmanager
def _no_progress_bar() -> Iterator[None]:
    """Keep transformers from drawing on the terminal; only the command line may."""
    from transformers.utils import logging as transformers_logging

    was_enabled = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_enabled:
            transformers_logging.enable_progress_bar()


def _stored_method(stored: object) -> str | None:
    if stored is None:
        return None
    method = stored.get("quant_method") if isinstance(stored, dict) else None
    return str(method or getattr(stored, "quant_method", "stored"))


@contextmanager
def _plain_errors(base: str, *, is_local: bool) -> Iterator[None]:
    """Turn what transformers and torch raise while loading into one sentence of ours."""
    try:
        yield
    except AdaptiveMoEError:
        raise
    except Exception as error:
        # A stranger's checkpoint can fail in any way; everything it raises means the same.
        if is_out_of_memory(error):
            raise InsufficientMemoryError(
                f"{base} does not fit into memory; try quantization nf4 or a smaller model"
            ) from error
        if isinstance(error, OSError) and not is_local:
            raise ModelNotFoundError(
                f"{base} is no local folder and cannot be fetched: {_first_line(error)}; check the "
                "name and the network, or name a folder"
            ) from error
        kind = ModelNotFoundError if isinstance(error, OSError) else UnsupportedModelError
        raise kind(
            f"{base} cannot be loaded: {_first_line(error)}; fetch its files again, or name "
            "another model"
        ) from error


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200].rstrip(".") if lines else type(error).__name__
