"""One training of a study, and what it was worth on answers that neither taught nor chose it."""

from dataclasses import dataclass
from pathlib import Path

from adaptive_moe.config.settings import TrainingSettings
from adaptive_moe.experts.bank import LoraBank
from adaptive_moe.models.language_model import LanguageModel
from adaptive_moe.models.linear_layers import upper_blocks
from adaptive_moe.pocket import pack_path
from adaptive_moe.training.answer_loss import AnswerLoss
from adaptive_moe.training.encoding import encode_examples
from adaptive_moe.training.material import read_material
from adaptive_moe.training.ranks import plan_ranks
from adaptive_moe.training.splits import METRICS, Split, split_examples
from adaptive_moe.training.steps import evaluate
from adaptive_moe.training.synthesis import synthesise
from adaptive_moe.training.trainer import train_lora


@dataclass(frozen=True, slots=True)
class Material:
    """What one expert is trained on; `limit` is the greatest number of rows."""

    name: str
    paths: tuple[Path, ...]
    limit: int | None = None

    @classmethod
    def parse(cls, word: str) -> "Material":
        """PACK, PACK+PACK, NAME=PATH or NAME=PATH:ROWS."""
        name, _, place = word.partition("=")
        path, _, rows = place.partition(":")
        paths = (Path(path),) if path else tuple(pack_path(pack) for pack in name.split("+"))
        return cls(name, paths, int(rows) if rows else None)


@dataclass(frozen=True, slots=True)
class Score:
    """Nats per token and the share of exact answers on the gate's side of the split."""

    loss: float
    exact: float
    steps: int
    seconds: float


def split_of(material: Material) -> Split:
    """The same examples on the same sides for every trial."""
    read = read_material(material.paths, limit=material.limit)
    return split_examples(read, synthesise(read.passages, seed=0), TrainingSettings())


def train_and_score(
    language_model: LanguageModel, bank: LoraBank, split: Split, settings: TrainingSettings
) -> Score:
    """Train as the settings say, choose weights on the selection side, score them held out."""
    plan = plan_ranks(
        upper_blocks(language_model.layers, settings.upper_share),
        strategy=settings.ranks,
        reference_rank=settings.rank,
        scaling=settings.scaling,
        alpha=settings.alpha,
        seed=settings.seed,
    )
    result = train_lora(
        language_model,
        bank,
        plan,
        split.train,
        held_out=split.selection,
        settings=settings,
        seed=settings.seed,
        metric=METRICS[split.name],
    )
    held_out = AnswerLoss(
        language_model,
        bank,
        encode_examples(language_model, split.held_out).examples,
        activation=settings.activation,
        prompt_cache_bytes=0,
    )
    found = evaluate(result.weights, held_out, settings)
    return Score(found.loss, found.exact, result.steps, result.seconds)
