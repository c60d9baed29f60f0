"""Makes one adapter of several: their weighted sum as it is, approximated, or with conflicts cut.

Experts are put together as updates, delta(x) = x A' B. `cat` stands their ranks end to end, which
is the sum itself. The others are cut back to a rank by singular values, the best approximation in
the Frobenius norm (Eckart and Young 1936). What parameters shrink by is taken per layer.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float64
from torch import Tensor

from adaptive_moe.errors import ConfigurationError
from adaptive_moe.experts.manifest import MAX_RANK
from adaptive_moe.experts.weights import LoraPair, LoraWeights

_AVERAGING = ("ties", "dare_ties")


@dataclass(frozen=True, slots=True)
class Choices:
    """What else a method may need.

    `rank` is kept (None: the largest of the merged ones), `density` is the share of an update's
    entries that survives, 0 to 1, and `seed` says which are dropped.
    """

    rank: int | None = None
    density: float = 0.5
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Merged:
    """The new weights, and by module the share of the aimed-at update that is lost, 0 to 1.

    That is the relative error in the Frobenius norm; `error` is that of all layers together.
    """

    weights: LoraWeights
    errors: Mapping[str, float]
    error: float


@dataclass(frozen=True, slots=True)
class _Way:
    """The choices, and one stream of random numbers for all layers."""

    choices: Choices
    random: torch.Generator = field(init=False)

    def __post_init__(self) -> None:
        generator = torch.Generator().manual_seed(self.choices.seed)
        object.__setattr__(self, "random", generator)


_Part = tuple[LoraPair, float]
_Result = tuple[LoraPair, float, float]  # the pair, and the squared norms of what is lost and all
Method = Callable[[Sequence[_Part], _Way], _Result]


def equal_weights(method: str, experts: int) -> tuple[float, ...]:
    """What experts weigh that count alike: all of them 1 together, or each where TIES averages."""
    return (1.0 if method in _AVERAGING else 1 / experts,) * experts


def merge(
    experts: Sequence[LoraWeights],
    weights: Sequence[float],
    *,
    method: str = "cat",
    choices: Choices | None = None,
) -> Merged:
    """The experts' weighted sum by one of METHODS, over every layer that any of them adapts.

    Raises ConfigurationError for a rank that no adapter may have, and for numbers too large.
    """
    way = _Way(choices or Choices())
    pairs, errors, lost, whole = {}, {}, 0.0, 0.0
    for name in sorted({name for expert in experts for name in expert}):
        parts = [
            (expert[name], weight)
            for expert, weight in zip(experts, weights, strict=True)
            if name in expert
        ]
        pair, lost_here, here = METHODS[method](parts, way)
        if not (pair.a.isfinite().all() and pair.b.isfinite().all()):
            raise ConfigurationError(f"{name} would have infinite numbers; give smaller weights")
        if pair.rank > MAX_RANK:
            raise ConfigurationError(
                f"{name} would have rank {pair.rank}, an expert has at most {MAX_RANK}; merge "
                "with --method svd and a --rank"
            )
        pairs[name] = pair
        errors[name] = (lost_here / here) ** 0.5 if here else 0.0
        lost, whole = lost + lost_here, whole + here
    return Merged(pairs, errors, (lost / whole) ** 0.5 if whole else 0.0)


def concatenated(parts: Sequence[_Part], _way: _Way) -> _Result:
    """The sum itself: ranks end to end, weights in the second factor."""
    a = torch.cat([pair.a.float() for pair, _ in parts])
    b = torch.cat([pair.b.float() * weight for pair, weight in parts])
    return LoraPair(a, b), 0.0, _squared_norm(a.double(), b.double())


def approximated(parts: Sequence[_Part], way: _Way) -> _Result:
    """The sum cut back to a rank, without ever writing the update out.

    With A' = Qa Ra and B' = Qb Rb the singular values are those of the small Rb Ra'.
    """
    a = torch.cat([pair.a.double() for pair, _ in parts])
    b = torch.cat([pair.b.double() * weight for pair, weight in parts])
    basis_a, rest_a = torch.linalg.qr(a.T)
    basis_b, rest_b = torch.linalg.qr(b.T)
    left, values, right = torch.linalg.svd(rest_b @ rest_a.T)
    kept = len(values)
    return _cut(basis_b @ left[:, :kept], values, right[:kept] @ basis_a.T, parts, way)


def ties(parts: Sequence[_Part], way: _Way) -> _Result:
    """Trim the smallest entries, elect each entry's sign, average those that agree with it."""
    from peft.utils.merge_utils import magnitude_based_pruning

    density = way.choices.density
    return _elected(
        [magnitude_based_pruning(each, density) for each in _updates(parts)], parts, way
    )


def dare_ties(parts: Sequence[_Part], way: _Way) -> _Result:
    """Drop entries at random, elect each entry's sign, average those that agree with it."""
    return _elected([_dropped(each, way) for each in _updates(parts)], parts, way)


def dare_linear(parts: Sequence[_Part], way: _Way) -> _Result:
    """Drop entries at random and add up what is left."""
    updates = zip(_updates(parts), parts, strict=True)
    kept = [weight * _dropped(update, way) for update, (_, weight) in updates]
    return _cut_update(torch.stack(kept).sum(dim=0), parts, way)


METHODS: Mapping[str, Method] = {
    "cat": concatenated,
    "svd": approximated,
    "ties": ties,
    "dare_ties": dare_ties,
    "dare_linear": dare_linear,
}
"""By name: the exact sum; the same at a smaller rank; TIES (Yadav et al. 2023), which trims updates
and elects a sign; DARE (Yu et al. 2024), which drops entries at random and rescales the others."""


def _updates(parts: Sequence[_Part]) -> list[Float64[Tensor, "out in"]]:
    return [pair.b.double().T @ pair.a.double() for pair, _ in parts]


def _dropped(update: Float64[Tensor, "out in"], way: _Way) -> Float64[Tensor, "out in"]:
    """Some entries at random, so much larger that the sum is expected to be the same."""
    density = way.choices.density
    shares = torch.full(update.shape, density, dtype=update.dtype)
    return update * torch.bernoulli(shares, generator=way.random).to(update.device) / density


def _elected(
    updates: Sequence[Float64[Tensor, "out in"]], parts: Sequence[_Part], way: _Way
) -> _Result:
    from peft.utils.merge_utils import calculate_majority_sign_mask, disjoint_merge

    stacked = torch.stack([*updates])
    signs = calculate_majority_sign_mask(stacked, method="total")
    weights = torch.tensor([weight for _, weight in parts], dtype=stacked.dtype)
    return _cut_update(disjoint_merge(stacked * weights[:, None, None], signs), parts, way)


def _cut_update(update: Float64[Tensor, "out in"], parts: Sequence[_Part], way: _Way) -> _Result:
    if not update.isfinite().all():
        raise ConfigurationError("the sum would have infinite numbers; give smaller weights")
    left, values, right = torch.linalg.svd(update, full_matrices=False)
    return _cut(left, values, right, parts, way)


def _cut(
    left: Float64[Tensor, "out value"],
    values: Float64[Tensor, " value"],
    right: Float64[Tensor, "value in"],
    parts: Sequence[_Part],
    way: _Way,
) -> _Result:
    """The largest singular values, their root in either factor."""
    rank = min(way.choices.rank or max(pair.rank for pair, _ in parts), len(values))
    roots = values[:rank].sqrt()
    pair = LoraPair(
        (roots[:, None] * right[:rank]).float(), (left[:, :rank] * roots).T.contiguous().float()
    )
    squares = values.square()
    return pair, float(squares[rank:].sum()), float(squares.sum())


def _squared_norm(a: Float64[Tensor, "rank in"], b: Float64[Tensor, "rank out"]) -> float:
    """|A' B|^2 by the Gram matrices of the factors."""
    return float(((a @ a.T) * (b @ b.T)).sum().clamp_min(0.0))
