"""Is an expert that acts from the generation header on as good as one that reads the prompt too?

Trains both kinds on the same material, split, ranks, steps and seeds, chooses weights on the
selection side, and scores them once on the held-out side.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from typing import Literal

import numpy as np

from adaptive_moe.config.settings import TrainingSettings
from adaptive_moe.experiments import bases
from adaptive_moe.experiments.figures import Figure, Findings
from adaptive_moe.experiments.held_out_score import Material, split_of, train_and_score
from adaptive_moe.experiments.plan import POCKET, Plan, Tell
from adaptive_moe.experts.bank import LoraBank
from adaptive_moe.models.language_model import LanguageModel
from adaptive_moe.pocket import pack_names
from adaptive_moe.training.splits import METRICS, Split

Activation = Literal["answer", "prompt"]
ACTIVATIONS: tuple[Activation, ...] = ("answer", "prompt")

_BANK_BYTES = 64 << 20
_RATE = 3e-3


@dataclass(frozen=True, slots=True)
class Ablation:
    """Which trainings: every material with every rank and seed, for so many steps of either kind.

    A step of an answer-activated expert takes less time; equal times are different numbers of
    steps.
    """

    materials: tuple[Material, ...]
    ranks: tuple[int, ...] = (2, 8, 16, 32)
    seeds: int = 3
    answer_steps: int = 400
    prompt_steps: int = 400


@dataclass(frozen=True, slots=True)
class Trial:
    """One training and what it was worth on answers that neither taught nor chose it."""

    set: str
    rank: int
    activation: Activation
    seed: int
    loss: float
    exact: float
    steps: int
    seconds: float


def default_materials() -> tuple[str, ...]:
    """Two and two of the knowledge packs, each learned by one expert, and all four."""
    return ("chemistry+http", "constellations+python", "+".join(pack_names()))


def run(plan: Plan, tell: Tell) -> Findings:
    """All materials on the plan's first model; quickly one, with one rank, one seed, 40 steps."""
    materials = tuple(Material.parse(word) for word in default_materials())
    if plan.quick:
        return compare(
            Ablation(materials[:1], ranks=(8,), seeds=1, answer_steps=40, prompt_steps=40),
            plan,
            tell,
        )
    return compare(Ablation(materials), plan, tell)


def compare(ablation: Ablation, plan: Plan, tell: Tell) -> Findings:
    """Train everything that was asked for, on the plan's first model (the pocket one if none)."""
    title = (*plan.models, POCKET)[0]
    language_model = bases.load(title, plan.device)
    splits = {each.name: split_of(each) for each in ablation.materials}
    trials = list(_trials(language_model, splits, ablation, tell))
    rows = summary(trials, {name: METRICS[split.name] for name, split in splits.items()})
    figures = tuple(_figure(row, title, ablation.seeds) for row in rows)
    return Findings(
        figures,
        {
            "model": title,
            "answer_steps": ablation.answer_steps,
            "prompt_steps": ablation.prompt_steps,
            "sets": {name: _sizes(split) for name, split in splits.items()},
            "trials": [asdict(trial) for trial in trials],
            "summary": rows,
        },
    )


def summary(trials: Sequence[Trial], metrics: dict[str, str]) -> list[dict[str, object]]:
    """Per set and rank: both kinds' means over the seeds, and their paired difference.

    `difference` is answer less prompt with its standard error over the seeds; `spread` the
    standard deviation between seeds of whole-prompt training, the noise to compare with.
    """
    rows: list[dict[str, object]] = []
    for name, rank in dict.fromkeys((trial.set, trial.rank) for trial in trials):
        by_kind = {
            kind: np.array(
                [
                    getattr(trial, metrics[name])
                    for trial in sorted(trials, key=lambda trial: trial.seed)
                    if (trial.set, trial.rank, trial.activation) == (name, rank, kind)
                ]
            )
            for kind in ACTIVATIONS
        }
        gap = by_kind["answer"] - by_kind["prompt"]
        several = len(gap) > 1
        rows.append(
            {
                "set": name,
                "metric": metrics[name],
                "rank": rank,
                "answer": float(by_kind["answer"].mean()),
                "prompt": float(by_kind["prompt"].mean()),
                "difference": float(gap.mean()),
                "error": float(gap.std(ddof=1) / len(gap) ** 0.5) if several else None,
                "spread": float(by_kind["prompt"].std(ddof=1)) if several else None,
            }
        )
    return rows


def _figure(row: dict[str, object], title: str, seeds: int) -> Figure:
    difference = row["difference"]
    assert isinstance(difference, float)
    error = "" if row["error"] is None else f", standard error {row['error']:.3f}"
    return Figure(
        "activation",
        f"{row['set']}, rank {row['rank']}, {row['metric']}",
        title,
        difference,
        unit="answer less prompt",
        rounds=seeds,
        is_timed=False,
        note=f"{row['answer']:.3f} less {row['prompt']:.3f}{error}",
    )


def _sizes(split: Split) -> dict[str, object]:
    return {
        "split": split.name,
        "metric": METRICS[split.name],
        "train": len(split.train),
        "selection": split.selection_only,
        "held_out": len(split.held_out),
    }


def _trials(
    language_model: LanguageModel, splits: dict[str, Split], ablation: Ablation, tell: Tell
) -> Iterator[Trial]:
    bank = LoraBank(
        language_model.model,
        language_model.layers,
        capacity_bytes=_BANK_BYTES,
        dtype=language_model.dtype,
    )
    everything = list(product(range(ablation.seeds), splits, ablation.ranks, ACTIVATIONS))
    for number, (seed, name, rank, activation) in enumerate(everything, start=1):
        tell(f"training {number} of {len(everything)}: {name}, rank {rank}, {activation}")
        steps = ablation.answer_steps if activation == "answer" else ablation.prompt_steps
        settings = TrainingSettings(
            optimizer="adamw",  # by which docs/activation.md was measured
            learning_rate=_RATE,
            rank=rank,
            activation=activation,
            max_steps=steps,
            seed=seed,
        )
        score = train_and_score(language_model, bank, splits[name], settings)
        yield Trial(
            name, rank, activation, seed, score.loss, score.exact, score.steps, score.seconds
        )
