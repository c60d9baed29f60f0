"""What the engine says: the answer to a prompt and the events on the way to it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float

from adaptive_moe.gaps.ledger import Gap
from adaptive_moe.router.router import Confidence, RouteDecision
from adaptive_moe.training.events import TrainingProgress

JSON = None | bool | int | float | str | list["JSON"] | dict[str, "JSON"]


@dataclass(frozen=True, slots=True)
class RoutedExpert:
    """One expert that took part in an answer; `gate` is its weight in the mixture, 0 to 1."""

    name: str
    version: int
    gate: float


@dataclass(frozen=True, slots=True)
class Route:
    """Who answered and why. `domain` is what the prompt is about, absent when that is not known."""

    kind: Literal["base", "experts"]
    experts: tuple[RoutedExpert, ...]
    domain: str | None
    threshold: float
    forced: bool
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Source:
    """A training row near the prompt: the material an expert's answer can be traced to.

    `similarity` is the cosine of the two prompts' states, -1 to 1.
    """

    expert: str
    file: str
    line: int
    question: str
    answer: str
    similarity: float


@dataclass(frozen=True, slots=True)
class AnswerAttribution:
    """What each expert added to each answer token, in nats.

    For every token the shares sum to `routed_log_probability - base_log_probability`.
    `error` is the standard error of a share: 0 when exact (up to four experts).
    `responsibilities` are each expert's part in the token's probability, summing to 1, where
    distributions were mixed.
    """

    experts: tuple[str, ...]
    shares: Float[np.ndarray, "time expert"]
    base_log_probability: Float[np.ndarray, " time"]
    routed_log_probability: Float[np.ndarray, " time"]
    exact: bool
    error: float
    sources: tuple[Source, ...]
    responsibilities: Float[np.ndarray, "time expert"] | None = None


@dataclass(frozen=True, slots=True)
class GapReference:
    """The knowledge gap that a prompt became evidence for."""

    id: int
    state: str
    label: str


@dataclass(frozen=True, slots=True)
class Usage:
    """What an answer cost.

    `known_tokens` of the prompt's were not read again, `forwards` counts model calls without
    those of the attribution, `seconds` are wall time per stage.
    """

    prompt_tokens: int
    known_tokens: int
    completion_tokens: int
    forwards: int
    seconds: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer with everything that led to it; `tokens` are the decoded pieces of `text`.

    `observation` names its entry in the gap ledger, so that the answer, or a copy, can be judged.
    """

    text: str
    tokens: tuple[str, ...]
    route: Route
    low_confidence: bool
    confidence: Confidence
    attribution: AnswerAttribution | None
    gap: GapReference | None
    usage: Usage
    finish_reason: Literal["stop", "length", "interrupted"]
    observation: str | None = None

    def to_dict(self) -> dict[str, JSON]:
        """The answer as plain JSON values."""
        plain = to_json(self)
        assert isinstance(plain, dict)
        return plain


@dataclass(frozen=True, slots=True)
class Scored:
    """The prompt was prefilled and scored."""

    scores: Mapping[str, float]
    p_prefill: float | None


@dataclass(frozen=True, slots=True)
class Routed:
    """It is decided who answers."""

    route: Route
    decision: RouteDecision


@dataclass(frozen=True, slots=True)
class Token:
    """The answer grew by `text` (at least one character)."""

    text: str


@dataclass(frozen=True, slots=True)
class GapFound:
    """The prompt changed the state of a knowledge gap."""

    gap: Gap


@dataclass(frozen=True, slots=True)
class TeacherStep:
    """A teacher has written about `done` of so many passages; a training on them may follow."""

    teacher: str
    done: int
    passages: int


@dataclass(frozen=True, slots=True)
class TrainingStep:
    """A training made progress."""

    expert: str
    progress: TrainingProgress


@dataclass(frozen=True, slots=True)
class ExpertReady:
    """A training came to its verdict; `status` is "active" or "rejected"."""

    expert: str
    version: int
    status: str
    reason: str


@dataclass(frozen=True, slots=True)
class TrainingFailed:
    """A training in the background ended without a verdict; `reason` says what comes of it."""

    expert: str
    reason: str


@dataclass(frozen=True, slots=True)
class Finished:
    """The answer is complete."""

    answer: Answer


TrainingEvent = TeacherStep | TrainingStep | ExpertReady | TrainingFailed
"""What is told of a training."""

Event = Scored | Routed | Token | GapFound | TrainingEvent | Finished


@dataclass(frozen=True, slots=True)
class Answered:
    """A finished answer with its prompt's state vector and topic; who nearly gave it."""

    answer: Answer
    states: Float[np.ndarray, " state"]
    runner_up: str | None = None
    topic: str | None = None


def to_json(value: object) -> JSON:
    """Dataclasses, mappings, sequences and arrays as JSON values; non-finite numbers as null."""
    if is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name) for field in fields(value)}
    elif isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if isinstance(value, bool | int | str | None) else str(value)
