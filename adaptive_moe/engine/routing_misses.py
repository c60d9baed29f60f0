"""Finds out whether what looks like a gap is known to an expert that routing passed over."""

from collections import Counter
from collections.abc import Sequence
from typing import final

from transformers import GenerationConfig

from adaptive_moe.engine.answering import Answerer
from adaptive_moe.engine.events import Answered
from adaptive_moe.engine.request import Forced, Request

_ANSWER_TOKENS = 32
_MOST = 0.5  # of the prompts: an expert of something else is now and then sure of a few


@final
class RoutingMisses:
    """Asks the expert that came closest to answering the prompts of a suspected gap."""

    def __init__(self, answerer: Answerer) -> None:
        self._answerer = answerer

    def known(self, prompts: Sequence[str]) -> tuple[str, tuple[bool, ...]] | None:
        """An expert that knows most of these prompts, and which of them; None without one.

        It knows a prompt if its answer is trusted as one of its own would be. Only an expert
        whose domain holds most of the prompts is asked.
        """
        if not self._answerer.shelf.arms():
            return None
        passed_over = Counter(each.runner_up for each in self._ask(prompts, "auto"))
        name, count = passed_over.most_common(1)[0]
        if name is None or count < _MOST * len(prompts):
            return None
        answers = self._ask(prompts, [name])
        is_known = tuple(not each.answer.low_confidence for each in answers)
        return (name, is_known) if sum(is_known) >= _MOST * len(prompts) else None

    def _ask(self, prompts: Sequence[str], experts: Forced) -> list[Answered]:
        request = Request(
            generation=GenerationConfig(max_new_tokens=_ANSWER_TOKENS),
            experts=experts,
            attribution=False,
        )
        return self._answerer.finished(prompts, request)
