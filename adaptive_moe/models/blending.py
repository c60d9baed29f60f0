"""Answers that several readers of the same prompt give together: a mixture of distributions.

Every reader (an expert, or the base) has a row and a cache of its own. The next token is chosen
from sum_k g_k p_k, and every reader goes on with that token.
"""

from collections.abc import Sequence
from typing import final

import numpy as np
import torch
from jaxtyping import Float, Float32, Int
from torch import Tensor


@final
class Blend:
    """Which reader rows make up which answer row, and with which gates.

    `gates` holds one sequence an answer row; each is positive and sums to 1, and its readers stand
    together, in the same order, in the batch of readers.
    """

    def __init__(self, gates: Sequence[Sequence[float]], *, device: torch.device) -> None:
        self._counts = [len(row) for row in gates]
        owner = [row for row, count in enumerate(self._counts) for _ in range(count)]
        self._owner = torch.tensor(owner, device=device)
        flat = torch.tensor([gate for row in gates for gate in row], dtype=torch.float64)
        self._log_gates = flat.log().float().to(device)[:, None]
        self._joint = torch.empty(0, 0)
        self._taken: list[Tensor] = []

    def combine(self, logits: Float[Tensor, "reader vocab"]) -> Float[Tensor, "batch vocab"]:
        """Log-probabilities of the mixture: log sum_k g_k p_k of every answer row."""
        joint = torch.log_softmax(logits.float(), dim=-1) + self._log_gates
        self._joint = joint
        parts = joint.split(self._counts)
        return torch.stack([part.logsumexp(dim=0) for part in parts])

    def spread(self, rows: Int[Tensor, "batch ..."]) -> Int[Tensor, "reader ..."]:
        """What holds for an answer row, for each of its readers."""
        return rows[self._owner]

    def note(self, tokens: Int[Tensor, " batch"]) -> None:
        """Keep each reader's part in the tokens that were just chosen."""
        self._taken.append(self._joint.gather(-1, self.spread(tokens)[:, None])[:, 0])

    def responsibilities(self, lengths: Sequence[int]) -> list[Float32[np.ndarray, "time reader"]]:
        """Per answer row and token g_k p_k / sum_j g_j p_j, cut to the row's length."""
        taken = torch.stack(self._taken).cpu()
        return [
            part[:length].softmax(dim=-1).numpy()
            for part, length in zip(taken.split(self._counts, dim=1), lengths, strict=True)
        ]
