"""What this model's context cannot take is told and counted before anything is split."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from adaptive_moe.errors import DataError, PromptError
from adaptive_moe.models.language_model import LanguageModel
from adaptive_moe.training.encoding import encode_example
from adaptive_moe.training.interruption import stop_if_cancelled
from adaptive_moe.training.material import Material, material_digest
from adaptive_moe.training.splits import row_example
from adaptive_moe.training.stages import Place, Stage, count_reasons
from adaptive_moe.training.synthesis import Example, examples_hash


@dataclass(frozen=True, slots=True)
class Fitted:
    """Material and examples that can be taught; the others joined the material's `dropped`.

    `cut` are the places of those that stay and lose the left end of their prompt.
    """

    material: Material
    examples: tuple[Example, ...]
    cut: tuple[Place, ...]
    stage: Stage


def fit_to_context(
    language_model: LanguageModel, material: Material, examples: Sequence[Example]
) -> Fitted:
    """Drop rows and examples that cannot be encoded; they would fill a split and teach nothing.

    Many examples of one line that are dropped, or cut, alike are one place.
    """
    rows = _Side(language_model, [row_example(row) for row in material.rows])
    others = _Side(language_model, examples)
    dropped = (*rows.dropped, *others.dropped)
    cut = (*rows.cut, *others.cut)
    left = [row for row, fits in zip(material.rows, rows.fits, strict=True) if fits]
    stage = Stage(
        "encoding",
        {"rows": len(material.rows), "examples": len(examples)},
        {"rows": len(left), "examples": len(others.kept), "cut prompts": len(cut)},
        examples_hash((*rows.kept, *others.kept)),
        count_reasons(reason for *_, reason in dropped),
    )
    fitted = replace(
        material,
        rows=tuple(left),
        dropped=(*material.dropped, *dict.fromkeys(dropped)),
        digest=material_digest(left, material.passages),
    )
    return Fitted(fitted, tuple(others.kept), tuple(dict.fromkeys(cut)), stage)


class _Side:
    """Examples, whether each can be encoded, and what has to be said about them."""

    def __init__(self, language_model: LanguageModel, examples: Sequence[Example]) -> None:
        self.fits: list[bool] = []
        self.dropped: list[Place] = []
        self.cut: list[Place] = []
        for each in examples:
            stop_if_cancelled()
            self.fits.append(self._look(language_model, each))
        self.kept = [each for each, fits in zip(examples, self.fits, strict=True) if fits]

    def _look(self, language_model: LanguageModel, example: Example) -> bool:
        try:
            encoded, is_cut = encode_example(language_model, example)
        except (DataError, PromptError) as error:
            self.dropped.append((example.file, example.line, str(error)))
            return False
        if is_cut:
            left = f"only the last {len(encoded.prompt_ids):,} tokens of its prompt fit the context"
            self.cut.append((example.file, example.line, left))
        return True
