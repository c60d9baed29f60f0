"""What each expert of a mixture added to each token of an answer, in nats.

log p_routed - log p_base of a token is shared out among the active experts by Shapley's rule.
The value of a set of experts is the raw log-probability, at temperature 1, of the token that was
produced, with the gates of all other experts at 0 and those of the set as they were; the empty
set is the base. Where distributions were mixed, the weight of those outside the set is the base's.
Sets that must score alike share a row, so that an expert that does nothing gets exactly nothing,
and equal experts are treated alike, whatever rounding does to batch rows.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float

from adaptive_moe.experts.bank import LoraBank
from adaptive_moe.experts.pool import Mixture
from adaptive_moe.experts.weights import LoraWeights
from adaptive_moe.integration.mixing import Mixed
from adaptive_moe.integration.scoring import Gates, Scorer
from adaptive_moe.integration.shapley import (
    Coalition,
    Orders,
    all_orders,
    draw_orders,
    shapley_shares,
)
from adaptive_moe.models.language_model import LanguageModel
from adaptive_moe.models.prefilling import Prefill

EXACT_EXPERTS = 4
"""Up to so many experts all 2^k sets are scored; beyond, sets along random orders."""

_StandIns = tuple[int | None, ...]

_NOTHING = 1e-9  # what is left of the gates by rounding is no weight
_ORDER_PAIRS = 8
_LOGITS_BYTES = 256 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Attribution:
    """The experts' shares of each answer token; they sum to `total`.

    `experts` are ids in the order of the mixture. `error` is the largest standard error of a
    share in nats, 0 when `exact`. `responsibilities` are g_k p_k / sum_j g_j p_j of each token
    where distributions were mixed.
    """

    experts: tuple[str, ...]
    shares: Float[np.ndarray, "time expert"]
    base_log_probability: Float[np.ndarray, " time"]
    routed_log_probability: Float[np.ndarray, " time"]
    exact: bool
    error: float
    responsibilities: Float[np.ndarray, "time expert"] | None = None

    @property
    def total(self) -> Float[np.ndarray, " time"]:
        """What all experts together changed, in nats per token."""
        total: np.ndarray = self.routed_log_probability - self.base_log_probability
        return total


def attribute(  # noqa: PLR0913 - what an answer came of, and nothing of it belongs together
    language_model: LanguageModel,
    bank: LoraBank,
    prefill: Prefill,
    answer_ids: Sequence[int],
    mixture: Mixture,
    *,
    activation: Literal["answer", "prompt"] = "answer",
    mixed: Mixed = "updates",
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
    scorer = Scorer(
        language_model,
        bank,
        prefill,
        tuple(answer_ids),
        mixture,
        activation,
        by_token=mixed == "updates by token",
    )
    stand_ins = _stand_ins([bank.weights(expert_id) for expert_id in experts])
    responsibilities = None
    if mixed == "distributions":
        alone = _alone(scorer, stand_ins, logits_bytes=logits_bytes)
        scores = {each: _blended(each, mixture, stand_ins, alone) for each in orders.coalitions}
        responsibilities = _responsibilities(mixture, stand_ins, alone)
    else:
        gates = {each: _gates(each, mixture, stand_ins) for each in orders.coalitions}
        found = scorer.score(sorted(set(gates.values())), logits_bytes=logits_bytes)
        scores = {each: found[gates[each]] for each in orders.coalitions}
    shares, error = shapley_shares(orders, scores)
    return Attribution(
        experts=experts,
        shares=shares,
        base_log_probability=scores[frozenset()],
        routed_log_probability=scores[frozenset(range(len(experts)))],
        exact=orders.is_complete,
        error=error,
        responsibilities=responsibilities,
    )


def _orders(experts: int, *, pairs: int, seed: int) -> Orders:
    if experts <= EXACT_EXPERTS:
        return all_orders(experts)
    return draw_orders(experts, pairs=pairs, generator=np.random.default_rng(seed))


def _gates(coalition: Coalition, mixture: Mixture, stand_ins: _StandIns) -> Gates:
    """The gates of a set; one expert stands in for all equal ones, none for idle ones."""
    gates = [0.0] * len(mixture)
    for member in sorted(coalition):
        stand_in = stand_ins[member]
        if stand_in is not None:
            gates[stand_in] += mixture[member][1]
    return tuple(gates)


def _alone(
    scorer: Scorer, stand_ins: _StandIns, *, logits_bytes: int
) -> dict[int | None, Float[np.ndarray, " time"]]:
    """Log-probabilities under every different expert by itself, and under the base (None)."""
    none = (0.0,) * len(stand_ins)
    settings: dict[int | None, Gates] = {None: none}
    for stand_in in stand_ins:
        if stand_in is not None:
            settings[stand_in] = (*none[:stand_in], 1.0, *none[stand_in + 1 :])
    found = scorer.score(list(settings.values()), logits_bytes=logits_bytes)
    return {reader: found[setting] for reader, setting in settings.items()}


def _blended(
    coalition: Coalition,
    mixture: Mixture,
    stand_ins: _StandIns,
    alone: Mapping[int | None, Float[np.ndarray, " time"]],
) -> Float[np.ndarray, " time"]:
    """The set's log sum_k g_k p_k; the base has the weight that is missing."""
    gates = _gates(coalition, mixture, stand_ins)
    parts = [(gate, alone[reader]) for reader, gate in enumerate(gates) if gate]
    missing = 1.0 - math.fsum(gate for gate, _ in parts)
    if not parts:
        return alone[None]
    if missing > _NOTHING:
        parts.append((missing, alone[None]))
    blended: np.ndarray = np.logaddexp.reduce([np.log(gate) + scores for gate, scores in parts])
    return blended


def _responsibilities(
    mixture: Mixture,
    stand_ins: _StandIns,
    alone: Mapping[int | None, Float[np.ndarray, " time"]],
) -> Float[np.ndarray, "time expert"]:
    joint = np.stack(
        [
            np.log(gate) + alone[reader]
            for (_, gate), reader in zip(mixture, stand_ins, strict=True)
        ],
        axis=1,
    )
    parts: np.ndarray = np.exp(joint - np.logaddexp.reduce(joint, axis=1, keepdims=True))
    return parts


def _stand_ins(experts: Sequence[LoraWeights]) -> _StandIns:
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
