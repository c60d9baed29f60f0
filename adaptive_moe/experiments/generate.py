"""What an answer costs over bare `generate` on the untouched base, and what peers take for it.

Every variant answers the same prompts with the same number of tokens.
"""

import math
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from adaptive_moe.errors import AdaptiveMoEError
from adaptive_moe.experiments import bases
from adaptive_moe.experiments.figures import Figure, Findings
from adaptive_moe.experiments.interleaved import (
    Comparison,
    figures,
    measure,
    stopwatch,
    summary,
)
from adaptive_moe.experiments.our_variants import Ours
from adaptive_moe.experiments.peer_variants import Peers
from adaptive_moe.experiments.plan import Plan, Tell, under
from adaptive_moe.experiments.workload import NAMES, random_experts, runtime
from adaptive_moe.models.language_model import LanguageModel


def run(plan: Plan, tell: Tell) -> Findings:
    """All variants on all models of the plan."""
    found: list[Figure] = []
    details: dict[str, object] = {}
    for title in plan.bases:
        tell(f"{title}: loading")
        language_model = bases.load(title, plan.device)
        own, details[title] = _on(language_model, plan, title, under(title, tell))
        found += own
    return Findings(tuple(found), details)


def _on(
    language_model: LanguageModel, plan: Plan, title: str, tell: Tell
) -> tuple[list[Figure], dict[str, object]]:
    """All variants on one model: their ratios, and its size with all seconds."""
    experts = random_experts(language_model, rank=plan.rank, seed=plan.seed)
    with (
        tempfile.TemporaryDirectory() as folder,
        runtime(language_model, {NAMES[0]: experts[NAMES[0]]}) as moe,
    ):
        ours = Ours(language_model, moe, plan, experts, title=title)
        peers = Peers(language_model, plan, experts, title=title, folder=Path(folder))
        comparisons: list[Comparison] = []
        failed: list[Figure] = []
        for batch in plan.batches:
            tell(f"warming up at batch {batch}")
            bare = peers.bare(batch)
            own = ours.comparisons(batch, bare)
            _check_lengths(own, plan)
            theirs, not_working = peers.comparisons(batch, bare)
            comparisons += [*own, *theirs]
            failed += not_working
        seconds = measure(
            comparisons,
            rounds=plan.most_rounds,
            seed=plan.seed,
            clock=stopwatch(language_model.device),
            tell=tell,
            is_late=_timer(plan.minutes),
        )
    parameters = sum(parameter.numel() for parameter in language_model.model.parameters())
    return [*figures(comparisons, seconds, model=title), *failed], {
        "parameters": parameters,
        "numerics": language_model.numerics.to_dict(),
        "seconds": summary(seconds),
    }


def _timer(minutes: float | None) -> Callable[[], bool]:
    """Whether so many minutes have gone by since this was called; never without a number."""
    end = math.inf if minutes is None else time.monotonic() + 60 * minutes
    return lambda: time.monotonic() > end


def _check_lengths(comparisons: Sequence[Comparison], plan: Plan) -> None:
    """Run everything once, untimed: warm caches, and nobody produces fewer tokens."""
    for variant in {each for item in comparisons for each in (item.variant, item.reference)}:
        produced = variant.run()
        if produced != plan.new_tokens:
            raise AdaptiveMoEError(
                f"{variant.key} made {produced} tokens instead of {plan.new_tokens}: the figures "
                "would not compare the same work"
            )
