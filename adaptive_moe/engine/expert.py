"""One expert as the runtime sees it: in the store, or on trial before the gate."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from adaptive_moe.experts.manifest import Manifest
from adaptive_moe.experts.store import ExpertRecord
from adaptive_moe.experts.weights import LoraWeights
from adaptive_moe.router.domains import Domain

_NEWEST = "on trial"  # sorts behind every date

Activation = Literal["answer", "prompt"]


@dataclass(frozen=True, slots=True)
class Expert:
    """One version of an expert. `gate` holds the figures with which it was admitted.

    `numerics` tells the dtype and quantisation that its base had in training.
    """

    name: str
    version: int
    expert_id: str
    status: str
    label: str
    activation: Activation
    parameters: int
    bytes: int
    ranks: Mapping[str, int]
    gate: Mapping[str, object]
    folder: Path
    numerics: Mapping[str, str | None]
    created: str

    @classmethod
    def of(cls, record: ExpertRecord) -> "Expert":
        """The expert that a store's record describes."""
        return _expert(
            record.name,
            record.manifest,
            version=record.version,
            expert_id=record.expert_id,
            status=record.status,
            folder=record.folder,
            created=record.created,
        )


@dataclass(frozen=True, slots=True)
class Trial:
    """A trained expert before the gate: it can be asked, but nobody else is routed to it.

    `name` is what it will be called; `expert` goes by another one until then.
    """

    name: str
    expert: Expert
    manifest: Manifest
    weights: LoraWeights
    domain: Domain

    @classmethod
    def of(
        cls,
        name: str,
        manifest: Manifest,
        *,
        folder: Path,
        weights: LoraWeights,
        domain: Domain,
    ) -> "Trial":
        """The trial of what was staged in `folder`."""
        expert = _expert(
            f"{name} on trial",
            manifest,
            version=0,
            expert_id=f"trial-{folder.name}",
            status="trial",
            folder=folder,
            created=_NEWEST,
        )
        return cls(name, expert, manifest, weights, domain)


def _expert(
    name: str,
    manifest: Manifest,
    *,
    version: int,
    expert_id: str,
    status: str,
    folder: Path,
    created: str,
) -> Expert:
    modules = manifest.modules
    return Expert(
        name=name,
        version=version,
        expert_id=expert_id,
        status=status,
        label=manifest.label,
        activation=manifest.activation,
        parameters=sum(
            module.rank * (module.in_features + module.out_features) for module in modules.values()
        ),
        bytes=sum(file.bytes for file in manifest.files.values()),
        ranks={name: module.rank for name, module in modules.items()},
        gate=manifest.gate,
        folder=folder,
        numerics=manifest.numerics,
        created=created,
    )
