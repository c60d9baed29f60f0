"""A small expert for the store's tests, which needs neither torch nor a model."""

from datetime import UTC, datetime
from pathlib import Path

from adaptive_moe.experts.manifest import Manifest, ModuleRecord
from adaptive_moe.experts.store import ExpertRecord, Store

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def manifest_of(label: str = "elements") -> Manifest:
    module = ModuleRecord(rank=2, scaling=1.5, in_features=4, out_features=6)
    return Manifest(
        base_id="sha256:0",
        numerics={"dtype": "float32", "quantization": None, "device": "cpu"},
        activation="prompt",
        modules={"model.layers.0.mlp.up_proj": module},
        label=label,
    )


def fill(folder: Path, content: bytes) -> None:
    (folder / "adapter_model.safetensors").write_bytes(content)
    (folder / "adapter_config.json").write_text("{}")


def publish(
    store: Store,
    name: str = "chemistry",
    *,
    content: bytes = b"one",
    status: str = "active",
    reason: str = "",
) -> ExpertRecord:
    with store.stage() as folder:
        fill(folder, content)
        return store.publish(name, folder, manifest_of(), status=status, reason=reason)
