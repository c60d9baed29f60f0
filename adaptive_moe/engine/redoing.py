"""Lets the router's second choice answer too where the base's answer is not to be trusted."""

import logging
import time
from collections.abc import Callable, Sequence
from typing import final

from adaptive_moe.engine.choosing import Chooser
from adaptive_moe.engine.events import Event
from adaptive_moe.engine.request import Request
from adaptive_moe.engine.rows import Row, RowDecoder, routed
from adaptive_moe.errors import BankFullError
from adaptive_moe.models.prefilling import Prefill
from adaptive_moe.router.router import Confidence

logger = logging.getLogger(__name__)


@final
class Redoing:
    """Compares two answers by how likely they are right; `judge` tells that of a decoded row."""

    def __init__(
        self, chooser: Chooser, decoder: RowDecoder, judge: Callable[[Row], Confidence]
    ) -> None:
        self._chooser = chooser
        self._decoder = decoder
        self._judge = judge

    def settle(
        self, alone: Prefill, row: Row, said: Sequence[Event], request: Request
    ) -> Sequence[Event]:
        """The events that tell the better answer, `said` if it is the one that the row has.

        The row then holds the better one. `alone` is the prompt's own prefill.
        """
        started = time.perf_counter()
        try:
            other = self._other(row, request)
            if other is None:
                return said
            events = [event for _, event in self._decoder.decode(alone, [other], request)]
        except BankFullError as error:
            logger.info("the base's answer stays: %s", error)
            return said
        row.forwards = other.forwards
        row.seconds["redo"] = time.perf_counter() - started
        if _is_over(request) or _chance(self._judge(other)) <= _chance(self._judge(row)):
            return said
        row.decision, row.mixture, row.completion = other.decision, other.mixture, other.completion
        return [routed(row.decision), *events]

    def _other(self, row: Row, request: Request) -> Row | None:
        """The row as its second choice would answer it, if the base's answer falls behind that."""
        instead, confidence = row.decision.instead, self._judge(row)
        if instead is None or _is_over(request):
            return None
        if not self._chooser.router.is_low(confidence):
            return None
        if instead.expected[0] <= _chance(confidence):
            return None
        choice = self._chooser.instead(row.decision)
        if choice is None:
            return None
        decision, mixture = choice
        return Row(
            row.index,
            row.prompt,
            row.occurrence,
            row.evidence,
            decision,
            mixture,
            row.forwards,
        )


def _is_over(request: Request) -> bool:
    return request.stop is not None and request.stop()


def _chance(confidence: Confidence) -> float:
    """That the answer is right; certain where nobody can tell, so that the answer stays."""
    return 1.0 if confidence.p_correct is None else confidence.p_correct
