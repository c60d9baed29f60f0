"""Names a base model by its content, so that experts and calibrators know what they belong to."""

import hashlib
import json
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from adaptive_moe.errors import UnsupportedModelError

# Say how a model is run or who wrote the file, not what the model is.
_NOT_IDENTITY = frozenset(
    {
        "_name_or_path",
        "_attn_implementation",
        "_commit_hash",
        "architectures",
        "attn_implementation",
        "auto_map",
        "dtype",
        "quantization_config",
        "torch_dtype",
        "transformers_version",
        "use_cache",
    }
)
_WHOLE_BYTES = 64 * 1024
_SAMPLES = 64
_SAMPLE_BYTES = 1024
_HEADER_LIMIT_BYTES = 100 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Numerics:
    """How a base is run: type of the hidden states, quantisation of the weights, kind of device."""

    dtype: str
    quantization: str | None
    device: str

    def to_dict(self) -> dict[str, str | None]:
        """A JSON object."""
        return {"dtype": self.dtype, "quantization": self.quantization, "device": self.device}


@dataclass(frozen=True, slots=True)
class _Extent:
    """Where a tensor's bytes lie in a file."""

    file: Path
    start: int
    size: int


def base_id(source: Path | nn.Module, tokenizer: PreTrainedTokenizerBase) -> str:
    """Identity of a base: "sha256:" and 64 hexadecimal digits.

    Covers the configuration without the keys that only say how to run it, name, shape and sampled
    bytes of every tensor, the tokenizer and its chat template. `source` is the checkpoint folder,
    read before any cast, so dtype, quantisation, device and the cut into shards do not matter; a
    model that never had files is read itself. Tensors up to 64 KiB count whole, larger ones by 64
    evenly spaced KiB. Raises UnsupportedModelError for a damaged checkpoint.
    """
    digest = hashlib.sha256()
    if isinstance(source, Path):
        _add(digest, "config", _canonical(_read_json(source / "config.json")))
        folder = source
        tensors = _stored_tensors(source)
    else:
        _add(digest, "config", _canonical(_config_of(source)))
        folder = None
        tensors = _held_tensors(source)
    for name, content in tensors:
        _add(digest, name, content)
    _add(digest, "tokenizer", _tokenizer_content(folder, tokenizer))
    _add(digest, "chat_template", json.dumps(tokenizer.chat_template, sort_keys=True).encode())
    return f"sha256:{digest.hexdigest()}"


def _add(digest: "hashlib._Hash", name: str, content: bytes) -> None:
    """Lengths go in with the bytes, so that no two lists of parts give the same stream."""
    for part in (name.encode(), content):
        digest.update(struct.pack("<Q", len(part)))
        digest.update(part)


def _canonical(config: Mapping[str, Any]) -> bytes:
    kept = {key: value for key, value in config.items() if key not in _NOT_IDENTITY}
    return json.dumps(kept, sort_keys=True, separators=(",", ":")).encode()


def _config_of(model: nn.Module) -> dict[str, Any]:
    config: Any = model.config
    return dict(json.loads(config.to_json_string(use_diff=True)))


def _tokenizer_content(folder: Path | None, tokenizer: PreTrainedTokenizerBase) -> bytes:
    """The tokenizer's own description, without padding and truncation, which are a caller's."""
    file = folder / "tokenizer.json" if folder is not None else None
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if file is not None and file.is_file():
        content = _read_json(file)
    elif backend is not None:
        content = json.loads(backend.to_str())
    else:
        content = {"vocabulary": tokenizer.get_vocab()}
    kept = {key: value for key, value in content.items() if key not in ("padding", "truncation")}
    return json.dumps(kept, sort_keys=True, separators=(",", ":")).encode()


def _stored_tensors(folder: Path) -> Iterator[tuple[str, bytes]]:
    """(name, shape and sampled bytes) of every stored tensor, by name."""
    files = sorted(_checkpoint_files(folder))
    if files and all(file.suffix == ".safetensors" for file in files):
        entries = {name: entry for file in files for name, entry in _safetensors_index(file)}
        for name in sorted(entries):
            shape, extent = entries[name]
            yield name, _shape_bytes(shape) + b"".join(_sample_file(extent))
        return
    for file in files:  # a format without an open index: the file itself is the tensor
        extent = _Extent(file, 0, file.stat().st_size)
        yield file.name, _shape_bytes([extent.size]) + b"".join(_sample_file(extent))


def _checkpoint_files(folder: Path) -> set[Path]:
    for stem in ("model.safetensors", "pytorch_model.bin"):
        index = folder / f"{stem}.index.json"
        if (folder / stem).is_file():
            return {folder / stem}
        if index.is_file():
            return {folder / Path(name).name for name in _read_json(index)["weight_map"].values()}
    raise UnsupportedModelError(f"{folder} holds no model.safetensors and no pytorch_model.bin")


def _safetensors_index(file: Path) -> Iterator[tuple[str, tuple[list[int], _Extent]]]:
    size = file.stat().st_size
    with file.open("rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8).ljust(8, b"\0"))
        if not 0 < length <= min(size - 8, _HEADER_LIMIT_BYTES):
            raise UnsupportedModelError(f"{file} is not a safetensors file; fetch it again")
        header = _parse_json(stream.read(length), file)
    header.pop("__metadata__", None)
    for name, entry in header.items():
        start, end = entry["data_offsets"]
        if not 0 <= start <= end <= size - 8 - length:
            raise UnsupportedModelError(f"{file}: tensor {name} lies outside the file")
        yield name, (entry["shape"], _Extent(file, 8 + length + start, end - start))


def _sample_file(extent: _Extent) -> Iterator[bytes]:
    with extent.file.open("rb") as stream:
        for start, length in _sample_places(extent.size):
            stream.seek(extent.start + start)
            yield stream.read(length)


def _sample_places(size: int) -> list[tuple[int, int]]:
    """(offset, length) of what is read of a tensor of `size` bytes; first and last included."""
    if size <= _WHOLE_BYTES:
        return [(0, size)]
    last = size - _SAMPLE_BYTES
    return [(last * i // (_SAMPLES - 1), _SAMPLE_BYTES) for i in range(_SAMPLES)]


def _held_tensors(model: nn.Module) -> Iterator[tuple[str, bytes]]:
    """The same from memory; tensors that share their storage count once, as they are saved."""
    named: dict[int, tuple[str, torch.Tensor]] = {}
    for name, tensor in model.state_dict().items():
        named.setdefault(tensor.data_ptr(), (name, tensor))
    for name, tensor in sorted(named.values(), key=itemgetter(0)):
        raw = tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
        sampled = (raw[start : start + size].tobytes() for start, size in _sample_places(raw.size))
        yield name, _shape_bytes(list(tensor.shape)) + b"".join(sampled)


def _shape_bytes(shape: list[int]) -> bytes:
    return json.dumps(shape).encode()


def _read_json(file: Path) -> dict[str, Any]:
    try:
        return _parse_json(file.read_bytes(), file)
    except OSError as error:
        raise UnsupportedModelError(f"{file} cannot be read: {error.strerror}") from error


def _parse_json(content: bytes, file: Path) -> dict[str, Any]:
    try:
        parsed = json.loads(content)
    except ValueError as error:
        raise UnsupportedModelError(f"{file} is damaged: {error}") from error
    if not isinstance(parsed, dict):
        raise UnsupportedModelError(f"{file} is damaged: not a JSON object")
    return parsed
