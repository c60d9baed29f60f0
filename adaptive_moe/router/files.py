"""A router on disk: router.safetensors for numbers, router.json for the rest, no pickle."""

import hashlib
import json
import os
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Union, cast, get_args, get_origin, get_type_hints

import numpy as np
from pydantic import BaseModel, ConfigDict, JsonValue, TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load, save

from adaptive_moe.errors import RouterError
from adaptive_moe.router.model import RouterModel

SCHEMA_VERSION = 2
JSON_NAME = "router.json"
TENSORS_NAME = "router.safetensors"
_MOST_JSON_BYTES = 4 * 1024 * 1024
_MOST_TENSOR_BYTES = 1024 * 1024 * 1024


class RouterFile(BaseModel):
    """The JSON file: which schema, which tensors, and the model without its arrays."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: int
    tensors_sha256: str
    model: dict[str, JsonValue]


def write_model(folder: Path, model: RouterModel) -> None:
    """Write both files, the JSON last; a folder written half has no matching pair."""
    tensors: dict[str, np.ndarray] = {}
    packed = _pack(model, "", tensors)
    assert isinstance(packed, dict)
    content = save(tensors)
    record = RouterFile(
        schema_version=SCHEMA_VERSION,
        tensors_sha256=hashlib.sha256(content).hexdigest(),
        model=cast(dict[str, JsonValue], packed),
    )
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(record.model_dump(), indent=1, sort_keys=True) + "\n"
    _replace(folder / TENSORS_NAME, content)
    _replace(folder / JSON_NAME, text.encode())


def read_model(folder: Path) -> RouterModel:
    """The model in a folder of `write_model`.

    Raises RouterError when a file is missing, too large, damaged, of another schema, or when
    its numbers do not fit together.
    """
    record, content = _read_record(folder)
    try:
        tensors = load(content)
        model = cast(RouterModel, _unpack(RouterModel, record.model, "", tensors))
        if tensors:
            raise RouterError(f"unknown tensors: {', '.join(sorted(tensors))}")
        _check_numbers(model)
    except (SafetensorError, ValidationError, KeyError, ValueError, TypeError) as error:
        raise RouterError(f"the router in {folder} is damaged: {error}") from error
    return model


def _read_record(folder: Path) -> tuple[RouterFile, bytes]:
    try:
        text = _read(folder / JSON_NAME, _MOST_JSON_BYTES)
        record = RouterFile.model_validate_json(text)
        content = _read(folder / TENSORS_NAME, _MOST_TENSOR_BYTES)
    except OSError as error:
        raise RouterError(f"no router can be read in {folder}: {error}") from error
    except ValidationError as error:
        raise RouterError(f"{folder / JSON_NAME} describes no router: {error}") from error
    if record.schema_version != SCHEMA_VERSION:
        raise RouterError(
            f"the router in {folder} has schema {record.schema_version}, this version reads "
            f"{SCHEMA_VERSION}; fit it again"
        )
    if hashlib.sha256(content).hexdigest() != record.tensors_sha256:
        raise RouterError(f"{folder / TENSORS_NAME} is damaged or belongs to another {JSON_NAME}")
    return record, content


def _read(path: Path, most_bytes: int) -> bytes:
    size = path.stat().st_size
    if size > most_bytes:
        raise RouterError(f"{path} has {size} bytes, more than any router ({most_bytes})")
    return path.read_bytes()


def _replace(path: Path, content: bytes) -> None:
    """Put the whole file in place at once."""
    draft = path.with_name(f"{path.name}.{os.getpid()}.new")
    draft.write_bytes(content)
    draft.replace(path)


def _pack(value: object, path: str, tensors: dict[str, np.ndarray]) -> object:
    """JSON of a value; its arrays go into `tensors` under their dotted path."""
    if isinstance(value, np.ndarray):
        tensors[path] = np.ascontiguousarray(value)
        return None
    if is_dataclass(value):
        return {
            item.name: _pack(getattr(value, item.name), f"{path}.{item.name}".lstrip("."), tensors)
            for item in fields(value)
            if item.init
        }
    if isinstance(value, tuple):
        return [_pack(item, f"{path}.{index}", tensors) for index, item in enumerate(value)]
    return value


def _unpack(kind: object, value: object, path: str, tensors: dict[str, np.ndarray]) -> object:
    """The value of this annotated type; arrays are taken out of `tensors`."""
    if get_origin(kind) in (Union, UnionType) and NoneType in get_args(kind):
        kinds = [part for part in get_args(kind) if part is not NoneType]
        plain = kinds[0] if len(kinds) == 1 and is_dataclass(kinds[0]) else None
        if plain is not None:
            return None if value is None else _unpack(plain, value, path, tensors)
    if getattr(kind, "array_type", None) is np.ndarray:
        return tensors.pop(path)
    if isinstance(kind, type) and is_dataclass(kind):
        return _unpack_fields(kind, value, path, tensors)
    if get_origin(kind) is tuple and is_dataclass(get_args(kind)[0]):
        items = TypeAdapter(list[object]).validate_python(value)
        part = get_args(kind)[0]
        return tuple(
            _unpack(part, item, f"{path}.{index}", tensors) for index, item in enumerate(items)
        )
    adapter: TypeAdapter[object] = TypeAdapter(cast(type, kind))
    return adapter.validate_python(value)


def _unpack_fields(kind: type, value: object, path: str, tensors: dict[str, np.ndarray]) -> object:
    """Fields that have a default may be missing: files of before did not have them."""
    record = TypeAdapter(dict[str, object]).validate_python(value)
    hints = get_type_hints(kind)
    items = [item for item in fields(kind) if item.init]
    names = [item.name for item in items]
    required = {item.name for item in items if item.default is MISSING}
    if not required <= set(record) <= set(names):
        raise ValueError(f"{path or 'the model'} should hold {names}, it holds {sorted(record)}")
    return kind(
        **{
            name: _unpack(hints[name], record[name], f"{path}.{name}".lstrip("."), tensors)
            for name in names
            if name in record
        }
    )


def _check_numbers(model: RouterModel) -> None:
    """Raises ValueError when arrays are not finite or a prompt could not be judged with them."""
    arrays: dict[str, np.ndarray] = {}
    _pack(model, "", arrays)
    bad = [name for name, array in arrays.items() if not np.isfinite(array).all()]
    if bad:
        raise ValueError(f"not finite: {', '.join(bad)}")
    states = np.zeros((1, model.whitening.mean.size), dtype=np.float32)
    remoteness = model.remoteness(states)
    if model.topics is not None:
        model.topics.check(model.whitening.dimensions)
    if model.learned is not None:
        for estimator in (model.learned.prefill, model.learned.answer):
            scores = [dict.fromkeys(estimator.probe.features, 0.0)]
            estimator.probability(scores, states, remoteness=remoteness)
