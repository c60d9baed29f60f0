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

MOST_QUESTIONS = 3000
_PLACES_FILE = "background.safetensors"
_ARRAYS = {"mean": "float32", "projection": "float16", "places": "float16"}
_FORMAT = 1  # another one when places are found in another way


def worded(questions: Sequence[GradedQuestion]) -> tuple[str, ...]:
    """At most 3,000 of the questions, and every other one worded as loosely as training rows are.

    Without these a boundary would take a loose wording itself for a sign of the expert's domain.
    """
    asked = [each.question for each in evenly(questions, MOST_QUESTIONS)]
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
    """Read where the texts lie and keep it in the folder, if they are enough to share axes.

    What was kept of others goes.
    """
    file = folder / _PLACES_FILE
    file.unlink(missing_ok=True)
    outside = outside_of(texts, language_model, bank, folder=None)
    if outside.axes is None:
        return
    # Places and projection are rounded to float16 already.
    found = (outside.axes.mean, outside.axes.projection, outside.prompts.states)
    arrays = {
        name: array.astype(dtype)
        for (name, dtype), array in zip(_ARRAYS.items(), found, strict=True)
    }
    keep_arrays(file, arrays, of=_origin(texts, language_model))


def _kept(folder: Path, texts: Sequence[str], language_model: LanguageModel) -> Outside | None:
    found = read_arrays(folder / _PLACES_FILE, of=_origin(texts, language_model))
    if found is None or {name: str(array.dtype) for name, array in found.items()} != _ARRAYS:
        return None
    mean, projection, places = (found[name] for name in _ARRAYS)
    size, axes = state_size(language_model), places.shape[-1] if places.ndim else 0
    shapes = (mean.shape, projection.shape, places.shape)
    if axes < 1 or shapes != ((size,), (size, axes), (len(texts), axes)):
        return None
    if not all(map(_is_finite, found.values())):
        return None
    seen = Placed(places.astype(np.float32), tuple(texts))
    return Outside(seen, Axes(mean, projection.astype(np.float32)))


def _is_finite(array: np.ndarray) -> bool:
    return bool(np.isfinite(array).all())


def _origin(texts: Sequence[str], language_model: LanguageModel) -> str:
    """Names all that the places depend on."""
    base = [language_model.base_id, language_model.numerics.to_dict(), language_model.state_layers]
    content = [_FORMAT, base, list(texts)]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
