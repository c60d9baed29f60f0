"""Whether every strategy trains, and has exactly the parameters that its budget pays for."""

import math

from adaptive_moe.config.settings import TrainingSettings
from adaptive_moe.experiments import bases
from adaptive_moe.experiments.figures import Figure, Findings
from adaptive_moe.experiments.known_world import pocket_figure
from adaptive_moe.experiments.plan import POCKET, Plan, Tell
from adaptive_moe.experts.bank import LoraBank
from adaptive_moe.models.language_model import LanguageModel
from adaptive_moe.pocket import pack_names, pack_path
from adaptive_moe.training.importance import measured_importance
from adaptive_moe.training.material import read_material
from adaptive_moe.training.ranks import MEASURED, STRATEGIES, RankPlan, plan_ranks
from adaptive_moe.training.splits import Split, split_examples
from adaptive_moe.training.synthesis import synthesise
from adaptive_moe.training.trainer import train_lora

_STEPS = 20
_BANK_BYTES = 8 << 20


def run(plan: Plan, tell: Tell) -> Findings:
    """Twenty steps of every strategy on the first knowledge pack."""
    model = bases.load(POCKET, plan.device)
    bank = LoraBank(model.model, model.layers, capacity_bytes=_BANK_BYTES, dtype=model.dtype)
    settings = TrainingSettings(rank=plan.rank, max_steps=_STEPS, evaluate_every=_STEPS)
    material = read_material([pack_path(pack_names()[0])])
    examples = synthesise(material.passages, seed=plan.seed)
    split = split_examples(material, examples, settings)
    figures = []
    try:
        for strategy in STRATEGIES:
            tell(strategy)
            ranks = _plan(strategy, model, bank, split, settings, plan.seed)
            figures.append(_train(ranks, model, bank, split, settings, plan.seed))
    finally:
        bank.close()
    return Findings(tuple(figures), {})


def _plan(
    strategy: str,
    model: LanguageModel,
    bank: LoraBank,
    split: Split,
    settings: TrainingSettings,
    seed: int,
) -> RankPlan:
    importance = None
    if strategy in MEASURED:
        importance = measured_importance(
            strategy,
            model,
            model.layers,
            split.train,
            bank=bank,
            reference_rank=settings.rank,
            settings=settings,
        )
    return plan_ranks(
        model.layers,
        strategy=strategy,
        reference_rank=settings.rank,
        importance=importance,
        seed=seed,
    )


def _train(
    ranks: RankPlan,
    model: LanguageModel,
    bank: LoraBank,
    split: Split,
    settings: TrainingSettings,
    seed: int,
) -> Figure:
    """Parameters read back from the trained factors, less the budget."""
    result = train_lora(
        model,
        bank,
        ranks,
        split.train,
        held_out=split.selection,
        settings=settings,
        seed=seed,
    )
    budget = settings.rank * sum(layer.cost for layer in model.layers)
    trained = sum(pair.a.numel() + pair.b.numel() for pair in result.weights.values())
    is_finite = math.isfinite(result.history[-1].held_out.loss) and not result.skipped_steps
    least, most = min(ranks.ranks.values()), max(ranks.ranks.values())
    return pocket_figure(
        "budgets",
        ranks.strategy,
        value=abs(trained - budget) if is_finite else None,
        target=0,
        unit="parameters off",
        note=f"{trained:,} parameters, ranks {least} to {most}; loss {result.loss_before:.2f} "
        f"to {result.history[-1].held_out.loss:.2f}",
    )
