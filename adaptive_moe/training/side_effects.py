"""What an expert does besides answering its own: to other text, and to stated probabilities."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from adaptive_moe.errors import DataError
from adaptive_moe.measures.calibration import expected_calibration_error
from adaptive_moe.measures.graders import normalised
from adaptive_moe.measures.sampling import evenly
from adaptive_moe.measures.statistics import Interval, cluster_bootstrap, paired_bootstrap
from adaptive_moe.training.guarding import Answerer, Reply
from adaptive_moe.training.held_out import Measure
from adaptive_moe.training.rows import Turn
from adaptive_moe.training.splits import Metric
from adaptive_moe.training.synthesis import AS_WRITTEN, Example

_ASKED = 100  # held-out questions, evenly from all; asking is slower than reading
_BINS = 10
_CONFIDENCE = 0.95
_RESAMPLES = 1000
_FEWEST_TEXTS = 8


@dataclass(frozen=True, slots=True)
class RoutedFigures:
    """Held-out questions asked as anyone would ask them, without the expert and with it.

    Those that exceed the context nobody could ask; they do not count.
    `to_expert` counts those sent to it. `right_*` are absent for free text, of which no answer is
    the right one. `stated_*` is the mean chance that the router gave the answers of being right,
    `calibration_*` their expected calibration error, and `worse` the rise of |stated - right| with
    its interval over facts; absent too where a router has no probabilities.
    """

    questions: int
    to_expert: int
    right_before: float | None = None
    right_after: float | None = None
    stated_before: float | None = None
    stated_after: float | None = None
    calibration_before: float | None = None
    calibration_after: float | None = None
    worse: Interval | None = None


@dataclass(frozen=True, slots=True)
class ForgettingFigures:
    """Loss on general text in nats per token: by the base, as routed, and with the expert forced.

    General text is what the base says unprompted, with its own answers, where nobody gave another.
    `to_expert` counts the texts that routing sends to it; `rise` is what routing costs a text.
    """

    texts: int
    to_expert: int
    loss_before: float
    loss_routed: float
    loss_forced: float
    rise: Interval


def measure_routed(
    held_out: Sequence[Example],
    metric: Metric,
    *,
    before: Answerer,
    after: Answerer,
    seed: int,
) -> RoutedFigures:
    """Ask at most 100 held-out questions with routing automatic."""
    chosen = evenly(held_out, _ASKED)
    replies = zip(chosen, after([each.prompt for each in chosen]), strict=True)
    answered = [(each, reply) for each, reply in replies if reply.was_asked]
    asked, new = [each for each, _ in answered], [reply for _, reply in answered]
    prompts = [each.prompt for each in asked]
    figures = RoutedFigures(len(asked), sum(reply.is_experts for reply in new))
    if metric == "loss" or not asked:
        return figures
    old = before(prompts)
    right_old, right_new = _right(asked, old), _right(asked, new)
    figures = replace(
        figures, right_before=float(right_old.mean()), right_after=float(right_new.mean())
    )
    stated_old, stated_new = _stated(old), _stated(new)
    if stated_old is None or stated_new is None:
        return figures

    def worse(chosen: np.ndarray) -> float:
        gap_old = abs(float(np.mean(stated_old[chosen] - right_old[chosen])))
        return abs(float(np.mean(stated_new[chosen] - right_new[chosen]))) - gap_old

    return replace(
        figures,
        stated_before=float(stated_old.mean()),
        stated_after=float(stated_new.mean()),
        calibration_before=expected_calibration_error(stated_old, right_old, bins=_BINS),
        calibration_after=expected_calibration_error(stated_new, right_new, bins=_BINS),
        worse=cluster_bootstrap(
            worse,
            [each.fact for each in asked],
            confidence=_CONFIDENCE,
            resamples=_RESAMPLES,
            seed=seed,
        ),
    )


def measure_forgetting(
    measure: Measure, general: Sequence[Example], answer: Answerer
) -> ForgettingFigures:
    """Cross-entropy on general text; `answer` tells which prompts are sent to the expert."""
    texts, old, new = measure.scores(general)
    tokens = np.array([score.tokens for score in old])
    before, after = (np.array([score.loss for score in scores]) for scores in (old, new))
    sent = np.array([reply.is_experts for reply in answer([text.prompt for text in texts])])
    routed = np.where(sent, after, before)
    return ForgettingFigures(
        texts=len(texts),
        to_expert=int(sent.sum()),
        loss_before=float(before.sum() / tokens.sum()),
        loss_routed=float(routed.sum() / tokens.sum()),
        loss_forced=float(after.sum() / tokens.sum()),
        rise=paired_bootstrap(
            (routed - before) / tokens,
            confidence=_CONFIDENCE,
            resamples=_RESAMPLES,
            seed=measure.seed,
        ),
    )


def general_texts(path: Path) -> tuple[Example, ...]:
    """The paragraphs of a text file: a first sentence as the prompt, the others as its answer.

    Paragraphs of one sentence are left out. Raises DataError for an unreadable file or fewer
    than 8 paragraphs that are left.
    """
    try:
        content = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: this general text cannot be read: {error}") from error
    texts = []
    for number, paragraph in enumerate(content.split("\n\n"), start=1):
        first, _, rest = " ".join(paragraph.split()).partition(". ")
        if rest:
            prompt: tuple[Turn, ...] = (("user", f"{first}."),)
            texts.append(Example(prompt, rest, f"text {number}", AS_WRITTEN, path.name, number))
    if len(texts) < _FEWEST_TEXTS:
        raise DataError(
            f"{path}: {len(texts)} paragraphs of two sentences or more, at least {_FEWEST_TEXTS} "
            "are needed to measure forgetting; part paragraphs by an empty line"
        )
    return tuple(texts)


def _right(asked: Sequence[Example], replies: Sequence[Reply]) -> np.ndarray:
    pairs = zip(asked, replies, strict=True)
    return np.array([normalised(reply.text, each.answer) for each, reply in pairs], dtype=float)


def _stated(replies: Sequence[Reply]) -> np.ndarray | None:
    """The chances of being right; None unless all have one."""
    found = [reply.p_correct for reply in replies if reply.p_correct is not None]
    return np.array(found) if len(found) == len(replies) else None
