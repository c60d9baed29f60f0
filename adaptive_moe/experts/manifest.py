"""The manifest of one expert: what it is bound to, what it is made of, and how it was proved."""

import hashlib
import json
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from adaptive_moe.errors import AdapterFormatError

MANIFEST_NAME = "manifest.json"
MAX_RANK = 128
MAX_MANIFEST_BYTES = 8 << 20

FileName = Annotated[str, Field(pattern=r"^[a-z0-9_][a-z0-9._-]{0,63}$")]
TokenId = Annotated[int, Field(ge=0)]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, strict=True)


class ModuleRecord(_Record):
    """One adapted layer: its rank, its sizes, and the scaling that plain PEFT multiplies with."""

    rank: int = Field(ge=1, le=MAX_RANK)
    scaling: float = Field(gt=0.0)
    in_features: int = Field(ge=1)
    out_features: int = Field(ge=1)


class FileRecord(_Record):
    """Content of one file of the expert, by hash and length."""

    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    bytes: int = Field(ge=0)


class Manifest(_Record):
    """Everything about an expert but its numbers; its canonical JSON is the expert's identity.

    Holds no time, host, path or duration, so equal inputs give equal experts.
    """

    schema_version: Literal[1] = 1
    base_id: str = Field(min_length=1, description="fingerprint of the base it was trained on")
    numerics: dict[str, str | None] = Field(description="dtype, quantization and device then")
    activation: Literal["answer", "prompt"] = Field(
        description="answer: starts at the generation header; prompt: reads the whole prompt"
    )
    header_ids: tuple[TokenId, ...] = Field((), strict=False, description="header's token ids")
    modules: dict[str, ModuleRecord]
    files: dict[FileName, FileRecord] = Field(default_factory=dict)
    data: dict[str, JsonValue] = Field(default_factory=dict)
    gate: dict[str, JsonValue] = Field(default_factory=dict)
    training: dict[str, JsonValue] = Field(default_factory=dict)
    versions: dict[str, str] = Field(default_factory=dict)
    seed: int | None = None
    label: str = Field("", max_length=500, description="one line: what it knows")


def canonical_json(manifest: Manifest) -> bytes:
    """The only spelling of a manifest: sorted keys, no spaces, UTF-8; AdapterFormatError on NaN."""
    try:
        text = json.dumps(
            manifest.model_dump(mode="json"),
            sort_keys=True,
            separators=(",", ":"),
            ensure_ascii=False,
            allow_nan=False,
        )
        return text.encode()
    except ValueError as error:
        raise AdapterFormatError(f"the manifest cannot be written as JSON: {error}") from error


def manifest_id(manifest: Manifest) -> str:
    """The expert's id: sha256, in hex, of the canonical JSON."""
    return hashlib.sha256(canonical_json(manifest)).hexdigest()


def parse_manifest(text: bytes) -> Manifest:
    """Read a manifest with exactly the fields above; AdapterFormatError says what is wrong."""
    if len(text) > MAX_MANIFEST_BYTES:
        raise AdapterFormatError(f"a manifest of {len(text)} bytes; at most {MAX_MANIFEST_BYTES}")
    try:
        return Manifest.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"])) or "the whole file"
        raise AdapterFormatError(f"manifest, {place}: {first['msg']}") from error
