"""Answers made by hand, where a test must choose what the engine says."""

import numpy as np

from adaptive_moe.engine.events import (
    Answer,
    AnswerAttribution,
    GapReference,
    Route,
    RoutedExpert,
    Source,
    Usage,
)
from adaptive_moe.router.router import Confidence


def answer(
    text: str = "Fe is iron",
    *,
    experts: tuple[str, ...] = ("chemistry",),
    low: bool = False,
    p_correct: float | None = 0.9,
    shares: list[list[float]] | None = None,
    source: str = "elements.md",
    label: str = "elements",
    reason: str = "it lies in chemistry",
) -> Answer:
    """An answer of two tokens, by the base when there are no experts."""
    tokens = (text[:2], text[2:])
    given = shares or [[3.5] * len(experts), [0.02] * len(experts)]
    values = np.array(given, dtype=np.float32)
    base = np.array([-4.0, -1.0], dtype=np.float32)
    attribution = AnswerAttribution(
        experts=experts,
        shares=values,
        base_log_probability=base,
        routed_log_probability=base + values.sum(axis=1),
        exact=True,
        error=0.0,
        sources=tuple(Source(name, source, 12, text, text, 0.91) for name in experts),
    )
    return Answer(
        text=text,
        tokens=tokens,
        route=Route(
            kind="experts" if experts else "base",
            experts=tuple(RoutedExpert(name, 1, 1 / len(experts)) for name in experts),
            domain=None,
            threshold=0.7,
            forced=False,
            reasons=(reason,),
        ),
        low_confidence=low,
        confidence=Confidence(0.5, p_correct, True, {"mean_entropy": 0.25}, {}),
        attribution=attribution if experts else None,
        gap=GapReference(3, "SUSPECTED", label) if low else None,
        usage=Usage(5, 0, 2, 4, {"prefill": 0.01, "decode": 0.02}),
        finish_reason="stop",
    )
