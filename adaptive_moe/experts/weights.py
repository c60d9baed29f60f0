"""The low-rank weights of one expert, as every room passes them on."""

from collections.abc import Mapping
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from adaptive_moe.errors import AdapterFormatError
from adaptive_moe.models.linear_layers import LinearLayer


@dataclass(frozen=True, slots=True, eq=False)
class LoraPair:
    """The two factors of one module, delta(x) = (x @ a.T) @ b, with the scaling folded into b."""

    a: Float[Tensor, "rank in"]
    b: Float[Tensor, "rank out"]

    @property
    def rank(self) -> int:
        """Rows of both factors."""
        return self.a.shape[0]

    @property
    def size_bytes(self) -> int:
        """Bytes of both factors in the precision they are held in."""
        return self.a.nbytes + self.b.nbytes


LoraWeights = Mapping[str, LoraPair]
"""Module name to pair; a module of rank 0 is absent."""


@dataclass(frozen=True, slots=True, eq=False)
class LoraStack:
    """The factors of one module for every row of a pass, lesser ranks filled up with zeros."""

    a: Float[Tensor, "row rank in"]
    b: Float[Tensor, "row rank out"]


def weights_bytes(weights: LoraWeights) -> int:
    """Bytes of all pairs together."""
    return sum(pair.size_bytes for pair in weights.values())


def check_fit(
    weights: Mapping[str, LoraPair] | Mapping[str, LoraStack], layers: Mapping[str, LinearLayer]
) -> None:
    """Raise AdapterFormatError for a module that is not among the layers, or of another shape."""
    for name, pair in weights.items():
        layer = layers.get(name)
        if layer is None:
            raise AdapterFormatError(f"this model has no adaptable layer {name!r}")
        leading = tuple(pair.a.shape[:-1])
        expected = ((*leading, layer.in_features), (*leading, layer.out_features))
        of_each = ("row", "rank") if isinstance(pair, LoraStack) else ("rank",)
        fits = len(leading) == len(of_each) and 0 not in leading
        if not fits or (tuple(pair.a.shape), tuple(pair.b.shape)) != expected:
            names = ", ".join(of_each)
            raise AdapterFormatError(
                f"{name}: factors of shape {tuple(pair.a.shape)} and {tuple(pair.b.shape)}, "
                f"expected ({names}, {layer.in_features}) and ({names}, {layer.out_features})"
            )
