"""Rank plans: how one exact parameter budget is shared out over the adapted layers."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from adaptive_moe.errors import ConfigurationError
from adaptive_moe.experts.weights import LoraWeights
from adaptive_moe.models.linear_layers import LinearLayer
from adaptive_moe.training.budget import fill_budget

ScalingRule = Literal["rslora", "alpha_over_r", "const"]

MEASURED = frozenset({"gradient", "empirical", "eva", "truncate"})
"""Strategies that need importance measured on training material; empirical means gradient."""

_KAPPA = 2.0  # how much more rank the favoured half gets in attention_heavy and mlp_heavy
_TEMPER = 0.5  # exponent on measured importance: raw gradient norms are too peaked to be ranks
_IMPORTANCE_BOUNDS = (0.25, 4.0)  # of the tempered importance, relative to the reference rank


@dataclass(frozen=True, slots=True)
class RankPlan:
    """The rank and scaling of every adapted module, in module order; `parameters` in numbers.

    Modules of rank 0 are left out.
    """

    strategy: str
    reference_rank: int
    ranks: Mapping[str, int]
    scaling: Mapping[str, float]
    parameters: int


@dataclass(frozen=True, slots=True)
class _ProfileRequest:
    layers: Sequence[LinearLayer]
    importance: Mapping[str, float] | None
    generator: np.random.Generator


def plan_ranks(
    layers: Sequence[LinearLayer],
    *,
    strategy: str,
    reference_rank: int,
    importance: Mapping[str, float] | None = None,
    r_min: int = 1,
    r_max: int = 128,
    scaling: ScalingRule = "rslora",
    alpha: float = 16.0,
    seed: int = 0,
) -> RankPlan:
    """Share out exactly `reference_rank` times the sum of (in + out) parameters.

    The strategy's profile is filled to [r_min, r_max] like water, rounded by largest remainder
    and repaired to the exact budget. A module never gets more than min(in, out) unless the
    reference rank itself is larger. Raises ConfigurationError for an unknown strategy, missing
    importance, or a budget that no ranks within the bounds can meet.
    """
    _check_request(layers, strategy, reference_rank, r_min=r_min, r_max=r_max)
    request = _ProfileRequest(layers, importance, np.random.default_rng(seed))
    profile = STRATEGIES[strategy](request)
    costs = [layer.cost for layer in layers]
    upper = [
        max(min(r_max, layer.in_features, layer.out_features), reference_rank) for layer in layers
    ]
    ranks = fill_budget(
        costs, profile, reference_rank=reference_rank, lower=[r_min] * len(layers), upper=upper
    )
    named = {layer.name: rank for layer, rank in zip(layers, ranks, strict=True) if rank > 0}
    return RankPlan(
        strategy=strategy,
        reference_rank=reference_rank,
        ranks=named,
        scaling={
            name: _scale(rank, rule=scaling, alpha=alpha, reference_rank=reference_rank)
            for name, rank in named.items()
        },
        parameters=sum(cost * rank for cost, rank in zip(costs, ranks, strict=True)),
    )


def check_built(plan: RankPlan, weights: LoraWeights) -> None:
    """Read ranks and parameter count back from the built tensors; AssertionError if they differ."""
    built = {name: pair.a.shape[0] for name, pair in weights.items()}
    transposed = {name: pair.b.shape[0] for name, pair in weights.items()}
    parameters = sum(pair.a.numel() + pair.b.numel() for pair in weights.values())
    if built != dict(plan.ranks) or transposed != built or parameters != plan.parameters:
        raise AssertionError(
            f"the built ranks ({parameters} parameters) differ from the plan ({plan.parameters})"
        )


def _check_request(
    layers: Sequence[LinearLayer], strategy: str, reference_rank: int, *, r_min: int, r_max: int
) -> None:
    if not layers:
        raise ConfigurationError("there is no linear layer to adapt; change training.targets")
    if strategy not in STRATEGIES:
        known = ", ".join(STRATEGIES)
        raise ConfigurationError(f"unknown rank strategy {strategy!r}; choose one of {known}")
    if not 0 <= r_min <= reference_rank <= r_max:
        raise ConfigurationError(
            f"a budget of rank {reference_rank} cannot be met with ranks from {r_min} to {r_max}"
        )


def _scale(rank: int, *, rule: ScalingRule, alpha: float, reference_rank: int) -> float:
    """rslora: alpha/sqrt(r); alpha_over_r: alpha/r; const: alpha/r0 whatever the rank."""
    if rule == "rslora":
        return alpha / math.sqrt(rank)
    return alpha / (rank if rule == "alpha_over_r" else reference_rank)


def _fixed(request: _ProfileRequest) -> list[float]:
    return [1.0] * len(request.layers)


def _linear_decay(request: _ProfileRequest) -> list[float]:
    """1.5 at the first block, 0.5 at the last."""
    return [1.5 - place for place in _places(request.layers)]


def _linear_growth(request: _ProfileRequest) -> list[float]:
    return [0.5 + place for place in _places(request.layers)]


def _attention_heavy(request: _ProfileRequest) -> list[float]:
    return [_KAPPA if layer.is_attention else 1.0 for layer in request.layers]


def _mlp_heavy(request: _ProfileRequest) -> list[float]:
    return [1.0 if layer.is_attention else _KAPPA for layer in request.layers]


def _random(request: _ProfileRequest) -> list[float]:
    """Flat Dirichlet: the control that every other allocation has to beat."""
    draws = request.generator.exponential(size=len(request.layers))
    return [float(value) for value in np.maximum(draws, 1e-3)]


def _gradient(request: _ProfileRequest) -> list[float]:
    """Measured importance, square-rooted around its mean and kept within [1/4, 4]."""
    values = _measured(request)
    tempered = (values / values.mean()) ** _TEMPER
    return [float(value) for value in np.clip(tempered, *_IMPORTANCE_BOUNDS)]


def _counted(request: _ProfileRequest) -> list[float]:
    """Counts of directions, as they are but within [1/4, 4] of their mean."""
    values = _measured(request)
    return [float(value) for value in np.clip(values / values.mean(), *_IMPORTANCE_BOUNDS)]


def _measured(request: _ProfileRequest) -> np.ndarray:
    importance = request.importance
    missing = [layer.name for layer in request.layers if layer.name not in (importance or {})]
    if importance is None or missing:
        what = f"of {missing[0]} " if importance is not None else ""
        raise ConfigurationError(f"this strategy needs the measured importance {what}first")
    values = np.array([importance[layer.name] for layer in request.layers], dtype=np.float64)
    if not np.isfinite(values).all() or values.min() < 0 or values.max() <= 0:
        raise ConfigurationError("measured importance must be finite, not negative, not all zero")
    return values


def _places(layers: Sequence[LinearLayer]) -> list[float]:
    """Depth from 0 (first block) to 1 (last); 0.5 when there is only one block."""
    deepest = max(layer.depth for layer in layers)
    return [layer.depth / deepest if deepest else 0.5 for layer in layers]


STRATEGIES: dict[str, Callable[[_ProfileRequest], list[float]]] = {
    "fixed": _fixed,
    "linear_decay": _linear_decay,
    "linear_growth": _linear_growth,
    "attention_heavy": _attention_heavy,
    "mlp_heavy": _mlp_heavy,
    "random": _random,
    "gradient": _gradient,
    "empirical": _gradient,
    "eva": _counted,
    "truncate": _counted,
}
