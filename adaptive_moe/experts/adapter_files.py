"""Adapters as files in PEFT's format: written, read back, imported from strangers, exported.

PEFT itself is never used to read: it loads flipped bits, zeroed tails, other bases' adapters and
NaN without a word. A file is trusted step by step: size, hash, header, names, shapes, values.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from adaptive_moe.config.foreign_methods import FOREIGN_METHODS
from adaptive_moe.errors import (
    AdapterFormatError,
    ConfigurationError,
    CorruptExpertError,
    StoreError,
)
from adaptive_moe.experts.manifest import MAX_RANK, Manifest, ModuleRecord
from adaptive_moe.experts.objects import check_object, disk_errors, read_capped
from adaptive_moe.experts.peft_config import (
    CONFIG_NAME,
    MAX_CONFIG_BYTES,
    base_name_of,
    config_text,
    parse_config,
)
from adaptive_moe.experts.pool import padded_rank
from adaptive_moe.experts.provenance import write_origin
from adaptive_moe.experts.store import ExpertRecord
from adaptive_moe.experts.weights import LoraPair, LoraWeights
from adaptive_moe.models.linear_layers import LinearLayer

WEIGHTS_NAME = "adapter_model.safetensors"
EXPORT_FORMATS = ("peft", "vllm")
_PREFIX = "base_model.model."
_SUFFIX_A, _SUFFIX_B = ".lora_A.weight", ".lora_B.weight"
_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
_HEADER_BYTES_PER_TENSOR = 1024
_UNREADABLE = {
    "magnitude": FOREIGN_METHODS["dora"],
    "lora_embedding": "it adapts embeddings",
    "bias": "it trains biases",
    "modules_to_save": "it replaces whole modules",
    "base_layer": "it carries weights of the base",
}


@dataclass(frozen=True, slots=True, eq=False)
class ImportedAdapter:
    """A stranger's adapter, checked; scaling is folded into the weights and given beside them."""

    weights: LoraWeights
    scaling: Mapping[str, float]
    activation: Literal["answer", "prompt"]
    header_ids: tuple[int, ...]


def write_adapter(
    folder: Path,
    weights: LoraWeights,
    *,
    scaling: Mapping[str, float],
    header_ids: Sequence[int] | None,
    base_name: str,
) -> dict[str, ModuleRecord]:
    """Write what plain PEFT reads; `scaling` is taken out of b again and written per module.

    With `header_ids` the adapter is answer-activated, PEFT's aLoRA. Returns the manifest's records.
    Equal inputs give equal bytes.
    """
    if not weights:
        raise AdapterFormatError("an adapter without a single adapted layer cannot be written")
    records, tensors = {}, {}
    for name, pair in sorted(weights.items()):
        records[name] = ModuleRecord(
            rank=pair.rank,
            scaling=scaling[name],
            in_features=pair.a.shape[1],
            out_features=pair.b.shape[1],
        )
        tensors[_PREFIX + name + _SUFFIX_A] = _storable(pair.a)
        tensors[_PREFIX + name + _SUFFIX_B] = _storable(pair.b / scaling[name]).T.contiguous()
    config = config_text(records, header_ids=header_ids, base_name=base_name)
    with disk_errors(folder):
        (folder / WEIGHTS_NAME).write_bytes(safetensors.torch.save(tensors, {"format": "pt"}))
        (folder / CONFIG_NAME).write_text(config)
    return records


def read_adapter(folder: Path, manifest: Manifest) -> LoraWeights:
    """Read an expert of the store; not one tensor leaves here unless every byte is as published.

    Raises CorruptExpertError, which names the file and what is wrong with it.
    """
    read_published(folder, CONFIG_NAME, manifest, cap_bytes=MAX_CONFIG_BYTES)
    content = read_published(folder, WEIGHTS_NAME, manifest, cap_bytes=_size_cap(manifest))
    try:
        pairs = _factors(content)
        _check_modules(pairs, manifest.modules)
    except AdapterFormatError as error:
        raise CorruptExpertError(f"{folder.name[:12]}: {WEIGHTS_NAME}: {error}") from error
    return {name: _folded(*pairs[name], manifest.modules[name].scaling) for name in sorted(pairs)}


def import_adapter(path: Path, layers: Sequence[LinearLayer]) -> ImportedAdapter:
    """Read a stranger's PEFT folder for a model with these layers; AdapterFormatError says why not.

    Layer names come from the tensors, never from `target_modules`; scaling is what PEFT computes.
    """
    if not (path / WEIGHTS_NAME).is_file():
        raise AdapterFormatError(_missing_weights(path))
    content = read_capped(path / CONFIG_NAME, cap_bytes=MAX_CONFIG_BYTES, error=AdapterFormatError)
    config = parse_config(content)
    known = {layer.name: layer for layer in layers}
    cap = sum(4 * MAX_RANK * layer.cost for layer in layers) + _header_cap(len(known))
    pairs = _factors(read_capped(path / WEIGHTS_NAME, cap_bytes=cap, error=AdapterFormatError))
    weights, scaling = {}, {}
    for name, (a, b) in sorted(pairs.items()):
        layer = known.get(name)
        if layer is None:
            raise AdapterFormatError(f"this model has no adaptable layer {name!r}")
        _check_shapes(name, a, b, (a.shape[0], layer.in_features, layer.out_features))
        scaling[name] = config.scaling(name, rank=a.shape[0])
        weights[name] = _folded(a, b, scaling[name])
    header_ids = config.invocation_ids or ()
    return ImportedAdapter(weights, scaling, "answer" if header_ids else "prompt", header_ids)


def export_adapter(
    record: ExpertRecord,
    target: Path,
    *,
    format: Literal["peft", "vllm"] = "peft",  # noqa: A002 - the option's public name
) -> None:
    """Write an expert into an empty folder: as PEFT reads it, or with one rank and scaling 1.

    The base's fingerprint lies beside it, for `provenance.check_base`; PEFT does not look at it.
    `vllm` serves engines that ignore rank patterns: scaling is baked into B, and all layers are
    padded with zeros to one rank. An answer-activated expert says so by the header's token ids
    (`alora_invocation_tokens`); an engine that does not know them applies it to the whole prompt,
    and answers differently. Raises CorruptExpertError, StoreError for a folder in use.
    """
    if format not in EXPORT_FORMATS:
        raise ConfigurationError(f"format {format!r}: there are {', '.join(EXPORT_FORMATS)}")
    manifest = check_object(record.folder, record.expert_id)
    with disk_errors(target):
        target.mkdir(parents=True, exist_ok=True)
        if any(target.iterdir()):
            raise StoreError(f"{target} is not empty; name a new folder to export to")
        write_origin(target, manifest.base_id)
        if format == "peft":
            for name in (WEIGHTS_NAME, CONFIG_NAME):
                (target / name).write_bytes((record.folder / name).read_bytes())
            return
    weights = read_adapter(record.folder, manifest)
    rank = padded_rank(max(pair.rank for pair in weights.values()))
    write_adapter(
        target,
        {name: _padded(pair, rank) for name, pair in weights.items()},
        scaling=dict.fromkeys(weights, 1.0),
        header_ids=manifest.header_ids if manifest.activation == "answer" else None,
        base_name=base_name_of((record.folder / CONFIG_NAME).read_bytes()),
    )


def _storable(factor: Tensor) -> Tensor:
    kept = factor.detach().cpu()
    return kept.contiguous() if kept.dtype in _DTYPES else kept.float().contiguous()


def _size_cap(manifest: Manifest) -> int:
    numbers = sum(
        module.rank * (module.in_features + module.out_features)
        for module in manifest.modules.values()
    )
    return 4 * numbers + _header_cap(len(manifest.modules))


def _header_cap(module_count: int) -> int:
    return 2 * _HEADER_BYTES_PER_TENSOR * (module_count + 8)


def read_published(folder: Path, name: str, manifest: Manifest, *, cap_bytes: int) -> bytes:
    """The file's bytes, if they are those that were published."""
    record = manifest.files.get(name)
    if record is None:
        raise CorruptExpertError(f"{folder.name[:12]}: the manifest does not list {name}")
    content = read_capped(folder / name, cap_bytes=cap_bytes, error=CorruptExpertError)
    if len(content) != record.bytes or hashlib.sha256(content).hexdigest() != record.sha256:
        raise CorruptExpertError(f"{folder.name[:12]}: {name} was changed on disk")
    return content


def _missing_weights(path: Path) -> str:
    pickles = [name for name in ("adapter_model.bin", "adapter_model.pt") if (path / name).exists()]
    if pickles:
        return f"{path}: {pickles[0]} is a pickle, which can run code; ask for {WEIGHTS_NAME}"
    return f"{path} holds no {WEIGHTS_NAME}; name the folder of a PEFT adapter"


def _factors(content: bytes) -> dict[str, tuple[Tensor, Tensor]]:
    """Module name to (A [rank, in], B [out, rank]), as stored; every value finite."""
    try:
        tensors = safetensors.torch.load(content)
    except (SafetensorError, ValueError, KeyError, TypeError, OverflowError) as error:
        raise AdapterFormatError(f"not a safetensors file: {error}") from error
    pairs = {}
    # Embeddings come with the base's weights beside them; they are the reason to name.
    for key in sorted(tensors, key=lambda key: ("lora_embedding" not in key, key)):
        if not key.endswith(_SUFFIX_B):
            name = _module_name(key)
            if key.removesuffix(_SUFFIX_A) + _SUFFIX_B not in tensors:
                raise AdapterFormatError(f"{name} has an A but no B")
            pairs[name] = (tensors[key], tensors[_PREFIX + name + _SUFFIX_B])
    if not pairs or 2 * len(pairs) != len(tensors):
        raise AdapterFormatError("no pairs of A and B")
    return pairs


def _module_name(key: str) -> str:
    if key.startswith(_PREFIX) and key.endswith(_SUFFIX_A):
        return key.removeprefix(_PREFIX).removesuffix(_SUFFIX_A)
    reason = next((why for part, why in _UNREADABLE.items() if part in key), "it is not plain LoRA")
    raise AdapterFormatError(f"{key[:120]!r} cannot be read: {reason}")


def _check_modules(
    pairs: Mapping[str, tuple[Tensor, Tensor]], modules: Mapping[str, ModuleRecord]
) -> None:
    if set(pairs) != set(modules):
        raise AdapterFormatError("other layers than the manifest lists")
    for name, (a, b) in pairs.items():
        module = modules[name]
        _check_shapes(name, a, b, (module.rank, module.in_features, module.out_features))


def _check_shapes(name: str, a: Tensor, b: Tensor, sizes: tuple[int, int, int]) -> None:
    rank, in_features, out_features = sizes
    if a.dtype not in _DTYPES or b.dtype not in _DTYPES:
        raise AdapterFormatError(f"{name}: {a.dtype}; only float32, float16 and bfloat16 are read")
    if tuple(a.shape) != (rank, in_features) or tuple(b.shape) != (out_features, rank):
        raise AdapterFormatError(
            f"{name}: shapes {tuple(a.shape)} and {tuple(b.shape)} do not fit a layer of "
            f"{in_features} to {out_features} features"
        )
    if not 1 <= rank <= MAX_RANK:
        raise AdapterFormatError(f"{name}: rank {rank}; 1 to {MAX_RANK} can be used")
    if not (a.isfinite().all() and b.isfinite().all()):
        raise AdapterFormatError(f"{name}: holds values that are not finite")


def _folded(a: Tensor, b: Tensor, scaling: float) -> LoraPair:
    """Scaling into b; half precision is widened where the product would not be exact."""
    wide = b if math.frexp(scaling)[0] == 0.5 else b.float()  # noqa: PLR2004 - a power of two
    return LoraPair(a.to(wide.dtype).contiguous(), (wide.T * scaling).contiguous())


def _padded(pair: LoraPair, rank: int) -> LoraPair:
    missing = (0, 0, 0, rank - pair.rank)
    return LoraPair(
        torch.nn.functional.pad(pair.a, missing), torch.nn.functional.pad(pair.b, missing)
    )
