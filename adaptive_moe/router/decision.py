"""What is decided about one prompt: who answers it, and what the base's own answer is worth."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class RouteDecision:
    """Who answers a prompt, decided from its prefill alone.

    `experts` are (name, version, gate), gates sum to 1; empty for the base. `expected` is each
    one's expected success on this prompt, empty where the route was forced. `p_prefill` is the
    chance that the base answers right, None untrained. `uncertainty` is 1 - p_prefill, which is
    low confidence above 1 - `threshold`; untrained it is the first-token entropy's percentile
    among the base's reference samples, which is low confidence above `threshold`. `topic` is which
    of the topics that the router knows the prompt is of, None for another. `domain` is that topic,
    else the label of the nearest domain that contains the prompt; a low-confidence prompt near its
    edge has none. `reasons` are sentences for people. `runner_up` is the expert that came closest
    to answering and does not, None where no other's domain fits; where the base answers, `instead`
    is the route by that expert alone. `remoteness` is the prompt's
    distance from those the router learned from, 1 at their edge.
    """

    kind: Literal["base", "experts"]
    experts: tuple[tuple[str, int, float], ...]
    low_confidence: bool
    p_prefill: float | None
    uncertainty: float
    threshold: float
    domain: str | None
    reasons: tuple[str, ...]
    forced: bool
    remoteness: float
    expected: tuple[float, ...] = ()
    runner_up: str | None = None
    topic: str | None = None
    instead: "RouteDecision | None" = None


@dataclass(frozen=True, slots=True)
class BaseStanding:
    """What the base's own answer is worth at decision A, and the sentence that says why.

    `usual` is the share of the router's own labelled prompts that the base got right.
    """

    p_prefill: float | None
    usual: float | None
    uncertainty: float
    threshold: float
    is_low: bool
    reason: str
    remoteness: float
