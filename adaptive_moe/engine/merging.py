"""From several experts to a new one: read, put together, publish; it waits to be looked at."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

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
_LARGEST_SEED = (1 << 63) - 1


class MergeChoices(TypedDict, total=False):
    """How experts are put together; all of it may be left out. See `merge_order`."""

    weights: Sequence[float] | None
    method: str
    rank: int | None
    density: float
    seed: int


@dataclass(frozen=True, slots=True)
class MergeOrder:
    """A new name, the experts to put together, and how; see `merge_order`."""

    name: str
    experts: tuple[str, ...]
    weights: tuple[float, ...]
    method: str
    rank: int | None
    density: float
    seed: int


def merge_order(name: str, experts: Sequence[str], how: MergeChoices) -> MergeOrder:
    """An order that can be carried out.

    `weights` are one finite number for each expert; without them they count alike. `method` is one
    of METHODS ("cat"); `rank` is that of the new expert, None for the largest of theirs; `density`
    (0.5) is the share of an update's entries that ties and dare keep, above 0 to 1, and `seed` (0)
    says which ones dare drops. Raises ConfigurationError naming what is wrong.
    """
    names = (experts,) if isinstance(experts, str) else tuple(experts)
    if len(names) < _FEWEST or len(set(names)) != len(names):
        raise ConfigurationError(
            f"experts {', '.join(names) or '(none)'}: name at least two, each once"
        )
    check_name(name)
    method = how.get("method", "cat")
    if method not in METHODS:
        raise ConfigurationError(f"method {method!r}: there are {', '.join(METHODS)}")
    rank, seed, density = how.get("rank"), how.get("seed", 0), how.get("density", 0.5)
    if rank is not None and method == "cat":
        raise ConfigurationError("cat keeps every rank; leave rank out, or choose svd")
    if rank is not None and not _is_whole(rank, least=1, most=MAX_RANK):
        raise ConfigurationError(f"rank {rank!r}: an expert has 1 to {MAX_RANK} in a layer")
    if not _is_whole(seed, least=0, most=_LARGEST_SEED):
        raise ConfigurationError(f"seed {seed!r}: give a whole number from 0 to 2^63 - 1")
    if not _is_share(density):
        raise ConfigurationError(f"density {density!r}: give a share above 0, up to 1")
    weights = how.get("weights")
    checked = equal_weights(method, len(names)) if weights is None else _numbers(weights, names)
    return MergeOrder(name, names, checked, method, rank, float(density), seed)


def merge_experts(
    order: MergeOrder, store: Store, shelf: ExpertShelf, language_model: LanguageModel
) -> ExpertRecord:
    """Publish the merged expert in quarantine; those that it was made of stay as they are.

    Raises ConfigurationError for what cannot be merged so, UnknownExpertError for a name that is
    not active, CorruptExpertError for a damaged one, which is taken out of service.
    """
    experts = shelf.require(order.experts)
    if len({expert.activation for expert in experts}) > 1:
        raise ConfigurationError(
            "some of these experts act on the whole prompt, some on the answer only; merge experts "
            "of one kind"
        )
    store.check_writable()
    merged = merge(
        [_read(shelf, expert.expert_id) for expert in experts],
        order.weights,
        method=order.method,
        choices=Choices(order.rank, order.density, order.seed),
    )
    with store.stage() as folder:
        how: dict[str, JsonValue] = {"method": order.method, "weights": [*order.weights]}
        if order.method != "cat":
            how |= {"rank": order.rank, "density": order.density, "seed": order.seed}
        manifest = write_merged(
            folder, order.name, experts, merged, language_model=language_model, how=how
        )
        return store.publish(
            order.name, folder, manifest, status="quarantine", reason="merged, not yet verified"
        )


def _numbers(weights: Iterable[Any], names: Sequence[str]) -> tuple[float, ...]:
    try:
        numbers = tuple(float(weight) for weight in weights)
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"weights {weights!r}: give a number for each expert") from error
    if len(numbers) != len(names):
        raise ConfigurationError(f"{len(numbers)} weights for {len(names)} experts; give each one")
    for name, number in zip(names, numbers, strict=True):
        if not math.isfinite(number):
            raise ConfigurationError(f"weight {number} of {name}: give a finite number")
    if not any(numbers):
        raise ConfigurationError("all weights are 0: the merged expert would do nothing")
    return numbers


def _is_share(value: object) -> bool:
    return isinstance(value, int | float) and 0.0 < value <= 1.0


def _is_whole(value: object, *, least: int, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def _read(shelf: ExpertShelf, expert_id: str) -> LoraWeights:
    try:
        return shelf.weights(expert_id)
    except CorruptExpertError as error:
        shelf.quarantine(expert_id, str(error))
        raise
