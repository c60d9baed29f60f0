"""Asks again where it is unclear whether an answer is right: do sampled answers agree with it?"""

from collections.abc import Sequence
from typing import final

from transformers import GenerationConfig

from adaptive_moe.engine.openings import Opening, Openings
from adaptive_moe.experts.cache import ExpertCache
from adaptive_moe.experts.pool import Mixture
from adaptive_moe.models.decoding import decode
from adaptive_moe.models.language_model import EncodedPrompt, LanguageModel
from adaptive_moe.models.prefilling import Prefill, expand
from adaptive_moe.router.scores import consistency

AGREEMENT = 0.5
"""Samples that disagree by more than this do not know the answer."""

_ANSWER_TOKENS = 32


@final
class SecondLook:
    """Samples `samples` answers to a prompt on its own prefill, by those who answered it."""

    def __init__(
        self, language_model: LanguageModel, cache: ExpertCache, openings: Openings, *, samples: int
    ) -> None:
        self._language_model = language_model
        self._cache = cache
        self._openings = openings
        self._samples = samples

    def disagreement(self, filled: Prefill, mixture: Mixture, text: str) -> float:
        """How far sampled answers to one prompt are from its answer `text`, 0 to 1.

        See `consistency`. The same prompt is sampled alike every time.
        """
        several = expand(filled, self._samples)
        with (
            self._cache.hold({expert_id for expert_id, _ in mixture}),
            self._openings.opened(several, [mixture] * self._samples) as opening,
        ):
            texts = drawn_answers(self._language_model, opening, several.prompts)
        return consistency(texts, reference=text)


def drawn_answers(
    language_model: LanguageModel, opening: Opening, prompts: Sequence[EncodedPrompt]
) -> list[str]:
    """Short answers drawn at temperature 1, one for each row; equal prompts draw differently."""
    *_, last = decode(
        language_model,
        opening.cache,
        opening.first_logits,
        attention_mask=opening.attention_mask,
        prompts=prompts,
        generation=GenerationConfig(
            do_sample=True, temperature=1.0, top_k=0, max_new_tokens=_ANSWER_TOKENS
        ),
        seed=0,
        blend=opening.blend,
    )
    assert last.completions is not None
    return [completion.text for completion in last.completions]
