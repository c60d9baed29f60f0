"""Measures how sure the model was of every token it produced, from the raw logits of one pass."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float32, Int
from torch import Tensor

_BLOCK_BYTES = 1 << 20
_STATISTICS = 7
# A word this far below the likeliest one has no weight: p is 0, so are p log p and sqrt p. In its
# place -inf, as masked words have it, would turn sums over the vocabulary into NaN or infinity.
_RULED_OUT_NATS = 1e4
# The mean word is no further below the likeliest one where none is ruled out.
_USUAL_NATS = 100.0


@dataclass(frozen=True, slots=True)
class TokenTrace:
    """Statistics of each produced token, end token included, from raw logits, in nats.

    With p the softmax over V tokens at temperature 1: `log_probability` of the chosen token;
    `entropy` of p; `margin` between the two largest p; `max_probability`; `self_certainty` =
    KL(uniform || p) (Kang et al. 2025, Eq. 7); `renyi` = Renyi divergence of order 1/2 of p from
    uniform, 0 for uniform p and log V for a certain one (Darrin et al. 2023); `log_sum_exp` of
    the logits, the negative energy (Liu et al. 2020). All but entropy grow with certainty.

    A word masked with -inf counts as 10,000 nats below the likeliest one, so that every statistic
    is finite: its p log p is 0, and it adds 10,000 / V to `self_certainty`.
    """

    log_probability: Float32[np.ndarray, " time"]
    entropy: Float32[np.ndarray, " time"]
    margin: Float32[np.ndarray, " time"]
    max_probability: Float32[np.ndarray, " time"]
    self_certainty: Float32[np.ndarray, " time"]
    renyi: Float32[np.ndarray, " time"]
    log_sum_exp: Float32[np.ndarray, " time"]

    def __len__(self) -> int:
        return len(self.log_probability)

    @classmethod
    def empty(cls) -> "TokenTrace":
        """The trace of no token at all."""
        return cls(*(np.zeros(0, dtype=np.float32) for _ in range(_STATISTICS)))


def token_statistics(
    logits: Float[Tensor, "row vocab"], tokens: Int[Tensor, " row"]
) -> Float32[Tensor, "statistic row"]:
    """The seven statistics of TokenTrace, in its order, of one chosen token per row of logits."""
    block = logits.to(torch.float32, copy=True)
    return _consume(block, torch.empty_like(block), tokens, block.argmax(dim=-1))


class TraceRecorder:
    """Gathers the statistics of a batch while it is decoded.

    Logits wait in a block of 1 MiB (or one step), which is then reduced at once: few operations
    over memory that is already there cost a small model much less than many over fresh memory.
    `is_greedy` promises that every token added is the largest of its raw logits.
    """

    def __init__(self, *, is_greedy: bool) -> None:
        self._is_greedy = is_greedy
        self._block = self._scratch = torch.empty(0, 0)
        self._tokens: list[Tensor] = []
        self._reduced: list[Tensor] = []
        self._batch = 0

    def add(self, logits: Float[Tensor, "batch vocab"], tokens: Int[Tensor, " batch"]) -> None:
        """Note one step: the raw logits and the token that every row chose."""
        if not self._batch:
            self._allocate(logits)
        filled = len(self._tokens) * self._batch
        self._block[filled : filled + self._batch].copy_(logits)
        self._tokens.append(tokens)
        if filled + self._batch == len(self._block):
            self._reduce()

    def traces(self, lengths: Sequence[int]) -> tuple[TokenTrace, ...]:
        """The trace of every row, cut to the number of tokens that it produced."""
        self._reduce()
        table = torch.cat(self._reduced, dim=1).reshape(_STATISTICS, -1, self._batch)
        columns = table.cpu().numpy()
        return tuple(
            TokenTrace(*(np.ascontiguousarray(line) for line in columns[:, :length, row]))
            for row, length in enumerate(lengths)
        )

    def _allocate(self, logits: Float[Tensor, "batch vocab"]) -> None:
        self._batch = len(logits)
        steps = max(1, _BLOCK_BYTES // (logits.numel() * 4))
        shape = (steps * self._batch, logits.shape[-1])
        self._block = torch.empty(shape, dtype=torch.float32, device=logits.device)
        self._scratch = torch.empty_like(self._block)

    def _reduce(self) -> None:
        if self._tokens:
            tokens = torch.cat(self._tokens)
            block, scratch = self._block[: len(tokens)], self._scratch[: len(tokens)]
            top = tokens if self._is_greedy else block.argmax(dim=-1)
            self._reduced.append(_consume(block, scratch, tokens, top))
            self._tokens.clear()


def _consume(
    logits: Float32[Tensor, "row vocab"],
    scratch: Float32[Tensor, "row vocab"],
    tokens: Int[Tensor, " row"],
    top: Int[Tensor, " row"],
) -> Float32[Tensor, "statistic row"]:
    """A few passes in place over `logits` and `scratch`; `top` are the places of the maxima.

    With l the logits less their maximum and q = exp(l): Z = sum q, p = q / Z.
    """
    highest = logits.gather(-1, top[:, None])[:, 0]
    mean = logits.mean(dim=-1)
    # Ruling out takes a pass, which is rarely needed; to ask a device would make it wait.
    if logits.device.type != "cpu" or not bool((highest - mean < _USUAL_NATS).all()):
        mean = torch.maximum(logits, highest[:, None] - _RULED_OUT_NATS, out=logits).mean(dim=-1)
    chosen = logits.gather(-1, tokens[:, None])[:, 0]
    half = torch.add(highest[:, None] * -0.5, logits, alpha=0.5, out=logits)
    root_q = torch.exp(half, out=scratch)
    root_sum = root_q.sum(dim=-1)
    q = root_q.mul_(root_q)
    total = q.sum(dim=-1)
    energy = 2.0 * half.mul_(q).sum(dim=-1)
    runner_up = q.scatter_(-1, top[:, None], 0.0).amax(dim=-1)
    log_total = total.log()
    log_sum_exp = highest + log_total
    log_vocab = math.log(logits.shape[-1])
    return torch.stack(
        [
            (chosen - highest) - log_total,  # rounds by what is left, not by the logits' size
            log_total - energy / total,
            (1.0 - runner_up) / total,
            1.0 / total,
            log_sum_exp - mean - log_vocab,
            log_vocab - 2.0 * root_sum.log() + log_total,
            log_sum_exp,
        ]
    )
