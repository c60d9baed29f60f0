"""Builds the pocket model from the fact files: corpus, tokenizer, training, fp16 weights."""

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tokenizers import Tokenizer
from transformers import GenerationConfig, LlamaForCausalLM

from adaptive_moe.pocket.corpus import (
    Row,
    assign_exposures,
    fact_rows,
    reading_material,
    reading_rows,
    smalltalk_rows,
)
from adaptive_moe.pocket.encoding import Encoded, encode_rows
from adaptive_moe.pocket.facts import KnownFact, load_relations
from adaptive_moe.pocket.reading import Material
from adaptive_moe.pocket.tokenizer import save_tokenizer, train_tokenizer
from adaptive_moe.pocket.training import Recipe, Shape, build_model, train

_LOGGER = logging.getLogger(__name__)
READING_ROWS_PER_EPOCH = 36_000


@dataclass(frozen=True, slots=True)
class Corpus:
    """Everything that the model is trained on; reading rows are drawn anew each epoch."""

    facts: tuple[KnownFact, ...]
    fixed_rows: tuple[Row, ...]
    material: Material
    seed: int

    def epoch(self, number: int) -> tuple[Row, ...]:
        """The fixed rows and this epoch's reading rows."""
        fresh = reading_rows(self.material, READING_ROWS_PER_EPOCH, seed=f"{self.seed} {number}")
        return self.fixed_rows + fresh


def make_corpus(*, seed: int) -> Corpus:
    """The corpus that belongs to this seed; the same seed gives the same rows."""
    relations = load_relations()
    facts = assign_exposures(relations, seed=seed)
    rows = fact_rows(facts, relations, seed=seed) + smalltalk_rows(seed=seed)
    return Corpus(facts, rows, reading_material(relations), seed)


def build(folder: Path, facts_file: Path, *, shape: Shape, recipe: Recipe, seed: int) -> None:
    """Train from nothing and write tokenizer, fp16 weights and the record of the facts."""
    corpus = make_corpus(seed=seed)
    _LOGGER.info("%d facts, %d rows", len(corpus.facts), len(corpus.fixed_rows))
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = train_tokenizer(_texts(corpus), vocabulary=shape.vocabulary)
    save_tokenizer(tokenizer, folder, context=shape.context)
    model = build_model(shape, tokenizer, seed=seed)
    _LOGGER.info("%d parameters", sum(parameter.numel() for parameter in model.parameters()))

    def epochs(number: int) -> Sequence[Encoded]:
        return encode_rows(corpus.epoch(number), tokenizer, prompt_weight=recipe.prompt_weight)

    train(model, epochs, recipe=recipe, seed=seed)
    _save_model(model, tokenizer, folder)
    record = {"shape": asdict(shape), "recipe": asdict(recipe), "seed": seed}
    (folder / "build.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    write_facts(corpus.facts, facts_file)


def write_facts(facts: Sequence[KnownFact], path: Path) -> None:
    """One fact a line, in the order of their ids."""
    lines = [json.dumps(asdict(fact), ensure_ascii=False) for fact in facts]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _texts(corpus: Corpus) -> list[str]:
    """What the tokenizer learns from: every turn of the first epoch, and each word by itself."""
    turns = [text for row in corpus.epoch(0) for _, text in row.turns]
    return turns + list(corpus.material.vocabulary) * 3


def _save_model(model: LlamaForCausalLM, tokenizer: Tokenizer, folder: Path) -> None:
    model.generation_config = GenerationConfig(
        do_sample=False,
        max_new_tokens=48,
        bos_token_id=model.config.bos_token_id,
        eos_token_id=model.config.eos_token_id,
        pad_token_id=model.config.pad_token_id,
    )
    model.half().save_pretrained(str(folder))
    _LOGGER.info("wrote %s with %d tokens", folder, tokenizer.get_vocab_size())
