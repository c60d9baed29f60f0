"""Weighs observed prompts and their outcomes: is this domain really answered wrongly?

The null hypothesis is that the base fails on at most `failure_rate` of a domain's prompts. The
evidence against it is an e-value, so it may be looked at after every prompt, and acting on
1 / alpha keeps the chance of a false gap below alpha however long the stream runs (Ville).
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np
from scipy import special

from adaptive_moe.config.settings import GapSettings
from adaptive_moe.measures.sequential import Count, e_value

Origin = Literal["grade", "feedback", "consistency"]
Cause = Literal["routing_miss", "ambiguous", "format_failure"]

# e-value on soft failures from which answers are worth checking: one harmless domain in five.
SUSPICION = 5.0
_CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Part:
    """An expert's share of an answer, 0 to 1, and the prompt's cluster in the expert's domain."""

    expert_id: str
    share: float
    cluster: str


@dataclass(frozen=True, slots=True, eq=False)
class Observation:
    """One answered prompt, as the engine saw it.

    `p_correct` is the calibrated probability that the answer is right, None when uncalibrated.
    `domain` is the expert or known domain the prompt was assigned to, None for neither. `vector`
    is the prompt's state [width], centred by the caller (whitened), any length. `parts` tell
    which experts gave the answer, where routing chose them.
    `certificate` names the promise under which the base gave it, None without one, and `remoteness`
    is the prompt's distance from those the router learned from, 1 at their edge. `excluded` says
    why it is no evidence, whatever the confidence. `topic` is the prompt's among those that the
    router knows, None for another; prompts of different topics never share a cluster.
    """

    prompt: str
    answer: str
    p_correct: float | None
    low_confidence: bool
    domain: str | None
    vector: np.ndarray
    session: str
    served_by: tuple[str, ...] = ()
    parts: tuple[Part, ...] = ()
    certificate: str | None = None
    remoteness: float | None = None
    excluded: Cause | None = None
    topic: str | None = None


@dataclass(frozen=True, slots=True)
class Member:
    """One distinct prompt of a gap's evidence."""

    observation_id: int
    prompt: str
    answer: str
    p_correct: float | None
    low_confidence: bool
    session: str
    served_by: tuple[str, ...]
    correct: bool | None
    origin: Origin | None


@dataclass(frozen=True, slots=True)
class Figures:
    """What a gap's evidence amounts to.

    `distinct` prompts count; `failures` and `successes` are known outcomes among them;
    `presumed` is the share of the `confident` prompts of the domain that counts as right beside
    them; `suspicion` is the e-value on soft failures, `e_value` that on outcomes, to be held
    against `needed`; the failure rate lies above `lower_bound`, below `upper_bound`, each with
    95 % confidence.
    """

    distinct: int
    failures: int
    successes: int
    confident: int
    presumed: float
    suspicion: float
    e_value: float
    needed: float
    lower_bound: float
    upper_bound: float
    p_correct_mean: float | None

    def to_dict(self) -> dict[str, Count | None]:
        """As JSON."""
        return asdict(self)


def alpha_of(order: int, *, alpha: float = 0.05) -> float:
    """The share of `alpha` spent on the order-th suspected cluster (from 1); they sum to alpha."""
    return 6.0 * alpha / (math.pi * order) ** 2


def failure_bounds(
    failures: Count, successes: Count, *, confidence: float = _CONFIDENCE
) -> tuple[float, float]:
    """Lower and upper bound of the failure rate, each one-sided (Clopper & Pearson 1934)."""
    level = 1.0 - confidence
    lower = special.betaincinv(failures, successes + 1.0, level) if failures > 0 else 0.0
    upper = special.betaincinv(failures + 1.0, successes, confidence) if successes > 0 else 1.0
    return float(lower), float(upper)


def within_session_share(members: Sequence[Member], *, alone: bool) -> tuple[Member, ...]:
    """The members that count: at most half of them from one session, unless it is `alone`.

    Of a session that holds more, those with known outcomes count first, then the earliest.
    """
    if alone or not members:
        return tuple(members)
    session, size = Counter(member.session for member in members).most_common(1)[0]
    rest = len(members) - size
    if size <= rest:
        return tuple(members)
    own = [member for member in members if member.session == session]
    own.sort(key=lambda member: (member.correct is None, member.observation_id))
    dropped = {member.observation_id for member in own[rest:]}
    return tuple(member for member in members if member.observation_id not in dropped)


def weigh(
    members: Sequence[Member], *, confident: int, order: int, settings: GapSettings
) -> Figures:
    """The figures of the counted `members` of a domain with `confident` prompts beside them.

    Only doubtful answers are checked, and those fail more often than the domain does. So its
    confident prompts count as right, in the proportion in which the doubtful ones were checked:
    a domain that is doubted in at most `failure_rate` of its prompts is no gap, however wrong
    the doubted answers are.
    """
    failures = sum(member.correct is False for member in members)
    successes = sum(member.correct is True for member in members)
    doubtful = [member for member in members if member.low_confidence]
    checked = sum(member.correct is not None for member in doubtful)
    presumed = confident * checked / len(doubtful) if doubtful else float(confident)
    soft = sum(_soft_failure(member) for member in members)
    rates = [member.p_correct for member in members if member.p_correct is not None]
    lower, upper = failure_bounds(failures, successes + presumed)
    rate = settings.failure_rate
    return Figures(
        distinct=len(members),
        failures=failures,
        successes=successes,
        confident=confident,
        presumed=presumed,
        suspicion=e_value(soft, len(members) - soft + confident, failure_rate=rate),
        e_value=e_value(failures, successes + presumed, failure_rate=rate),
        needed=1.0 / alpha_of(order, alpha=settings.alpha),
        lower_bound=lower,
        upper_bound=upper,
        p_correct_mean=sum(rates) / len(rates) if rates else None,
    )


def is_refuted(figures: Figures, settings: GapSettings) -> bool:
    """Whether outcomes show that the domain is mostly answered rightly."""
    known = figures.failures + figures.successes > 0
    return known and figures.upper_bound < settings.failure_bound


def is_suspicious(figures: Figures, settings: GapSettings) -> bool:
    """Whether it is worth checking answers; low confidence alone can say so."""
    enough = figures.distinct >= settings.suspect_prompts and figures.suspicion >= SUSPICION
    return enough and not is_refuted(figures, settings)


def is_verified(figures: Figures, settings: GapSettings) -> bool:
    """Whether outcomes prove a gap."""
    return (
        figures.distinct >= settings.min_prompts
        and figures.e_value >= figures.needed
        and figures.lower_bound > settings.failure_bound
    )


def _soft_failure(member: Member) -> float:
    """How far this prompt counts as failed: by its outcome, else 1 - p_correct, else whole."""
    if member.correct is not None:
        return 0.0 if member.correct else 1.0
    return 1.0 if member.p_correct is None else 1.0 - member.p_correct
