"""Do a prompt's scores and greedy tokens depend on the batch it stands in, and on its padding?"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from adaptive_moe.experiments.against_peft import count_differing
from adaptive_moe.experiments.figures import Figure
from adaptive_moe.experiments.plan import Plan
from adaptive_moe.experiments.workload import (
    FOUR,
    NAMES,
    ONE,
    answered,
    bank_with,
    prompts_of,
    random_experts,
)
from adaptive_moe.experts.pool import Mixture
from adaptive_moe.models.language_model import LanguageModel
from adaptive_moe.models.token_trace import TokenTrace
from adaptive_moe.router.scores import answer_scores, prefill_scores_by_row

_PROMPTS = 8
_TOLERANCE = 1e-4


@dataclass(frozen=True, slots=True)
class _Scored:
    """One prompt's tokens, how clear each was, and all its scores."""

    token_ids: tuple[int, ...]
    margins: tuple[float, ...]
    scores: dict[str, float]


def figures(language_model: LanguageModel, plan: Plan, *, title: str) -> Iterator[Figure]:
    """Eight prompts of eight lengths, each alone, against the same in batches of all sizes."""
    experts = random_experts(language_model, rank=plan.rank, seed=plan.seed)
    bank = bank_with(language_model, experts)
    lengths = np.linspace(plan.prompt_tokens // 3, plan.prompt_tokens, _PROMPTS).astype(int)
    prompts = [prompts_of(language_model, int(length), 1)[0] for length in lengths]
    mixtures: list[Mixture] = [(), ONE, FOUR, ((NAMES[1], 1.0),)] * (_PROMPTS // 4)

    def scored(rows: Sequence[int]) -> list[_Scored]:
        filled, completions = answered(
            language_model,
            bank,
            [prompts[row] for row in rows],
            [mixtures[row] for row in rows],
            new_tokens=plan.new_tokens,
        )
        before = prefill_scores_by_row(filled.first_logits)
        return [
            _Scored(each.token_ids, _margins(each.trace), {**first, **answer_scores(each.trace)})
            for first, each in zip(before, completions, strict=True)
        ]

    alone = [scored([row])[0] for row in range(_PROMPTS)]
    batched = [
        (alone[row], found)
        for batch in _batches(np.random.default_rng(plan.seed))
        for row, found in zip(batch, scored(batch), strict=True)
    ]
    bank.close()
    is_exact = language_model.dtype == torch.float32
    yield from _told(batched, title, is_exact=is_exact)


def _told(
    pairs: Sequence[tuple[_Scored, _Scored]], title: str, *, is_exact: bool
) -> Iterator[Figure]:
    apart = max(
        abs(one.scores[name] - other.scores[name])
        for one, other in pairs
        if one.token_ids == other.token_ids
        for name in one.scores
    )
    differing, compared = count_differing(
        [other.token_ids for _, other in pairs],
        [one.token_ids for one, _ in pairs],
        [one.margins for one, _ in pairs],
    )
    clear = f"of {compared}, margin > 1e-3"
    for name, value, target, unit in (
        ("scores, largest difference", apart, _TOLERANCE, ""),
        ("greedy tokens that differ", float(differing), 0.0, clear),
    ):
        wanted = target if is_exact else None
        yield Figure("batches", name, title, value, unit=unit, target=wanted, is_timed=False)
    equal = sum(one.token_ids == other.token_ids for one, other in pairs)
    yield Figure(
        "batches",
        "answers that differ anywhere",
        title,
        len(pairs) - equal,
        unit=f"of {len(pairs)}",
        is_timed=False,
    )


def _batches(generator: np.random.Generator) -> Iterator[list[int]]:
    """All prompts together, then in random groups of two to five."""
    yield list(range(_PROMPTS))
    for size in (2, 3, 5):
        order = generator.permutation(_PROMPTS).tolist()
        yield from (order[start : start + size] for start in range(0, _PROMPTS, size))


def _margins(trace: TokenTrace) -> tuple[float, ...]:
    """Differences of the two largest logits, from their probabilities p and p - margin."""
    pairs = zip(trace.max_probability.tolist(), trace.margin.tolist(), strict=True)
    return tuple(
        math.log(highest) - math.log(highest - margin) if highest > margin else math.inf
        for highest, margin in pairs
    )
