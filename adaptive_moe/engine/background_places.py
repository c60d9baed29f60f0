"""The questions that boundaries are drawn against, and where they lie in the base's state space."""

import hashlib
import json
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from adaptive_moe.engine.kept_arrays import keep_arrays, read_arrays
from adaptive_moe.engine.question_files import GradedQuestion
from adaptive_moe.engine.states import state_reader, state_size
from adaptive_moe.experts.bank import LoraBank
from adaptive_moe.measures.sampling import evenly
from adaptive_moe.models.language_model import LanguageModel
from adaptive_moe.router.boundary import Axes, Outside, Placed
from adaptive_moe.training.phrasings import dress

_PLACES_FILE = "background.safetensors"
_ARRAYS = ("mean", "projection", "places")


def worded(questions: Sequence[GradedQuestion], *, most: int) -> tuple[str, ...]:
    """At most so many of the questions, and every other one worded as loosely as training rows are.

    Without these a boundary would take a loose wording itself for a sign of the expert's domain.
    """
    asked = [each.question for each in evenly(questions, most)]
    chance = random.Random("loose wordings")  # noqa: S311  not for security
    return (*asked, *(dress(question, keep=question, chance=chance) for question in asked[::2]))


def outside_of(
    texts: Sequence[str], language_model: LanguageModel, bank: LoraBank, *, folder: Path | None
) -> Outside:
    """The texts, placed as `keep_places` left it in the folder, or read now."""
    kept = None if folder is None else _kept(folder, texts, language_model)
    if kept is not None:
        return kept
    states = state_reader(language_model, bank)(texts)
    return Outside.shared(Placed(states, tuple(texts)))


def keep_places(
    folder: Path, texts: Sequence[str], language_model: LanguageModel, bank: LoraBank
) -> None:
    """Read where the texts lie and keep it in the folder, if they are enough to share axes."""
    outside = outside_of(texts, language_model, bank, folder=None)
    if outside.axes is None:
        return
    # Both are rounded to float16 already.
    projection, places = outside.axes.projection, outside.prompts.states
    arrays = (outside.axes.mean, projection.astype(np.float16), places.astype(np.float16))
    keep_arrays(
        folder / _PLACES_FILE,
        dict(zip(_ARRAYS, arrays, strict=True)),
        of=_origin(texts, language_model),
    )


def _kept(folder: Path, texts: Sequence[str], language_model: LanguageModel) -> Outside | None:
    found = read_arrays(folder / _PLACES_FILE, of=_origin(texts, language_model))
    if found is None:
        return None
    size = state_size(language_model)
    mean, projection, places = (found.get(name, np.empty(0)) for name in _ARRAYS)
    if (mean.shape, projection.shape[:1], places.shape[:1]) != ((size,), (size,), (len(texts),)):
        return None
    if projection.shape[1:] != places.shape[1:] or not all(map(_is_finite, found.values())):
        return None
    axes = Axes(mean.astype(np.float32), projection.astype(np.float32))
    return Outside(Placed(places.astype(np.float32), tuple(texts)), axes)


def _is_finite(array: np.ndarray) -> bool:
    return bool(np.isfinite(array).all())


def _origin(texts: Sequence[str], language_model: LanguageModel) -> str:
    """Names all that the places depend on."""
    content = [language_model.base_id, language_model.numerics.to_dict(), list(texts)]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
