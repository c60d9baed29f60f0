"""The low-rank weights of one expert, as every room passes them on."""

from collections.abc import Mapping
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor


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
