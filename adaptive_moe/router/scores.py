"""Uncertainty scores of a prompt and of its answer; every one is higher = more uncertain.

p_t is the model's raw probability of the produced token, P_t the whole raw distribution over V
words at that step, H its entropy, T the number of produced tokens including the end token. Nothing
here needs a second forward pass. A trace without a token is maximally uncertain, never infinite.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations

import numpy as np
from jaxtyping import Float
from torch import Tensor

from adaptive_moe.measures.graders import token_f1
from adaptive_moe.models.token_trace import TokenTrace, token_statistics

UNSCORABLE_NATS = 1e6
"""Stands for "no token at all" where a score in nats has no upper end; far above any real one."""

_FIRST_TOKEN = {
    "entropy": "mean_entropy",
    "msp": "msp",
    "margin": "min_margin",
    "self_certainty": "self_certainty",
    "renyi": "renyi",
    "energy": "energy",
}


def msp(trace: TokenTrace) -> float:
    """Negative log-probability of the whole answer, -sum log p_t, in nats, >= 0.

    Long answers score higher. Malinin & Gales 2021, sequence probability.
    """
    return -_sum(trace.log_probability) if trace.log_probability.size else UNSCORABLE_NATS


def perplexity(trace: TokenTrace) -> float:
    """Log-perplexity, -1/T sum log p_t, in nats per token, >= 0. Fomicheva et al. 2020."""
    return -_mean(trace.log_probability) if trace.log_probability.size else UNSCORABLE_NATS


def mean_entropy(trace: TokenTrace) -> float:
    """Mean token entropy, 1/T sum H(P_t), in nats, 0 to log V. Fomicheva et al. 2020."""
    return _mean(trace.entropy) if trace.entropy.size else UNSCORABLE_NATS


def max_entropy(trace: TokenTrace) -> float:
    """Entropy of the least certain step, max_t H(P_t), in nats, 0 to log V."""
    return float(trace.entropy.max()) if trace.entropy.size else UNSCORABLE_NATS


def min_margin(trace: TokenTrace) -> float:
    """One minus the smallest gap between the two likeliest words of a step, 0 to 1 (a tie).

    Margin sampling, Scheffer et al. 2001, turned over and taken at the least certain step.
    """
    return 1.0 - float(trace.margin.min()) if trace.margin.size else 1.0


def self_certainty(trace: TokenTrace) -> float:
    """Minus the mean Kullback-Leibler divergence from uniform to P_t, in nats, <= 0.

    -1/T sum_t KL(u || P_t) = 1/T sum_t (log V + 1/V sum_j log P_tj); uniform distributions give 0,
    peaked ones fall far below. Kang et al. 2025, with the sign turned to mean uncertainty.
    """
    return -_mean(trace.self_certainty) if trace.self_certainty.size else 0.0


def renyi(trace: TokenTrace) -> float:
    """Minus the mean Renyi divergence (alpha 1/2) of P_t from uniform, in nats, -log V to 0.

    D_1/2(P || u) = -2 log sum_j sqrt(P_tj / V); uniform gives 0, a single word -log V.
    Darrin et al. 2023, oriented so that uniform is the most uncertain.
    """
    return -_mean(trace.renyi) if trace.renyi.size else 0.0


def energy(trace: TokenTrace) -> float:
    """Free energy, -1/T sum_t log sum_j exp(logit_tj), in nats; its zero depends on the model.

    Liu et al. 2020 at temperature 1.
    """
    return -_mean(trace.log_sum_exp) if trace.log_sum_exp.size else UNSCORABLE_NATS


SCORES: Mapping[str, Callable[[TokenTrace], float]] = {
    "msp": msp,
    "perplexity": perplexity,
    "mean_entropy": mean_entropy,
    "max_entropy": max_entropy,
    "min_margin": min_margin,
    "self_certainty": self_certainty,
    "renyi": renyi,
    "energy": energy,
}
"""Scores of a finished answer by name."""


def prefill_scores(first_logits: Float[Tensor, " vocab"]) -> dict[str, float]:
    """Scores of the distribution of the first answer token, before anything is decoded.

    `first_token_entropy`, `first_token_msp` (-log of the likeliest word), `first_token_margin`
    (1 - gap), `first_token_self_certainty`, `first_token_renyi` and `first_token_energy`, with the
    units and ranges of their namesakes above, for T = 1.
    """
    return prefill_scores_by_row(first_logits[None])[0]


def prefill_scores_by_row(
    first_logits: Float[Tensor, "batch vocab"],
) -> tuple[dict[str, float], ...]:
    """`prefill_scores` of every row, in one pass over the batch."""
    logits = first_logits.detach()
    table = token_statistics(logits, logits.argmax(dim=-1)).double().cpu().numpy()
    traces = (TokenTrace(*column[:, None].astype(np.float32)) for column in table.T)
    return tuple(
        {f"first_token_{name}": SCORES[source](trace) for name, source in _FIRST_TOKEN.items()}
        for trace in traces
    )


def consistency(answers: Sequence[str], *, reference: str | None = None) -> float:
    """Disagreement of sampled answers, 0 (all the same) to 1 (nothing in common).

    Mean of 1 - token F1 between `reference` (the greedy answer) and each sample, the second
    factor of CoCoA (Vashurin et al. 2025); without a reference the mean over all pairs of
    samples. Too few answers to compare give 1.
    """
    if reference is None:
        pairs = list(combinations(answers, 2))
    else:
        pairs = [(reference, answer) for answer in answers]
    if not pairs:
        return 1.0
    return sum(1.0 - token_f1(first, second) for first, second in pairs) / len(pairs)


def answer_scores(trace: TokenTrace) -> dict[str, float]:
    """Every score of `SCORES`, by name."""
    return {name: score(trace) for name, score in SCORES.items()}


def token_scores(trace: TokenTrace) -> dict[str, tuple[float, ...]]:
    """The trace's per-token figures as plain numbers, oriented as the model gave them.

    log_probability, entropy, self_certainty, renyi and log_sum_exp are in nats, margin and
    max_probability lie in 0 to 1; one value for each produced token.
    """
    arrays = {
        "log_probability": trace.log_probability,
        "entropy": trace.entropy,
        "margin": trace.margin,
        "max_probability": trace.max_probability,
        "self_certainty": trace.self_certainty,
        "renyi": trace.renyi,
        "log_sum_exp": trace.log_sum_exp,
    }
    return {name: tuple(values.astype(np.float64).tolist()) for name, values in arrays.items()}


def _mean(values: np.ndarray) -> float:
    return float(np.mean(values, dtype=np.float64))


def _sum(values: np.ndarray) -> float:
    return float(np.sum(values, dtype=np.float64))
