"""From several experts to a new one: read, put together, publish; it waits to be looked at."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict

from pydantic import JsonValue

from adaptive_moe.engine.expert_folder import write_merged
from adaptive_moe.engine.shelf import ExpertShelf
from adaptive_moe.errors import ConfigurationError, CorruptExpertError
from adaptive_moe.experts.manifest import MAX_RANK
from adaptive_moe.experts.merging import METHODS, Choices, equal_weights, merge
from adaptive_moe.experts.store import ExpertRecord, Store, check_name
from adaptive_moe.experts.weights import LoraWeights
from adaptive_moe.models.language_model import LanguageModel

_FEWEST = 2


class MergeChoices(TypedDict, total=False):
    """How experts are put together; all of it may be left out. See `MergeOrder`."""

    weights: Sequence[float] | None
    method: str
    rank: int | None
    density: float
    seed: int


@dataclass(frozen=True, slots=True)
class MergeOrder:
    """A new name, the experts to put together, and how. Without weights they count alike.

    `method` is one of METHODS; `rank` is that of the new expert, None for the largest of theirs;
    `density` is the share of an update's entries that ties and dare keep, above 0 to 1, and `seed`
    says which ones dare drops.
    """

    name: str
    experts: tuple[str, ...]
    weights: Sequence[float] | None = None
    method: str = "cat"
    rank: int | None = None
    density: float = 0.5
    seed: int = 0


def merge_experts(
    order: MergeOrder, store: Store, shelf: ExpertShelf, language_model: LanguageModel
) -> ExpertRecord:
    """Publish the merged expert in quarantine; those that it was made of stay as they are.

    Raises ConfigurationError for what cannot be merged so, UnknownExpertError for a name that is
    not active, CorruptExpertError for a damaged one, which is taken out of service.
    """
    check_name(order.name)
    weights = _checked_weights(order)
    experts = shelf.require(order.experts)
    if len({expert.activation for expert in experts}) > 1:
        raise ConfigurationError(
            "some of these experts act on the whole prompt, some on the answer only; merge experts "
            "of one kind"
        )
    store.check_writable()
    merged = merge(
        [_read(shelf, expert.expert_id) for expert in experts],
        weights,
        method=order.method,
        choices=Choices(order.rank, order.density, order.seed),
    )
    with store.stage() as folder:
        how: dict[str, JsonValue] = {"method": order.method, "weights": [*weights]}
        if order.method != "cat":
            how |= {"rank": order.rank, "density": order.density, "seed": order.seed}
        manifest = write_merged(
            folder, order.name, experts, merged, language_model=language_model, how=how
        )
        return store.publish(
            order.name, folder, manifest, status="quarantine", reason="merged, not yet verified"
        )


def _checked_weights(order: MergeOrder) -> tuple[float, ...]:
    if len(order.experts) < _FEWEST or len(set(order.experts)) != len(order.experts):
        raise ConfigurationError(
            f"experts {', '.join(order.experts) or '(none)'}: name at least two, each once"
        )
    if order.method not in METHODS:
        raise ConfigurationError(f"method {order.method!r}: there are {', '.join(METHODS)}")
    weights = tuple(order.weights or equal_weights(order.method, len(order.experts)))
    if len(weights) != len(order.experts) or not all(map(math.isfinite, weights)):
        raise ConfigurationError(
            f"{len(weights)} weights for {len(order.experts)} experts; give each a finite number"
        )
    if order.rank is not None and not 1 <= order.rank <= MAX_RANK:
        raise ConfigurationError(f"rank {order.rank}: an expert has 1 to {MAX_RANK} in a layer")
    if order.rank is not None and order.method == "cat":
        raise ConfigurationError("cat keeps every rank; leave rank out, or choose svd")
    if not 0.0 < order.density <= 1.0:
        raise ConfigurationError(f"density {order.density}: give a share above 0, up to 1")
    return weights


def _read(shelf: ExpertShelf, expert_id: str) -> LoraWeights:
    try:
        return shelf.weights(expert_id)
    except CorruptExpertError as error:
        shelf.quarantine(expert_id, str(error))
        raise
