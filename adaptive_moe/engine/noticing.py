"""Hands every answer to the gap detector, and checks suspected gaps by asking the base again."""

import logging
from collections.abc import Sequence
from typing import final

import numpy as np
from jaxtyping import Float
from transformers import GenerationConfig

from adaptive_moe.config.settings import GapSettings
from adaptive_moe.engine.events import Answer
from adaptive_moe.errors import StoreError
from adaptive_moe.experts.bank import LoraBank
from adaptive_moe.gaps.detector import GapDetector
from adaptive_moe.gaps.evidence import Observation
from adaptive_moe.gaps.ledger import Gap
from adaptive_moe.gaps.states import GapState
from adaptive_moe.models.decoding import decode, expand, prefill
from adaptive_moe.models.language_model import LanguageModel
from adaptive_moe.router.scores import consistency

logger = logging.getLogger(__name__)

_AGREEMENT = 0.5  # samples that disagree by more than this do not know the answer


@final
class GapWatch:
    """The loop between answers and the ledger for one base."""

    def __init__(
        self,
        language_model: LanguageModel,
        bank: LoraBank,
        detector: GapDetector,
        settings: GapSettings,
    ) -> None:
        self._language_model = language_model
        self._bank = bank
        self._detector = detector
        self._settings = settings
        self._has_warned = False

    def watch(
        self,
        answer: Answer,
        *,
        prompt: str,
        vector: Float[np.ndarray, " dimension"],
        session: str,
    ) -> tuple[str | None, Gap | None, bool]:
        """Note one answer. Returns what names its observation, its gap, and whether that changed.

        An answer is worth more than its entry: where the ledger cannot be written there is a
        warning, once, and the answer stays unnoted (None).
        """
        try:
            return self._note(answer, prompt=prompt, vector=vector, session=session)
        except StoreError as error:
            level = logging.DEBUG if self._has_warned else logging.WARNING
            logger.log(level, "answers are not noted as evidence for gaps: %s", error)
            self._has_warned = True
            return None, None, False

    def check(self, gap_id: int) -> Gap | None:
        """Settle the unchecked prompts of a gap by consistency; the gap if that changed it."""
        limit = self._settings.consistency_members
        members = self._detector.unchecked_members(gap_id, limit=limit)
        if not members:
            return None
        disagreements = self.disagreements([prompt for _, prompt in members])
        gap: Gap | None = None
        for (observation_id, _), disagreement in zip(members, disagreements, strict=True):
            agrees = disagreement <= _AGREEMENT
            gap = self._detector.outcome(observation_id, correct=agrees, origin="consistency")
        return gap

    def disagreements(self, prompts: Sequence[str]) -> list[float]:
        """How much the base's sampled answers to each prompt differ, 0 to 1 (all different)."""
        samples = self._settings.consistency_samples
        encoded = [self._language_model.encode(prompt) for prompt in prompts]
        generation = GenerationConfig(do_sample=True, temperature=1.0, max_new_tokens=32)
        with self._bank.activate([()] * (len(prompts) * samples)):
            filled = expand(prefill(self._language_model, encoded), samples)
            texts: list[str] = []
            for step in decode(
                self._language_model,
                filled.header_cache,
                filled.first_logits,
                attention_mask=filled.attention_mask,
                prompts=filled.prompts,
                generation=generation,
                seed=0,
            ):
                if step.completions is not None:
                    texts = [completion.text for completion in step.completions]
        groups = [texts[start : start + samples] for start in range(0, len(texts), samples)]
        return [consistency(group) for group in groups]

    def _note(
        self,
        answer: Answer,
        *,
        prompt: str,
        vector: Float[np.ndarray, " dimension"],
        session: str,
    ) -> tuple[str, Gap | None, bool]:
        """Write the answer down, and check the gap that it makes suspected.

        Prompts that no expert took are grouped by where they lie, whatever domain is nearest. A
        gap that becomes suspected is checked on the spot: the base answers its prompts again
        several times, and answers that contradict each other count as failures.
        """
        noticed = self._detector.observe(
            Observation(
                prompt=prompt,
                answer=answer.text,
                p_correct=answer.confidence.p_correct,
                low_confidence=answer.low_confidence,
                domain=answer.route.domain if answer.route.kind == "experts" else None,
                vector=vector,
                session=session,
                served_by=tuple(expert.name for expert in answer.route.experts),
            )
        )
        gap, changed = noticed.gap, noticed.changed
        if gap is None or gap.state is not GapState.SUSPECTED:
            return noticed.reference, gap, changed
        checked = self.check(gap.id)
        return noticed.reference, checked or gap, changed or checked is not None
