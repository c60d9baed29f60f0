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
    recorder = TraceRecorder(is_greedy=False)
    recorder.add(logits, tokens)
    return recorder.statistics()


class TraceRecorder:
    """Gathers the statistics of a batch while it is decoded.

    Logits wait until there is 1 MiB of them (or one step), and are then reduced at once: few
    operations over much memory cost a small model far less than many over little. `is_greedy`
    promises that every token added is the largest of its raw logits.
    """

    def __init__(self, *, is_greedy: bool) -> None:
        self._is_greedy = is_greedy
        self._block = self._scratch = torch.empty(0, 0)
        self._steps = 0
        self._logits: list[Tensor] = []
        self._tokens: list[Tensor] = []
        self._reduced: list[tuple[Tensor, ...]] = []

    def add(self, logits: Float[Tensor, "batch vocab"], tokens: Int[Tensor, " batch"]) -> None:
        """Note one step: the raw logits, not to be changed, and the token that every row chose."""
        if not self._steps:
            self._allocate(logits)
        # On devices a step may be a graph, whose next run writes into the same memory.
        self._logits.append(logits if logits.device.type == "cpu" else logits.clone())
        self._tokens.append(tokens)
        if len(self._tokens) == self._steps:
            self._reduce()

    def statistics(self) -> Float32[Tensor, "statistic row"]:
        """The statistics of TokenTrace, in its order, of every step and row, steps first."""
        self._reduce()
        parts = (torch.cat(part) for part in zip(*self._reduced, strict=True))
        highest, chosen, mean, root_sum, total, energy, runner_up = parts
        log_total, log_vocab = total.log(), math.log(self._block.shape[-1])
        return torch.stack(
            [
                (chosen - highest) - log_total,  # rounds by what is left, not by the logits' size
                log_total - 2.0 * energy / total,
                (1.0 - runner_up) / total,
                1.0 / total,
                log_total - 2.0 * mean - log_vocab,
                log_vocab - 2.0 * root_sum.log() + log_total,
                highest + log_total,
            ]
        )

    def traces(self, lengths: Sequence[int]) -> tuple[TokenTrace, ...]:
        """The trace of every row, cut to the number of tokens that it produced."""
        table = self.statistics().reshape(_STATISTICS, -1, len(lengths)).cpu().numpy()
        return tuple(
            TokenTrace(*(np.ascontiguousarray(line) for line in table[:, :length, row]))
            for row, length in enumerate(lengths)
        )

    def _allocate(self, logits: Float[Tensor, "batch vocab"]) -> None:
        batch, vocabulary = logits.shape
        self._steps = max(1, _BLOCK_BYTES // (logits.numel() * 4))
        shape = (self._steps * batch, vocabulary)
        self._block = torch.empty(shape, dtype=torch.float32, device=logits.device)
        self._scratch = torch.empty_like(self._block)

    def _reduce(self) -> None:
        if self._tokens:
            tokens = torch.cat(self._tokens)[:, None]
            block, scratch = self._block[: len(tokens)], self._scratch[: len(tokens)]
            torch.cat(self._logits, out=block)
            top = tokens if self._is_greedy else block.argmax(dim=-1, keepdim=True)
            self._reduced.append(_consume(block, scratch, tokens, top))
            self._logits.clear()
            self._tokens.clear()


def _consume(
    logits: Float32[Tensor, "row vocab"],
    scratch: Float32[Tensor, "row vocab"],
    tokens: Int[Tensor, "row 1"],
    top: Int[Tensor, "row 1"],
) -> tuple[Float32[Tensor, " row"], ...]:
    """What all statistics are made of, by a few passes in place over both blocks.

    `top` are the places of the maxima. With h half of what a logit lies below the maximum: the
    maximum, the chosen token's logit, the mean of h, sum exp(h), Z = sum exp(2 h), sum h exp(2 h),
    and the second largest exp(2 h).
    """
    highest = logits.gather(-1, top)
    chosen = highest if tokens is top else logits.gather(-1, tokens)
    half = torch.add(highest * -0.5, logits, alpha=0.5, out=logits)
    mean = half.mean(dim=-1)
    # Ruling out takes passes, which are rarely needed; to ask a device would make it wait.
    if half.device.type != "cpu" or not float(mean.min()) > -0.5 * _USUAL_NATS:
        chosen = torch.maximum(chosen, highest - _RULED_OUT_NATS)
        mean = half.clamp_(min=-0.5 * _RULED_OUT_NATS).mean(dim=-1)
    root_q = torch.exp(half, out=scratch)
    root_sum = root_q.sum(dim=-1)
    q = root_q.mul_(root_q)
    total = q.sum(dim=-1)
    energy = half.mul_(q).sum(dim=-1)
    runner_up = q.scatter_(-1, top, 0.0).amax(dim=-1)
    return highest[:, 0], chosen[:, 0], mean, root_sum, total, energy, runner_up
