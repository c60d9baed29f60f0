"""Measures the stored pocket model: exact match per exposure and phrasing, packs, entropies."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from adaptive_moe.pocket.attributes import load_attributes
from adaptive_moe.pocket.facts import EXPOSURES, KnownFact, load_facts, questions
from adaptive_moe.pocket.packs import load_questions, pack_names
from adaptive_moe.pocket.paths import FACTS_FILE, MODEL
from adaptive_moe.pocket.reading import held_out_tasks
from adaptive_moe.pocket.words import general_words

_LOGGER = logging.getLogger(__name__)
_MAX_NEW_TOKENS = 32
_BATCH = 256


@dataclass(frozen=True, slots=True)
class Asked:
    """One question with its true answer, and what the model made of it.

    `first_token_entropy` is in nats, over the raw logits of the first answer token.
    """

    question: str
    answer: str
    given: str
    first_token_entropy: float

    @property
    def is_right(self) -> bool:
        """Exact match after trimming space at both ends."""
        return self.given.strip() == self.answer


@dataclass(frozen=True, slots=True)
class Figures:
    """What the model card states; accuracies are shares of exactly right answers.

    Keys are exposures or names of domains and packs; entropies are medians in nats. "Wanted" are
    the tasks to name what a question asks for, in wordings that no training row has.
    """

    facts: int
    domains: int
    parameters: int
    facts_by_exposure: dict[str, int]
    accuracy_trained: dict[str, float]
    accuracy_held_out: dict[str, float]
    accuracy_seen_1_4_16: float
    accuracy_64_by_domain: dict[str, float]
    accuracy_packs: dict[str, float]
    accuracy_wanted_held_out: float
    entropy_by_exposure: dict[str, float]
    entropy_packs: dict[str, float]
    auroc_of_entropy_64_against_packs: float


def measure(folder: Path = MODEL) -> Figures:
    """Ask every fact in every phrasing and every pack question, greedily, of the stored weights."""
    model, tokenizer = load(folder)
    facts = load_facts(FACTS_FILE if folder == MODEL else folder / FACTS_FILE.name)
    trained = _ask_facts(model, tokenizer, facts, held_out=False)
    held_out = _ask_facts(model, tokenizer, facts, held_out=True)
    packs = {name: _ask_pack(model, tokenizer, name) for name in pack_names()}
    both = {fact: (*trained[fact], *held_out[fact]) for fact in facts}
    wanted = ask(model, tokenizer, held_out_tasks(load_attributes(), general_words()))
    known = _pool(both, exposures=(64,))
    unknown = [asked for rows in packs.values() for asked in rows]
    return Figures(
        facts=len(facts),
        domains=len({fact.domain for fact in facts}),
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        facts_by_exposure={str(e): sum(f.exposure == e for f in facts) for e in EXPOSURES},
        accuracy_trained={str(e): accuracy(_pool(trained, exposures=(e,))) for e in EXPOSURES},
        accuracy_held_out={str(e): accuracy(_pool(held_out, exposures=(e,))) for e in EXPOSURES},
        accuracy_seen_1_4_16=accuracy(_pool(both, exposures=(1, 4, 16))),
        accuracy_64_by_domain=_by_domain(both),
        accuracy_packs={name: accuracy(rows) for name, rows in packs.items()},
        accuracy_wanted_held_out=accuracy(wanted),
        entropy_by_exposure={str(e): _entropy(_pool(both, exposures=(e,))) for e in EXPOSURES},
        entropy_packs={name: _entropy(rows) for name, rows in packs.items()},
        auroc_of_entropy_64_against_packs=_auroc(known, unknown),
    )


def load(folder: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The stored weights in fp32, ready to answer, and their tokenizer; needs no network."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    return model.eval(), AutoTokenizer.from_pretrained(folder, local_files_only=True)


def ask(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    pairs: Sequence[tuple[str, str]],
) -> list[Asked]:
    """Answer (question, true answer) pairs through the chat template, greedily, in order."""
    order = sorted(range(len(pairs)), key=lambda index: len(pairs[index][0]))
    answered: dict[int, Asked] = {}
    for start in range(0, len(order), _BATCH):
        indices = order[start : start + _BATCH]
        asked = _ask_batch(model, tokenizer, [pairs[index] for index in indices])
        answered.update(zip(indices, asked, strict=True))
    return [answered[index] for index in range(len(pairs))]


def accuracy(rows: Sequence[Asked]) -> float:
    """The share of exactly right answers, rounded to four places; raises on no rows."""
    return round(fmean(asked.is_right for asked in rows), 4)


def _ask_batch(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    pairs: Sequence[tuple[str, str]],
) -> list[Asked]:
    prompts = [
        str(
            tokenizer.apply_chat_template(
                [{"role": "user", "content": question}], add_generation_prompt=True, tokenize=False
            )
        )
        for question, _ in pairs
    ]
    inputs = tokenizer(prompts, add_special_tokens=False, padding=True, return_tensors="pt")
    with torch.no_grad():
        output: Any = model.generate(  # type: ignore[operator]
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            do_sample=False,
            max_new_tokens=_MAX_NEW_TOKENS,
            return_dict_in_generate=True,
            output_logits=True,
        )
    log_probabilities = torch.log_softmax(output.logits[0].float(), dim=-1)
    entropies = -(log_probabilities.exp() * log_probabilities).sum(dim=-1)
    answers = output.sequences[:, torch.as_tensor(inputs["input_ids"]).shape[1] :]
    texts = tokenizer.batch_decode(answers, skip_special_tokens=True)
    return [
        Asked(question, answer, text, float(entropy))
        for (question, answer), text, entropy in zip(pairs, texts, entropies, strict=True)
    ]


def _ask_facts(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    facts: Sequence[KnownFact],
    *,
    held_out: bool,
) -> dict[KnownFact, tuple[Asked, ...]]:
    asked = [(fact, text) for fact in facts for text in questions(fact, held_out=held_out)]
    _LOGGER.info("asking %d %s questions", len(asked), "held-out" if held_out else "trained")
    answers = ask(model, tokenizer, [(text, fact.object) for fact, text in asked])
    grouped: dict[KnownFact, list[Asked]] = {fact: [] for fact in facts}
    for (fact, _), answer in zip(asked, answers, strict=True):
        grouped[fact].append(answer)
    return {fact: tuple(rows) for fact, rows in grouped.items()}


def _ask_pack(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, name: str) -> list[Asked]:
    return ask(model, tokenizer, [(row.question, row.answer) for row in load_questions(name)])


def _pool(rows: Mapping[KnownFact, Iterable[Asked]], *, exposures: Sequence[int]) -> list[Asked]:
    return [asked for fact, group in rows.items() if fact.exposure in exposures for asked in group]


def _by_domain(rows: Mapping[KnownFact, Iterable[Asked]]) -> dict[str, float]:
    domains = sorted({fact.domain for fact in rows})
    return {
        domain: accuracy(
            _pool({f: group for f, group in rows.items() if f.domain == domain}, exposures=(64,))
        )
        for domain in domains
    }


def _entropy(rows: Sequence[Asked]) -> float:
    return round(median(asked.first_token_entropy for asked in rows), 4)


def _auroc(sure: Sequence[Asked], unsure: Sequence[Asked]) -> float:
    """The probability that an unknown question has more entropy than a known one."""
    known = torch.tensor([asked.first_token_entropy for asked in sure]).sort().values
    unknown = torch.tensor([asked.first_token_entropy for asked in unsure])
    below = torch.searchsorted(known, unknown, right=False)
    return round(float(below.double().mean()) / len(known), 4)
