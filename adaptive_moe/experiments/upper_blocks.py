"""Are experts of twice the rank in the upper half of the blocks as good as those in all?"""

from collections.abc import Iterator, Sequence
from itertools import product

import numpy as np

from adaptive_moe.config.settings import TrainingSettings
from adaptive_moe.experiments import bases
from adaptive_moe.experiments.figures import Figure, Findings
from adaptive_moe.experiments.held_out_score import Material, Score, split_of, train_and_score
from adaptive_moe.experiments.known_world import pocket_figure
from adaptive_moe.experiments.plan import POCKET, Plan, Tell
from adaptive_moe.experts.bank import LoraBank

_SETS = ("chemistry+http", "constellations+python")
_SEEDS = 3
_STEPS = 400
_AS_GOOD = 0.02  # of the answers
_SHARES = (1.0, 0.5)
_BANK_BYTES = 8 << 20


def run(plan: Plan, tell: Tell) -> Findings:
    """Both kinds on two unions of knowledge packs, three seeds each; quickly one of 40 steps."""
    model = bases.load(POCKET, plan.device)
    bank = LoraBank(model.model, model.layers, capacity_bytes=_BANK_BYTES, dtype=model.dtype)
    names = _SETS[:1] if plan.quick else _SETS
    seeds = range(1 if plan.quick else _SEEDS)
    splits = {name: split_of(Material.parse(name)) for name in names}
    found: dict[tuple[str, float], list[Score]] = {}
    try:
        for seed, name, share in product(seeds, splits, _SHARES):
            tell(f"{name}, seed {seed}, {share:.0%} of the blocks")
            settings = TrainingSettings(
                rank=round(plan.rank / share),
                upper_share=share,
                max_steps=40 if plan.quick else _STEPS,
                seed=seed,
            )
            score = train_and_score(model, bank, splits[name], settings)
            found.setdefault((name, share), []).append(score)
    finally:
        bank.close()
    figures = [figure for name in names for figure in _figures(name, found)]
    return Findings(tuple(figures), {})


def _figures(name: str, found: dict[tuple[str, float], list[Score]]) -> Iterator[Figure]:
    whole, upper = (found[name, share] for share in _SHARES)
    gap = _exact(upper) - _exact(whole)
    error = gap.std(ddof=1) / len(gap) ** 0.5 if len(gap) > 1 else float("nan")
    yield pocket_figure(
        "upper_blocks",
        f"{name}, exact answers, upper half less all",
        value=float(gap.mean()),
        target=-_AS_GOOD,
        at_least=True,
        note=f"{_exact(upper).mean():.3f} less {_exact(whole).mean():.3f}, {len(gap)} seeds, "
        f"standard error {error:.3f}",
    )
    yield pocket_figure(
        "upper_blocks",
        f"{name}, seconds, upper half over all",
        value=_seconds(upper) / _seconds(whole),
    )


def _seconds(scores: Sequence[Score]) -> float:
    return float(np.mean([each.seconds for each in scores]))


def _exact(scores: Sequence[Score]) -> np.ndarray:
    return np.array([each.exact for each in scores])
