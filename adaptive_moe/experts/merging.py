"""Makes one adapter of several: their weighted sum as it is, approximated, or with conflicts cut.

Experts are put together as updates, delta(x) = x A' B. `cat` stands their ranks end to end, which
is the sum itself. The others are cut back to a rank by singular values, the best approximation in
the Frobenius norm (Eckart and Young 1936). What parameters shrink by is taken per layer.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float64
from torch import Tensor

from adaptive_moe.errors import ConfigurationError
from adaptive_moe.experts.manifest import MAX_RANK
from adaptive_moe.experts.weights import LoraPair, LoraWeights


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


_Part = tuple[LoraPair, float]
_Result = tuple[LoraPair, float, float]  # the pair, and the squared norms of what is lost and all
Method = Callable[[Sequence[_Part], Choices], _Result]


def merge(
    experts: Sequence[LoraWeights],
    weights: Sequence[float],
    *,
    method: str = "cat",
    choices: Choices | None = None,
) -> Merged:
    """The experts' weighted sum by one of METHODS, over every layer that any of them adapts.

    Raises ConfigurationError for a rank that no adapter may have.
    """
    choices = choices or Choices()
    pairs, errors, lost, whole = {}, {}, 0.0, 0.0
    for name in dict.fromkeys(name for expert in experts for name in expert):
        parts = [
            (expert[name], weight)
            for expert, weight in zip(experts, weights, strict=True)
            if name in expert
        ]
        pair, lost_here, here = METHODS[method](parts, choices)
        if pair.rank > MAX_RANK:
            raise ConfigurationError(
                f"{name} would have rank {pair.rank}, an expert has at most {MAX_RANK}; merge "
                "with --method svd and a --rank"
            )
        pairs[name] = pair
        errors[name] = (lost_here / here) ** 0.5 if here else 0.0
        lost, whole = lost + lost_here, whole + here
    return Merged(pairs, errors, (lost / whole) ** 0.5 if whole else 0.0)


def concatenated(parts: Sequence[_Part], _choices: Choices) -> _Result:
    """The sum itself: ranks end to end, weights in the second factor."""
    a = torch.cat([pair.a.float() for pair, _ in parts])
    b = torch.cat([pair.b.float() * weight for pair, weight in parts])
    return LoraPair(a, b), 0.0, _squared_norm(a.double(), b.double())


def approximated(parts: Sequence[_Part], choices: Choices) -> _Result:
    """The sum cut back to a rank, without ever writing the update out.

    With A' = Qa Ra and B' = Qb Rb the singular values are those of the small Rb Ra'.
    """
    whole, _, _ = concatenated(parts, choices)
    basis_a, rest_a = torch.linalg.qr(whole.a.double().T)
    basis_b, rest_b = torch.linalg.qr(whole.b.double().T)
    left, values, right = torch.linalg.svd(rest_b @ rest_a.T)
    return _cut(
        basis_b @ left[:, : len(values)], values, right[: len(values)] @ basis_a.T, parts, choices
    )


def _by_peft(function: str, *, is_random: bool) -> Method:
    """One of PEFT's ways to settle conflicts between updates that are written out in full."""

    def method(parts: Sequence[_Part], choices: Choices) -> _Result:
        from peft.utils import merge_utils

        updates = [pair.b.double().T @ pair.a.double() for pair, _ in parts]
        weights = torch.tensor([weight for _, weight in parts], dtype=torch.float64)
        with torch.random.fork_rng(enabled=is_random):
            if is_random:
                torch.manual_seed(choices.seed)
            update = getattr(merge_utils, function)(updates, weights, choices.density)
        left, values, right = torch.linalg.svd(update, full_matrices=False)
        return _cut(left, values, right, parts, choices)

    return method


METHODS: Mapping[str, Method] = {
    "cat": concatenated,
    "svd": approximated,
    "ties": _by_peft("ties", is_random=False),
    "dare_ties": _by_peft("dare_ties", is_random=True),
    "dare_linear": _by_peft("dare_linear", is_random=True),
}
"""By name: the exact sum; the same at a smaller rank; TIES (Yadav et al. 2023), which trims updates
and elects a sign; DARE (Yu et al. 2024), which drops entries at random and rescales the others."""


def _cut(
    left: Float64[Tensor, "out value"],
    values: Float64[Tensor, " value"],
    right: Float64[Tensor, "value in"],
    parts: Sequence[_Part],
    choices: Choices,
) -> _Result:
    """The largest singular values, their root in either factor."""
    rank = min(choices.rank or max(pair.rank for pair, _ in parts), len(values))
    roots = values[:rank].sqrt()
    pair = LoraPair(
        (roots[:, None] * right[:rank]).float(), (left[:, :rank] * roots).T.contiguous().float()
    )
    squares = values.square()
    return pair, float(squares[rank:].sum()), float(squares.sum())


def _squared_norm(a: Float64[Tensor, "rank in"], b: Float64[Tensor, "rank out"]) -> float:
    """|A' B|^2 by the Gram matrices of the factors."""
    return float(((a @ a.T) * (b @ b.T)).sum().clamp_min(0.0))
