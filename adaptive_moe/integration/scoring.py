"""Log-probabilities of one finished answer under many settings of its experts' gates.

All settings are scored together: one batch row each, teacher-forced over the answer.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers.cache_utils import Cache

from adaptive_moe.experts.bank import LoraBank
from adaptive_moe.experts.pool import Mixture
from adaptive_moe.models.growing_cache import fork, new_cache
from adaptive_moe.models.language_model import LanguageModel
from adaptive_moe.models.memory import retry_on_out_of_memory
from adaptive_moe.models.prefilling import Prefill, extend_mask

Gates = tuple[float, ...]
"""A gate for every expert of the mixture, in its order."""


@dataclass(frozen=True, slots=True)
class Scorer:
    """Reads one answer again, under as many settings of the gates as are asked for.

    With `by_token` every token and layer finds its gates as in the answer itself, by all experts
    of the mixture, and a setting weighs them.
    """

    language_model: LanguageModel
    bank: LoraBank
    prefill: Prefill
    answer_ids: tuple[int, ...]
    mixture: Mixture
    activation: Literal["answer", "prompt"]
    by_token: bool

    def score(
        self, settings: Sequence[Gates], *, logits_bytes: int
    ) -> dict[Gates, Float[np.ndarray, " time"]]:
        """Score all settings, as many at a time as the budget allows, fewer when memory ends."""
        if not self.answer_ids:
            return dict.fromkeys(settings, np.zeros(0))
        token_bytes = 8 * self.language_model.vocab_size  # logits, and once more while reduced
        rows = max(1, logits_bytes // (token_bytes * len(self._input_ids)))
        step = max(1, logits_bytes // (token_bytes * min(rows, len(settings))))

        def work(some: Sequence[Gates]) -> Sequence[Float[np.ndarray, " time"]]:
            return list(self._score_rows(some, step=step))

        scores: dict[Gates, Float[np.ndarray, " time"]] = {}
        for start in range(0, len(settings), rows):
            some = settings[start : start + rows]
            found = retry_on_out_of_memory(work, some, make_room=lambda: False)
            scores |= zip(some, found, strict=True)
        return scores

    @property
    def _input_ids(self) -> tuple[int, ...]:
        """What is read: the prompt if need be, the header, the answer without its last token."""
        prompt = self.prefill.prompts[0]
        before = prompt.prompt_ids if self.activation == "prompt" else ()
        return (*before, *prompt.header_ids, *self.answer_ids[:-1])

    @torch.inference_mode()
    def _score_rows(self, settings: Sequence[Gates], *, step: int) -> Float[np.ndarray, "row time"]:
        """One pass with a row per setting, in slices of `step` tokens that continue one cache."""
        if self.by_token:  # the answer as it was leads the others
            settings = [tuple(gate for _, gate in self.mixture), *settings]
        rows = len(settings)
        ids = torch.tensor([self._input_ids] * rows, device=self.language_model.device)
        targets = torch.tensor([self.answer_ids] * rows, device=ids.device)
        cache, mask = self._start(rows, length=ids.shape[1])
        unscored = ids.shape[1] - targets.shape[1]
        parts = []
        with self._active(settings):
            for start in range(0, ids.shape[1], step):
                part = ids[:, start : start + step]
                end = start + part.shape[1]
                wanted = targets[:, max(0, start - unscored) : max(0, end - unscored)]
                logits = self._read(part, cache, mask=mask, keep=max(1, wanted.shape[1]))
                if wanted.shape[1]:
                    parts.append(_log_probability(logits, wanted))
        scores: np.ndarray = torch.cat(parts, dim=1).double().cpu().numpy()
        return scores[1:] if self.by_token else scores

    def _active(self, settings: Sequence[Gates]) -> AbstractContextManager[None]:
        experts = [expert_id for expert_id, _ in self.mixture]
        if not self.by_token:
            return self.bank.activate_shared(experts, torch.tensor(settings))
        rows = [tuple(zip(experts, setting, strict=True)) for setting in settings]
        return self.bank.activate_by_token(rows, leader=0)

    def _start(self, rows: int, *, length: int) -> tuple[Cache, Int[Tensor, "row all_time"] | None]:
        """The cache to continue, one row per set, and the mask where its prompt is padded."""
        if self.activation == "prompt":
            return new_cache(self.language_model), None
        cache = fork(self.prefill.cache)
        cache.batch_repeat_interleave(rows)
        mask = self.prefill.attention_mask
        if len(self.prefill.prompts[0].prompt_ids) == mask.shape[1]:
            return cache, None
        return cache, extend_mask(mask, mask.shape[1] + length).expand(rows, -1)

    def _read(
        self,
        ids: Int[Tensor, "row time"],
        cache: Cache,
        *,
        mask: Int[Tensor, "row all_time"] | None,
        keep: int,
    ) -> Float[Tensor, "row kept vocab"]:
        """Continue the cache by these ids; the raw logits of the last `keep` positions."""
        arguments: dict[str, Any] = {"past_key_values": cache, "use_cache": True}
        if mask is not None:
            seen = mask[:, : cache.get_seq_length() + ids.shape[1]]
            arguments["attention_mask"] = seen
            if self.language_model.takes_positions:
                positions = (seen.cumsum(dim=1) - 1).clamp_min(0)
                arguments["position_ids"] = positions[:, -ids.shape[1] :]
        if self.language_model.takes_logits_to_keep:
            arguments["logits_to_keep"] = keep
        output: Any = self.language_model.model(ids, **arguments)
        logits: Tensor = output.logits[:, -keep:]
        return logits


def _log_probability(
    logits: Float[Tensor, "row time vocab"], token_ids: Int[Tensor, "row time"]
) -> Float[Tensor, "row time"]:
    logits = logits.float()
    return logits.gather(-1, token_ids[..., None])[..., 0] - logits.logsumexp(dim=-1)
