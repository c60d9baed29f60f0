"""Gates that every token and every layer find for themselves, by how strongly each expert answers.

Expert k moves a token's state x in one layer by D_k x = B_k A_k x. Its gate there is its share
w_k |D_k x| / sum_j w_j |D_j x| of what the experts of that layer are worth together, sum_j w_j,
with w its weight in the mixture: an expert that has nothing to say to a token leaves it to the
others. The norm as a router that needs no training is that of SpectR (Fleshman and Van Durme 2025)
and, for one direction only, Arrow (Ostapenko et al. 2024); the weights are ours. It is exact at
the price of the low rank: |D x|^2 = a' (B B') a with a = A x.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from adaptive_moe.experts.forwards import Forward, by_row, in_dtype, needs_copy
from adaptive_moe.experts.pool import Mixture, ModulePool, padded_index


@dataclass(frozen=True, slots=True)
class _Gating:
    """What one layer needs: `gram` is B B' between rank rows of the same expert, else 0.

    `owner` says whose each rank row is, `weights` what each expert weighs. With a `leader` its
    row's gates hold for all rows, in the proportion of their weights.
    """

    gram: Float[Tensor, "batch rank rank"]
    owner: Float[Tensor, "batch rank expert"]
    weights: Float[Tensor, "batch expert"]
    leader: int | None

    def gates(self, low: Float[Tensor, "batch time rank"]) -> Float[Tensor, "batch time rank"]:
        """The gate of every rank row for every token."""
        squares = torch.bmm(torch.bmm(low, self.gram) * low, self.owner)
        pull = squares.clamp_min(0.0).sqrt() * self.weights[:, None]
        worth = self.weights.sum(dim=-1)[:, None, None]
        total = pull.sum(dim=-1, keepdim=True)
        found = torch.where(total > 0, worth * pull / total, self.weights[:, None])
        if self.leader is not None:
            led = self.weights[self.leader]
            parts = torch.where(led > 0, self.weights / led, 0.0)
            found = found[self.leader] * parts[:, None]
        return torch.bmm(found, self.owner.transpose(1, 2))


def token_gated_forward(
    original: Forward, pool: ModulePool, mixtures: Sequence[Mixture], *, leader: int | None
) -> Forward | None:
    """The layer with a mixture per row and gates per token; None where no row has rank in it.

    With a `leader` all rows hold the leader's experts or some of them, and are gated by the
    leader's states: rows that stand for parts of a mixture, as attribution compares them.
    """
    present = [pool.present(mixture) for mixture in mixtures]
    if not any(present):
        return None
    weights = [dict(mixture) for mixture in present]
    if leader is not None:
        present = [present[leader]] * len(present)
    dtype = torch.promote_types(pool.a.dtype, torch.float32)
    layout = pool.layout([tuple((key, 1.0) for key, _ in mixture) for mixture in present])
    index, _ = padded_index(layout, dtype=dtype, device=pool.a.device)
    most = max(len(mixture) for mixture in present)
    owner = torch.zeros(*index.shape, most, dtype=dtype)
    shares = torch.zeros(len(present), most, dtype=dtype)
    for row, mixture in enumerate(present):
        filled = 0
        for expert, (key, _) in enumerate(mixture):
            rank = pool.ranges[key].rank
            owner[row, filled : filled + rank, expert] = 1.0
            shares[row, expert] = weights[row].get(key, 0.0)
            filled += rank
    owner, shares = owner.to(pool.a.device), shares.to(pool.a.device)
    a, b = pool.a[index], pool.b[index]
    same = owner @ owner.transpose(1, 2)
    gram = torch.bmm(b.to(dtype), b.to(dtype).transpose(1, 2)) * same
    gating = _Gating(gram, owner, shares, leader)
    return partial(_token_gated, original, a.transpose(1, 2), b, gating)


def _token_gated(
    original: Forward,
    transposed: Float[Tensor, "batch features rank"],
    b: Float[Tensor, "batch rank out"],
    gating: _Gating,
    hidden: Float[Tensor, "*rows in"],
) -> Float[Tensor, "*rows out"]:
    batch = b.size(0)
    output = original(hidden)
    low = torch.bmm(in_dtype(by_row(hidden, batch), b.dtype), transposed)
    exact = in_dtype(low, gating.gram.dtype)
    low = in_dtype(exact * gating.gates(exact), b.dtype)
    if needs_copy(output, b.dtype):
        return output + torch.bmm(low, b).to(output.dtype).view(output.shape)
    output.view(batch, -1, b.size(2)).baddbmm_(low, b)
    return output
