"""What the base says unprompted: the yardstick for a base whose router was never trained."""

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from transformers import GenerationConfig

from adaptive_moe.engine.grading import BaseGrader
from adaptive_moe.engine.kept_arrays import keep_arrays, keep_file, read_arrays
from adaptive_moe.engine.question_files import GradedQuestion, read_questions, write_questions
from adaptive_moe.errors import DataError
from adaptive_moe.experts.bank import LoraBank
from adaptive_moe.models.decoding import (
    Completion,
    DecodingStep,
    decode,
    forward,
    new_cache,
)
from adaptive_moe.models.language_model import EncodedPrompt, LanguageModel
from adaptive_moe.router.scores import mean_entropy

_SAMPLES = 64
_PROMPT_TOKENS = 24
_ANSWER_TOKENS = 16
_BATCH = 16
_FORMAT = 1  # of the file that keeps references; another one when what they hold changes
_ENTROPIES = ("first_token_entropy", "mean_entropy")
_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class References:
    """How the base scores prompts that it made up itself; entropies in nats.

    Untrained routing asks where a prompt's entropy stands among these.
    """

    states: Float[np.ndarray, "prompt state"]
    first_token_entropy: tuple[float, ...]
    mean_entropy: tuple[float, ...]


def references(language_model: LanguageModel, bank: LoraBank, *, folder: Path) -> References:
    """The references of this base; they are made once and kept in `folder`."""
    file = folder / f"{_stem(language_model)}-references-{_FORMAT}.safetensors"
    kept = read_arrays(file)
    if kept is not None:
        return References(kept["states"], *(tuple(kept[name].tolist()) for name in _ENTROPIES))
    made = _references(language_model, bank)
    keep_arrays(file, {name: np.array(getattr(made, name)) for name in ("states", *_ENTROPIES)})
    return made


def sampled_questions(
    language_model: LanguageModel, bank: LoraBank, *, folder: Path, count: int
) -> tuple[GradedQuestion, ...]:
    """`count` texts the base says unprompted, each with its greedy answer, from `folder` or new."""
    file = folder / f"{_stem(language_model)}-{count}.jsonl"
    if file.is_file():
        try:
            return read_questions([file])
        except DataError as error:
            _LOGGER.warning("%s is made anew: %s", file, error)
    questions = _sampled(language_model, bank, count)
    keep_file(file, lambda path: write_questions(path, questions))
    return questions


def _references(language_model: LanguageModel, bank: LoraBank) -> References:
    questions = _sampled(language_model, bank, _SAMPLES)
    rows = BaseGrader(language_model, bank).rows(questions, max_new_tokens=_ANSWER_TOKENS)
    return References(
        states=np.stack([row.evidence.states for row in rows]),
        first_token_entropy=tuple(row.evidence.scores["first_token_entropy"] for row in rows),
        mean_entropy=tuple(mean_entropy(row.trace) for row in rows),
    )


def _sampled(
    language_model: LanguageModel, bank: LoraBank, count: int
) -> tuple[GradedQuestion, ...]:
    made: dict[str, GradedQuestion] = {}
    grader = BaseGrader(language_model, bank)
    for seed in range(4 * count // _BATCH + 1):
        texts = [
            text for text in _sample_texts(language_model, bank, seed=seed) if text not in made
        ]
        answers = grader.answers(texts, max_new_tokens=_ANSWER_TOKENS)
        pairs = zip(texts, answers, strict=True)
        made |= {
            text: GradedQuestion(text, answer, None, text)
            for text, answer in pairs
            if answer.strip()
        }
        if len(made) >= count:
            break
    return tuple(made.values())[:count]


def _stem(language_model: LanguageModel) -> str:
    numerics = language_model.numerics
    return f"{language_model.base_id[-16:]}-{numerics.dtype}-{numerics.quantization}"


def _sample_texts(language_model: LanguageModel, bank: LoraBank, *, seed: int) -> list[str]:
    """Texts drawn from the bare model, given nothing but the start of a text."""
    tokenizer = language_model.tokenizer
    start = tokenizer.bos_token_id
    start = language_model.chat_format.end_id if start is None else start
    prompts = [EncodedPrompt((start,), (), "")] * _BATCH
    ids = torch.full((_BATCH, 1), start, device=language_model.device)
    with bank.activate([()] * _BATCH), torch.inference_mode():
        cache = new_cache(language_model)
        logits = forward(language_model, ids, cache=cache, attention_mask=None)
        answers = _last(
            decode(
                language_model,
                cache,
                logits,
                attention_mask=torch.ones_like(ids),
                prompts=prompts,
                generation=GenerationConfig(
                    do_sample=True, max_new_tokens=_PROMPT_TOKENS, min_new_tokens=2
                ),
                seed=seed,
            )
        )
    return list(dict.fromkeys(text for answer in answers if (text := answer.text.strip())))


def _last(steps: Iterable[DecodingStep]) -> tuple[Completion, ...]:
    completions: tuple[Completion, ...] = ()
    for step in steps:
        completions = step.completions or completions
    return completions
