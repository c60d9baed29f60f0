"""Hands every answer to the gap detector, and checks suspected gaps by asking the base again."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import final

from adaptive_moe.config.settings import GapSettings
from adaptive_moe.engine.events import Answer, Answered, GapReference
from adaptive_moe.engine.openings import Opening
from adaptive_moe.engine.risk_watch import RiskWatch
from adaptive_moe.engine.routing_misses import RoutingMisses
from adaptive_moe.engine.second_look import AGREEMENT, drawn_answers
from adaptive_moe.engine.shelf import ExpertShelf
from adaptive_moe.errors import StoreError
from adaptive_moe.experts.bank import LoraBank
from adaptive_moe.gaps.detector import GapDetector
from adaptive_moe.gaps.evidence import Observation
from adaptive_moe.gaps.ledger import Gap
from adaptive_moe.gaps.states import GapState
from adaptive_moe.models.language_model import LanguageModel, Prompt
from adaptive_moe.models.prefilling import expand, prefill
from adaptive_moe.router.scores import consistency

Unchecked = tuple[int, str]
"""An observation of a gap without an outcome, and its prompt."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Noticed:
    """A finished answer with what names its entry, its gap, and whether that gap changed by it."""

    answer: Answer
    gap: Gap | None = None
    changed: bool = False


@final
class GapWatch:
    """The loop between answers and the ledger for one base."""

    def __init__(
        self,
        language_model: LanguageModel,
        bank: LoraBank,
        detector: GapDetector,
        settings: GapSettings,
        *,
        shelf: ExpertShelf,
        misses: RoutingMisses,
        risk: RiskWatch,
        session: str,
    ) -> None:
        self._language_model = language_model
        self._bank = bank
        self._detector = detector
        self._settings = settings
        self._shelf, self._misses = shelf, misses
        self._risk, self._session = risk, session
        self._has_warned = False

    def watch(self, answered: Sequence[Answered], prompts: Sequence[Prompt]) -> list[Noticed]:
        """Note the answers to some prompts, in one transaction.

        An answer is worth more than its entry: where the ledger cannot be written there is a
        warning, once, and the answers stay unnoted.
        """
        try:
            return self._note(answered, [_last_turn(prompt) for prompt in prompts])
        except StoreError as error:
            level = logging.DEBUG if self._has_warned else logging.WARNING
            logger.log(level, "answers are not noted as evidence for gaps: %s", error)
            self._has_warned = True
            return [Noticed(each.answer) for each in answered]

    def check(self, gap_id: int) -> Gap | None:
        """Settle the unchecked prompts of a gap; the gap if that changed it.

        Those that an expert knows are no evidence; the others are put to the base several times.
        """
        limit = self._settings.consistency_members
        members = self._detector.unchecked_members(gap_id, limit=limit)
        if not members:
            return None
        gap, unknown = self._without_misses(members)
        if not unknown:
            return gap
        disagreements = self.disagreements([prompt for _, prompt in unknown])
        for (observation_id, _), disagreement in zip(unknown, disagreements, strict=True):
            agrees = disagreement <= AGREEMENT
            gap = self._detector.outcome(observation_id, correct=agrees, origin="consistency")
        return gap

    def _without_misses(self, members: Sequence[Unchecked]) -> tuple[Gap | None, list[Unchecked]]:
        """Leave out what an expert knows; the gap, if that changed it, and the others."""
        found = self._misses.known([prompt for _, prompt in members])
        if found is None:
            return None, list(members)
        name, is_known = found
        logger.info("expert %s knows %d doubted prompts: a routing miss", name, sum(is_known))
        gap: Gap | None = None
        rest = []
        for member, known in zip(members, is_known, strict=True):
            if known:
                gap = self._detector.exclude(member[0], cause="routing_miss")
            else:
                rest.append(member)
        return gap, rest

    def disagreements(self, prompts: Sequence[str]) -> list[float]:
        """How much the base's sampled answers to each prompt differ, 0 to 1 (all different)."""
        samples = self._settings.consistency_samples
        encoded = [self._language_model.encode(prompt) for prompt in prompts]
        with self._bank.activate([()] * (len(prompts) * samples)):
            filled = expand(prefill(self._language_model, encoded), samples)
            opening = Opening(filled.header_cache, filled.attention_mask, filled.first_logits)
            texts = drawn_answers(self._language_model, opening, filled.prompts)
        groups = [texts[start : start + samples] for start in range(0, len(texts), samples)]
        return [consistency(group) for group in groups]

    def _note(self, answered: Sequence[Answered], prompts: Sequence[str]) -> list[Noticed]:
        """Write the answers down, and check the gaps that they make suspected.

        A gap that becomes suspected is checked on the spot: the base answers its prompts again
        several times, and answers that contradict each other count as failures.
        """
        certificate = self._risk.certificate
        with self._detector.together():
            observed = [
                self._detector.observe(self._observation(each, prompt, certificate))
                for each, prompt in zip(answered, prompts, strict=True)
            ]
        self._risk.answered(len(observed))
        gaps = {each.gap.id: each.gap for each in observed if each.gap is not None}
        suspected = [gap for gap in gaps.values() if gap.state is GapState.SUSPECTED]
        checked = {gap.id: self.check(gap.id) for gap in suspected}
        noticed = []
        for each, entry in zip(answered, observed, strict=True):
            answer, gap = replace(each.answer, observation=entry.reference), entry.gap
            if gap is None:
                noticed.append(Noticed(answer))
                continue
            later = checked.get(gap.id)
            gap = later or gap
            answer = replace(answer, gap=GapReference(gap.id, str(gap.state), gap.label))
            noticed.append(Noticed(answer, gap, entry.changed or later is not None))
        return noticed

    def _observation(self, answered: Answered, prompt: str, certificate: str | None) -> Observation:
        """An answer as evidence.

        Prompts that no expert took are grouped by where they lie within their topic. The
        certificate is about answers of the base; to the records of experts count those that
        routing asked for, as a caller may force one on any prompt.
        """
        answer, route = answered.answer, answered.answer.route
        is_base = route.kind == "base"
        point = self._shelf.whitening.apply(answered.states)
        return Observation(
            prompt=prompt,
            answer=answer.text,
            p_correct=answer.confidence.p_correct,
            low_confidence=answer.low_confidence,
            domain=None if is_base else route.domain,
            topic=answered.topic,
            vector=point,
            session=self._session,
            served_by=tuple(expert.name for expert in route.experts),
            parts=() if route.forced else self._shelf.parts(route.experts, point),
            certificate=certificate if is_base else None,
            remoteness=answer.confidence.scores.get("ood"),
            excluded=None if _has_a_word(answer.text) else "format_failure",
        )


def _has_a_word(text: str) -> bool:
    """Whether anything was said: marks and white space alone tell nothing of what is known."""
    return any(character.isalnum() for character in text)


def _last_turn(prompt: Prompt) -> str:
    return prompt if isinstance(prompt, str) else prompt[-1]["content"]
