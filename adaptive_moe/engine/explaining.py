"""What the experts did to an answer, and the training rows that it may come from."""

from collections.abc import Sequence
from typing import final

from adaptive_moe.engine.choosing import Chooser
from adaptive_moe.engine.events import AnswerAttribution, Source
from adaptive_moe.engine.shelf import ExpertShelf
from adaptive_moe.experts.bank import LoraBank
from adaptive_moe.experts.cache import ExpertCache
from adaptive_moe.experts.pool import Mixture
from adaptive_moe.integration.attribution import attribute
from adaptive_moe.models.language_model import LanguageModel
from adaptive_moe.models.prefilling import Prefill
from adaptive_moe.router.router import Evidence, RouteDecision


@final
class Explainer:
    """Reads finished answers again, with and without each of their experts."""

    def __init__(
        self,
        language_model: LanguageModel,
        bank: LoraBank,
        cache: ExpertCache,
        shelf: ExpertShelf,
        chooser: Chooser,
    ) -> None:
        self._language_model = language_model
        self._bank = bank
        self._cache = cache
        self._shelf = shelf
        self._chooser = chooser

    def explain(
        self,
        filled: Prefill,
        answer_ids: Sequence[int],
        text: str,
        *,
        evidence: Evidence,
        decision: RouteDecision,
        mixture: Mixture,
    ) -> AnswerAttribution:
        """The attribution of one answer to one prompt, by the experts of `mixture`."""
        with self._cache.hold({expert_id for expert_id, _ in mixture}):
            found = attribute(
                self._language_model,
                self._bank,
                filled,
                answer_ids,
                mixture,
                activation=self._chooser.activation(mixture),
                mixed=self._chooser.mixed(mixture),
            )
        experts = [self._shelf.find(name) for name, _, _ in decision.experts]
        return AnswerAttribution(
            experts=tuple(expert.name for expert in experts),
            shares=found.shares,
            base_log_probability=found.base_log_probability,
            routed_log_probability=found.routed_log_probability,
            exact=found.exact,
            error=found.error,
            responsibilities=found.responsibilities,
            sources=tuple(
                Source(
                    expert.name, each.file, each.line, each.question, each.answer, each.similarity
                )
                for expert in experts
                for each in self._shelf.sources(expert, evidence.states, answer=text)
            ),
        )
