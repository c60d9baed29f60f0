"""Measures how sure the model was of every token it produced, from the raw logits of one pass."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float32, Int
from torch import Tensor

# Few large operations instead of many small ones: logits wait until this much has gathered.
_BLOCK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class TokenTrace:
    """Statistics of each produced token, end token included, from raw logits, in nats.

    With p the softmax over V tokens at temperature 1: `log_probability` of the chosen token;
    `entropy` of p; `margin` between the two largest p; `max_probability`; `self_certainty` =
    KL(uniform || p) (Kang et al. 2025, Eq. 7); `renyi` = Renyi divergence of order 1/2 of p from
    uniform, 0 for uniform p and log V for a certain one (Darrin et al. 2023); `log_sum_exp` of
    the logits, the negative energy (Liu et al. 2020). All but entropy grow with certainty.
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


def token_statistics(
    logits: Float[Tensor, "row vocab"], tokens: Int[Tensor, " row"]
) -> Float32[Tensor, "statistic row"]:
    """The seven statistics of TokenTrace, in its order, of one chosen token per row of logits."""
    logits = logits.float()
    chosen = tokens[:, None]
    log_p = torch.log_softmax(logits, dim=-1)
    root_p = torch.exp(log_p * 0.5)
    log_vocab = math.log(logits.shape[-1])
    log_probability = log_p.gather(-1, chosen)[:, 0]
    first, second = log_p.topk(2, dim=-1).values.exp().unbind(-1)
    entropy = -torch.linalg.vecdot(root_p * root_p, log_p)
    self_certainty = -log_p.mean(dim=-1) - log_vocab
    renyi = log_vocab - 2.0 * root_p.sum(dim=-1).log()
    log_sum_exp = logits.gather(-1, chosen)[:, 0] - log_probability
    parts = [log_probability, entropy, first - second, first, self_certainty, renyi, log_sum_exp]
    return torch.stack(parts)


class TraceRecorder:
    """Gathers the statistics of a batch while it is decoded; at most 1 MiB of logits waits."""

    def __init__(self) -> None:
        self._logits: list[Tensor] = []
        self._tokens: list[Tensor] = []
        self._blocks: list[Tensor] = []
        self._rows = 0

    def add(self, logits: Float[Tensor, "batch vocab"], tokens: Int[Tensor, " batch"]) -> None:
        """Note one step: the raw logits and the token that every row chose."""
        self._rows = len(tokens)
        self._logits.append(logits)
        self._tokens.append(tokens)
        if len(self._logits) * logits.nbytes >= _BLOCK_BYTES:
            self._reduce()

    def traces(self, lengths: list[int]) -> tuple[TokenTrace, ...]:
        """The trace of every row, cut to the number of tokens that it produced."""
        self._reduce()
        if not self._blocks:
            empty = np.zeros(0, dtype=np.float32)
            return tuple(TokenTrace(*[empty] * 7) for _ in lengths)
        steps = torch.cat(self._blocks, dim=1)
        table = steps.reshape(len(steps), -1, self._rows).cpu().numpy()
        return tuple(
            TokenTrace(*(np.ascontiguousarray(line) for line in table[:, :length, row]))
            for row, length in enumerate(lengths)
        )

    def _reduce(self) -> None:
        if self._logits:
            logits, tokens = torch.cat(self._logits), torch.cat(self._tokens)
            self._blocks.append(token_statistics(logits, tokens))
            self._logits.clear()
            self._tokens.clear()
