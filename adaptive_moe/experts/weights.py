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


def weights_bytes(weights: LoraWeights) -> int:
    """Bytes of all pairs together."""
    return sum(pair.size_bytes for pair in weights.values())


def check_fit(weights: LoraWeights, layers: Mapping[str, LinearLayer]) -> None:
    """Raise AdapterFormatError for a module that is not among the layers, or of another shape."""
    for name, pair in weights.items():
        layer = layers.get(name)
        if layer is None:
            raise AdapterFormatError(f"this model has no adaptable layer {name!r}")
        expected = ((pair.rank, layer.in_features), (pair.rank, layer.out_features))
        if (tuple(pair.a.shape), tuple(pair.b.shape)) != expected or pair.rank < 1:
            raise AdapterFormatError(
                f"{name}: factors of shape {tuple(pair.a.shape)} and {tuple(pair.b.shape)}, "
                f"expected (rank, {layer.in_features}) and (rank, {layer.out_features})"
            )
