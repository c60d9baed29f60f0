"""What each expert of a mixture added to each token of an answer, in nats.

log p_routed - log p_base of a token is shared out among the active experts by Shapley's rule.
The value of a set of experts is the raw log-probability, at temperature 1, of the token that was
produced, with the gates of all other experts at 0 and those of the set as they were; the empty
set is the base. All sets are scored together: one batch row each, teacher-forced over the
finished answer. Sets that must score alike share a row, so that an expert that does nothing gets
exactly nothing, and equal experts are treated alike, whatever rounding does to batch rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers.cache_utils import Cache

from adaptive_moe.experts.bank import LoraBank
from adaptive_moe.experts.pool import Mixture
from adaptive_moe.experts.weights import LoraWeights
from adaptive_moe.integration.shapley import (
    Coalition,
    Orders,
    all_orders,
    draw_orders,
    shapley_shares,
)
from adaptive_moe.models.growing_cache import fork, new_cache
from adaptive_moe.models.language_model import LanguageModel
from adaptive_moe.models.memory import retry_on_out_of_memory
from adaptive_moe.models.prefilling import Prefill, extend_mask

EXACT_EXPERTS = 4
"""Up to so many experts all 2^k sets are scored; beyond, sets along random orders."""

_Gates = tuple[float, ...]

_ORDER_PAIRS = 8
_LOGITS_BYTES = 256 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Attribution:
    """The experts' shares of each answer token; they sum to `total`.

    `experts` are ids in the order of the mixture. `error` is the largest standard error of a
    share in nats, 0 when `exact`.
    """

    experts: tuple[str, ...]
    shares: Float[np.ndarray, "time expert"]
    base_log_probability: Float[np.ndarray, " time"]
    routed_log_probability: Float[np.ndarray, " time"]
    exact: bool
    error: float

    @property
    def total(self) -> Float[np.ndarray, " time"]:
        """What all experts together changed, in nats per token."""
        total: np.ndarray = self.routed_log_probability - self.base_log_probability
        return total


def attribute(
    language_model: LanguageModel,
    bank: LoraBank,
    prefill: Prefill,
    answer_ids: Sequence[int],
    mixture: Mixture,
    *,
    activation: Literal["answer", "prompt"] = "answer",
    order_pairs: int = _ORDER_PAIRS,
    seed: int = 0,
    logits_bytes: int = _LOGITS_BYTES,
) -> Attribution:
    """Share out the log-probability of one answer among the experts that gave it.

    `prefill` holds one prompt; its cache is left as it was. Experts that act on the answer are
    active on header and answer tokens and share the prompt's cache; those that act on the prompt
    read it once per set. The experts must be resident, each named once, and none active yet.
    Beyond four experts, orders of joining are drawn in `order_pairs` pairs by `seed`. Logits take
    about `logits_bytes` at a time, whatever the answer's length.
    """
    assert len(prefill.prompts) == 1, "attribution explains one answer at a time"
    experts = tuple(expert_id for expert_id, _ in mixture)
    orders = _orders(len(experts), pairs=order_pairs, seed=seed)
    scorer = _Scorer(language_model, bank, prefill, tuple(answer_ids), mixture, activation)
    scores = scorer.score(orders.coalitions, logits_bytes=logits_bytes)
    shares, error = shapley_shares(orders, scores)
    return Attribution(
        experts=experts,
        shares=shares,
        base_log_probability=scores[frozenset()],
        routed_log_probability=scores[frozenset(range(len(experts)))],
        exact=orders.is_complete,
        error=error,
    )


def _orders(experts: int, *, pairs: int, seed: int) -> Orders:
    if experts <= EXACT_EXPERTS:
        return all_orders(experts)
    return draw_orders(experts, pairs=pairs, generator=np.random.default_rng(seed))


@dataclass(frozen=True, slots=True)
class _Scorer:
    """Log-probabilities of one answer under many sets of the experts in its mixture."""

    language_model: LanguageModel
    bank: LoraBank
    prefill: Prefill
    answer_ids: tuple[int, ...]
    mixture: Mixture
    activation: Literal["answer", "prompt"]

    @property
    def _input_ids(self) -> tuple[int, ...]:
        """What is read: the prompt if need be, the header, the answer without its last token."""
        prompt = self.prefill.prompts[0]
        before = prompt.prompt_ids if self.activation == "prompt" else ()
        return (*before, *prompt.header_ids, *self.answer_ids[:-1])

    def score(
        self, coalitions: Sequence[Coalition], *, logits_bytes: int
    ) -> dict[Coalition, Float[np.ndarray, " time"]]:
        """Score all sets, as many at a time as the budget allows, fewer when memory runs out."""
        if not self.answer_ids:
            return dict.fromkeys(coalitions, np.zeros(0))
        gates = self._gates(coalitions)
        settings = sorted(set(gates.values()))
        token_bytes = 8 * self.language_model.vocab_size  # logits, and once more while reduced
        rows = max(1, logits_bytes // (token_bytes * len(self._input_ids)))
        step = max(1, logits_bytes // (token_bytes * min(rows, len(settings))))

        def work(some: Sequence[_Gates]) -> Sequence[Float[np.ndarray, " time"]]:
            return list(self._score_rows(some, step=step))

        scores: dict[_Gates, Float[np.ndarray, " time"]] = {}
        for start in range(0, len(settings), rows):
            some = settings[start : start + rows]
            found = retry_on_out_of_memory(work, some, make_room=lambda: False)
            scores |= zip(some, found, strict=True)
        return {coalition: scores[gates[coalition]] for coalition in coalitions}

    def _gates(self, coalitions: Sequence[Coalition]) -> dict[Coalition, _Gates]:
        """The gates of each set; one expert stands in for all equal ones, none for idle ones."""
        stand_ins = _stand_ins([self.bank.weights(expert_id) for expert_id, _ in self.mixture])
        found = {}
        for coalition in coalitions:
            gates = [0.0] * len(self.mixture)
            for member in sorted(coalition):
                stand_in = stand_ins[member]
                if stand_in is not None:
                    gates[stand_in] += self.mixture[member][1]
            found[coalition] = tuple(gates)
        return found

    @torch.inference_mode()
    def _score_rows(
        self, settings: Sequence[_Gates], *, step: int
    ) -> Float[np.ndarray, "row time"]:
        """One pass with a row per setting, in slices of `step` tokens that continue one cache."""
        rows = len(settings)
        ids = torch.tensor([self._input_ids] * rows, device=self.language_model.device)
        targets = torch.tensor([self.answer_ids] * rows, device=ids.device)
        cache, mask = self._start(rows, length=ids.shape[1])
        experts = [expert_id for expert_id, _ in self.mixture]
        unscored = ids.shape[1] - targets.shape[1]
        parts = []
        with self.bank.activate_shared(experts, torch.tensor(settings)):
            for start in range(0, ids.shape[1], step):
                part = ids[:, start : start + step]
                end = start + part.shape[1]
                wanted = targets[:, max(0, start - unscored) : max(0, end - unscored)]
                logits = self._read(part, cache, mask=mask, keep=max(1, wanted.shape[1]))
                if wanted.shape[1]:
                    parts.append(_log_probability(logits, wanted))
        return torch.cat(parts, dim=1).double().cpu().numpy()

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


def _stand_ins(experts: Sequence[LoraWeights]) -> tuple[int | None, ...]:
    """For each expert the first one with equal weights; None for one that changes nothing."""
    found: list[int | None] = []
    for weights in experts:
        is_idle = not any(bool(pair.b.any()) for pair in weights.values())
        equals = (index for index, other in enumerate(experts) if _are_equal(other, weights))
        found.append(None if is_idle else next(equals))
    return tuple(found)


def _are_equal(left: LoraWeights, right: LoraWeights) -> bool:
    return left.keys() == right.keys() and all(
        torch.equal(left[name].a, right[name].a) and torch.equal(left[name].b, right[name].b)
        for name in left
    )


def _log_probability(
    logits: Float[Tensor, "row time vocab"], token_ids: Int[Tensor, "row time"]
) -> Float[Tensor, "row time"]:
    logits = logits.float()
    return logits.gather(-1, token_ids[..., None])[..., 0] - logits.logsumexp(dim=-1)
