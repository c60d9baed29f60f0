"""Seconds of a training: our steps against two trainers over PEFT, with the same mathematics."""

import random
from collections.abc import Iterator
from dataclasses import replace

import torch

from adaptive_moe.config.settings import TrainingSettings
from adaptive_moe.experiments import bases, interleaved
from adaptive_moe.experiments.figures import Figure, Findings
from adaptive_moe.experiments.interleaved import Comparison, Variant
from adaptive_moe.experiments.plan import POCKET, Plan, Tell
from adaptive_moe.experiments.training_work import OurTraining, PeerTraining, Trained, Work
from adaptive_moe.experts.bank import LoraBank
from adaptive_moe.models.language_model import LanguageModel
from adaptive_moe.pocket import pack_names, pack_path
from adaptive_moe.training.encoding import EncodedExample, encode_examples
from adaptive_moe.training.material import read_material
from adaptive_moe.training.synthesis import synthesise

_EXAMPLES, _STEPS = 128, 24  # every example six times, as a pack's are
_BATCH, _MICRO = 32, 8  # four passes a step
_ANSWER, _PROMPT = 16, 64  # tokens of the long examples, on average
_SPREAD = 0.25
_BANK_BYTES = 8 << 20
LOSS_TOLERANCE = 1e-6
"""Nats that losses of the same steps may differ by."""
_COMPARED = 4  # steps whose losses are judged
_ROUNDS = 12
_RATE = 3e-3


def run(plan: Plan, tell: Tell) -> Findings:
    """Both kinds of experts on the pocket model: a pack's own examples, and longer prompts."""
    model = bases.load(POCKET, plan.device)
    bank = LoraBank(model.model, model.layers, capacity_bytes=_BANK_BYTES, dtype=model.dtype)
    settings = TrainingSettings(
        optimizer="adamw",
        learning_rate=_RATE,
        rank=plan.rank,
        max_steps=4 if plan.quick else _STEPS,
        batch_size=_BATCH,
        micro_batch_size=_MICRO,
        warmup_steps=2,
        seed=plan.seed,
    )
    upper = settings.model_copy(update={"upper_share": 0.5, "rank": 2 * plan.rank})
    whole = Work(model, examples_of_a_pack(model, plan.seed), "prompt", settings)
    cached = Work(model, _long(model, plan.seed), "answer", settings)
    halved = replace(cached, settings=upper)
    try:
        figures = [
            *_compare("identical_maths", whole, whole, bank, plan, tell, target=1 / 1.6),
            *_compare("cached_prompts", cached, cached, bank, plan, tell, target=1 / 2.5),
            *_compare("upper_blocks", halved, cached, bank, plan, tell, target=1 / 3),
        ]
    finally:
        bank.close()
    return Findings(tuple(figures), {})


def _compare(
    row: str, own: Work, others: Work, bank: LoraBank, plan: Plan, tell: Tell, *, target: float
) -> Iterator[Figure]:
    """First that both do the same with our work, then how long either takes with its own."""
    ours, peer = OurTraining(own, bank), PeerTraining(others)
    tell(f"{row}: comparing the steps")
    same = peer if own is others else PeerTraining(own)
    yield from _apart(row, ours.run(), same.run())

    def timed(name: str, training: OurTraining | PeerTraining) -> Variant:
        return Variant(name, _BATCH, lambda: len(training.run().losses))

    variant = timed("our trainer", ours)
    comparisons = [Comparison(row, variant, timed("Trainer and PEFT", peer), target=target)]
    try:
        another = PeerTraining(others, "SFTTrainer")
    except ImportError:
        yield Figure.failed(row, "our trainer beside trl", POCKET, "trl is not installed")
    else:
        comparisons.append(Comparison(row, variant, timed("SFTTrainer and PEFT", another)))
    seconds = interleaved.measure(
        comparisons,
        rounds=min(plan.most_rounds, _ROUNDS),
        seed=plan.seed,
        clock=interleaved.stopwatch(own.language_model.device),
        tell=lambda text: tell(f"{row}: {text}"),
    )
    yield from interleaved.figures(comparisons, seconds, model=POCKET)


def _apart(row: str, ours: Trained, theirs: Trained) -> Iterator[Figure]:
    yield Figure(
        row,
        f"losses of the first {_COMPARED} steps, largest difference",
        POCKET,
        losses_apart(ours, theirs, steps=_COMPARED),
        unit="nats",
        target=LOSS_TOLERANCE,
        is_timed=False,
        note=f"up to {losses_apart(ours, theirs):.1e} in {len(ours.losses)} steps, as every update "
        f"carries rounding on; losses from {ours.losses[0]:.3f} to {ours.losses[-1]:.3f}",
    )
    yield Figure(
        row,
        "factors after the last step, relative difference",
        POCKET,
        factors_apart(ours, theirs),
        is_timed=False,
    )


def losses_apart(ours: Trained, theirs: Trained, *, steps: int | None = None) -> float:
    """The largest difference of a step's loss in nats, of all steps or the first ones."""
    pairs = zip(ours.losses, theirs.losses, strict=True)
    return max([abs(a - b) for a, b in pairs][:steps])


def factors_apart(ours: Trained, theirs: Trained) -> float:
    """The norm of all factors' differences over that of theirs."""
    moved = torch.cat([_flat(tensor) for tensor in ours.factors.values()])
    other = torch.cat(
        [
            _flat(tensor if name.startswith("a.") else tensor.T)
            for name, tensor in theirs.factors.items()
        ]
    )
    return float((moved - other).norm() / other.norm())


def _flat(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.double().flatten()


def examples_of_a_pack(language_model: LanguageModel, seed: int) -> tuple[EncodedExample, ...]:
    """Training questions of the first knowledge pack, as an expert on it is taught them."""
    material = read_material([pack_path(pack_names()[0])])
    examples = list(synthesise(material.passages, seed=seed))
    chosen = random.Random(f"speed {seed}").sample(examples, _EXAMPLES)  # noqa: S311
    return encode_examples(language_model, chosen).examples


def _long(language_model: LanguageModel, seed: int) -> tuple[EncodedExample, ...]:
    """Words at random, four of the prompt to one of the answer, lengths spread by a quarter."""
    chance = random.Random(f"long {seed}")  # noqa: S311
    known = range(min(language_model.vocab_size, 4096))
    special = {*language_model.header_ids, *language_model.eos_ids, language_model.pad_id}
    words = [token for token in known if token not in special]
    end = (min(language_model.eos_ids),)

    def draw(mean: int) -> tuple[int, ...]:
        length = round(mean * chance.uniform(1 - _SPREAD, 1 + _SPREAD))
        return tuple(chance.choice(words) for _ in range(length))

    return tuple(EncodedExample(draw(_PROMPT), draw(_ANSWER) + end) for _ in range(_EXAMPLES))
