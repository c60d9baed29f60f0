"""Who answers: the base or experts, by expected success and by whose domain the prompt lies in."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from adaptive_moe.errors import UnknownExpertError
from adaptive_moe.router.boundary import Axes
from adaptive_moe.router.calibration import with_prior
from adaptive_moe.router.decision import BaseStanding, RouteDecision
from adaptive_moe.router.domains import Domain, DomainMatch
from adaptive_moe.router.records import nearest_cluster, success_rate
from adaptive_moe.router.topics import About

# Two experts share an answer when the second fits this nearly as well as the first.
_NEARLY_AS_SUCCESSFUL = 0.9
_NEARLY_AS_NEAR = 1.1
_EDGE_SOFTNESS = 0.1
_SURELY_INSIDE = 0.9
# What is less likely than this an expert's own it leaves alone, however unsure the base is.
_LEAST_MEMBERSHIP = 0.3
# An untrained router does not know the base's chances; an expert must at least be worth its own.
_WORTH_ASKING = 0.5
# Boundaries whose states' part is weighed. Among 40 experts on neighbouring subjects, 27 of whose
# domains contained the usual development question, asking four chose the question's own expert no
# less often than asking all. Eight gave the very routes of asking all, at a third more time.
_MOST_ASKED = 4
_UNNAMED = "the base's ordinary prompts"
BASE_PREFIX = "base:"
EXPERT_PREFIX = "expert:"


@dataclass(frozen=True, slots=True)
class ExpertArm:
    """An expert that could answer: its region and its record of right answers in that region.

    `base_successes` are the base's own on the same `trials`, None where they are not known.
    `judged` tells what people said since: for every centroid of the domain the answers judged and
    the right ones among them, last those that belong to none; empty where nothing was said.
    `created` sorts experts by age; a boundary is drawn against all experts that were there before.
    """

    name: str
    version: int
    expert_id: str
    domain: Domain
    successes: int
    trials: int
    created: str = ""
    base_successes: int | None = None
    judged: tuple[tuple[float, float], ...] = ()

    @property
    def success_rate(self) -> float:
        """In the whole domain, 0 to 1: by the gate and by what people said (`records`)."""
        return success_rate(self.successes, self.trials, judged=self.judged)

    def success_rate_at(self, point: np.ndarray) -> float:
        """The same where a whitened state [dimension] lies: most by what was said near there."""
        if not self.judged:
            return self.success_rate
        cluster = nearest_cluster(self.domain.centroids, point)
        return success_rate(self.successes, self.trials, judged=self.judged, cluster=cluster)

    @property
    def base_rate(self) -> float | None:
        """(successes + 1) / (trials + 2) of the base's at the gate; None where not known."""
        if self.base_successes is None:
            return None
        return (self.base_successes + 1) / (self.trials + 2)


@dataclass(frozen=True, slots=True)
class Candidate:
    """An expert whose domain contains the prompt, and how surely the prompt belongs to it.

    `success` is the rate at which it is right where the prompt lies.
    """

    arm: ExpertArm
    distance: float
    belongs: float
    success: float

    @property
    def expected(self) -> float:
        """Expected success: of a prompt that is not its own the expert knows nothing."""
        return self.success * self.belongs


def choose(
    standing: BaseStanding,
    match: DomainMatch,
    arms: Mapping[str, ExpertArm],
    *,
    labels: Mapping[str, str],
    max_experts: int,
    about: About,
) -> RouteDecision:
    """The route of one prompt.

    `arms` are by expert id; `labels` names the index's keys, except the base's ordinary prompts,
    which are no domain. An expert may answer when the prompt lies inside its domain; without a
    boundary of its own, also no domain of the base may be nearer. It does answer when its
    expected success, its record times how surely the prompt is one of its own, exceeds the base's,
    which is corrected by the base's record in that domain.
    """
    fitting = _candidates(match, arms, about)
    reasons = (standing.reason, _place_reason(match, labels, about))
    best = fitting[0] if fitting else None
    if best is not None and best.expected > _chance_of_base(standing, best):
        chosen = _mixture(fitting, max_experts)
        other = next((item.arm.name for item in fitting if item not in chosen), None)
        return _by_experts(standing, chosen, reasons, runner_up=other, topic=about.topic)
    return _by_base(
        standing,
        domain_name(match, labels, about, is_low=standing.is_low),
        reasons,
        runner_up=best,
        topic=about.topic,
    )


def forced_route(
    standing: BaseStanding,
    arms: Sequence[ExpertArm],
    names: Sequence[str],
    *,
    domain: str | None,
    topic: str | None,
) -> RouteDecision:
    """The route a user asked for: the base when no name is given, else these experts, equally.

    Raises UnknownExpertError for a name without an active expert.
    """
    wanted = list(dict.fromkeys(names))
    known = {arm.name: arm for arm in arms}
    missing = [name for name in wanted if name not in known]
    if missing:
        listed = ", ".join(sorted(known)) or "none"
        raise UnknownExpertError(f"no active expert is called {missing[0]!r}; active: {listed}")
    experts = tuple((name, known[name].version, 1 / len(wanted)) for name in wanted)
    said = f"you asked for {' and '.join(wanted)}" if wanted else "you asked for the base"
    return RouteDecision(
        kind="experts" if experts else "base",
        experts=experts,
        low_confidence=standing.is_low and not experts,
        p_prefill=standing.p_prefill,
        uncertainty=standing.uncertainty,
        threshold=standing.threshold,
        domain=domain,
        reasons=(said, standing.reason),
        forced=True,
        remoteness=standing.remoteness,
        topic=topic,
    )


def membership(distance: float, radius: float) -> float:
    """How surely a prompt belongs to a domain: about 1 well inside, 1/2 on its edge, 0 far out."""
    ratio = distance / radius if radius > 0 else (0.0 if distance == 0 else math.inf)
    return 1 / (1 + math.exp(min((ratio - 1) / _EDGE_SOFTNESS, 700.0)))


def _nearest_of_base(match: DomainMatch) -> float:
    """Distance to the nearest domain of the base among the ranked ones; infinite if none."""
    distances = (distance for key, distance in match.ranking if key.startswith(BASE_PREFIX))
    return next(distances, math.inf)


def _candidates(match: DomainMatch, arms: Mapping[str, ExpertArm], about: About) -> list[Candidate]:
    """Experts whose domain the prompt may belong to, best first.

    A boundary knows the experts that are older than itself and none of the younger ones. So the
    youngest are asked first, and an older expert is left what they do not claim: its membership
    times their chances of being wrong (a stick-breaking product).
    """
    rival = _nearest_of_base(match)
    found, left = [], 1.0
    near = _near(match, arms)
    said = _most_spoken_for(near, about.columns)
    places: dict[Axes, np.ndarray] = {}
    for arm, distance in sorted(near, key=lambda item: item[0].created, reverse=True):
        boundary = arm.domain.boundary
        if boundary is None:
            if distance < rival:
                belongs = membership(distance, arm.domain.radius) * left
                found.append(Candidate(arm, distance, belongs, arm.success_rate_at(match.point)))
        elif arm.expert_id in said:
            if boundary.axes not in places:
                places[boundary.axes] = boundary.axes.place(about.states)
            claim = boundary.claim(places[boundary.axes], said[arm.expert_id])
            belongs, left = claim * left, left * (1 - claim)
            if belongs >= _LEAST_MEMBERSHIP:
                found.append(Candidate(arm, distance, belongs, arm.success_rate_at(match.point)))
    return sorted(found, key=lambda item: (-item.expected, item.distance, item.arm.name))


def _near(match: DomainMatch, arms: Mapping[str, ExpertArm]) -> list[tuple[ExpertArm, float]]:
    """The experts whose domain contains the prompt, with its distance, nearest first."""
    return [
        (arm, distance)
        for key, distance in match.ranking
        if key.startswith(EXPERT_PREFIX)
        and (arm := arms.get(key.removeprefix(EXPERT_PREFIX))) is not None
        and distance <= arm.domain.radius
    ]


def _most_spoken_for(
    near: list[tuple[ExpertArm, float]], columns: Int[np.ndarray, " column"]
) -> dict[str, float]:
    """By expert id what the prompt's words say for it, of the experts worth asking further.

    States cost far more to weigh than words, and count for less where there are many experts.
    """
    said = {
        arm.expert_id: arm.domain.boundary.said(columns)
        for arm, _ in near
        if arm.domain.boundary is not None
    }
    return dict(sorted(said.items(), key=lambda item: -item[1])[:_MOST_ASKED])


def _mixture(fitting: list[Candidate], max_experts: int) -> list[Candidate]:
    """The best expert and those that fit nearly equally, by success and by distance."""
    best = fitting[0]
    nearest = min(item.distance for item in fitting)
    equals = [
        item
        for item in fitting
        if item is best
        or (
            item.expected >= _NEARLY_AS_SUCCESSFUL * best.expected
            and max(item.distance, best.distance) <= _NEARLY_AS_NEAR * nearest
        )
    ]
    return equals[:max_experts]


def _chance_of_base(standing: BaseStanding, rival: Candidate) -> float:
    """How likely the base is right on a prompt that an expert claims.

    As far as the prompt is the expert's, the base's odds are those of its record in that domain,
    not of prompts in general.
    """
    p, usual, there = standing.p_prefill, standing.usual, rival.arm.base_rate
    if p is None:
        return _WORTH_ASKING
    if usual is None or there is None:
        return p
    inside = with_prior(p, usual=usual, there=there)
    return rival.belongs * inside + (1 - rival.belongs) * p


def _by_experts(
    standing: BaseStanding,
    chosen: Sequence[Candidate],
    reasons: tuple[str, ...],
    *,
    runner_up: str | None,
    topic: str | None,
) -> RouteDecision:
    """The route by the chosen ones, best first, with gates in proportion to what is expected."""
    total = sum(item.expected for item in chosen)
    return RouteDecision(
        kind="experts",
        experts=tuple((item.arm.name, item.arm.version, item.expected / total) for item in chosen),
        low_confidence=False,
        p_prefill=standing.p_prefill,
        uncertainty=standing.uncertainty,
        threshold=standing.threshold,
        domain=chosen[0].arm.domain.label,
        reasons=(*reasons, *(_expert_reason(item) for item in chosen)),
        forced=False,
        remoteness=standing.remoteness,
        expected=tuple(item.expected for item in chosen),
        runner_up=runner_up,
        topic=topic,
    )


def _by_base(
    standing: BaseStanding,
    domain: str | None,
    reasons: tuple[str, ...],
    *,
    runner_up: Candidate | None,
    topic: str | None,
) -> RouteDecision:
    instead = None
    if runner_up is not None:
        instead = _by_experts(standing, [runner_up], reasons, runner_up=None, topic=topic)
    return RouteDecision(
        kind="base",
        experts=(),
        low_confidence=standing.is_low,
        p_prefill=standing.p_prefill,
        uncertainty=standing.uncertainty,
        threshold=standing.threshold,
        domain=domain,
        reasons=(*reasons, _refusal(runner_up, standing)),
        forced=False,
        remoteness=standing.remoteness,
        runner_up=None if runner_up is None else runner_up.arm.name,
        topic=topic,
        instead=instead,
    )


def domain_name(
    match: DomainMatch, labels: Mapping[str, str], about: About, *, is_low: bool
) -> str | None:
    """The topic's name, else that of the domain it lies in; none for an unsure prompt at its edge.

    Prompts of unknown topics fall on the outskirts of known domains, and there they are unsure.
    Where topics are known, a prompt of none of them is in no domain of the base either.
    """
    if about.topic is not None:
        return about.topic
    if match.label is None or (about.is_told and match.label.startswith(BASE_PREFIX)):
        return None
    if is_low and membership(match.distance, match.radius) < _SURELY_INSIDE:
        return None
    return labels.get(match.label)


def _place_reason(match: DomainMatch, labels: Mapping[str, str], about: About) -> str:
    if about.topic is not None:
        return f"it is about {about.topic}, by its words and where it lies"
    if not match.ranking:
        return "no domain is known yet"
    if match.label is None:
        nearest = labels.get(match.ranking[0][0], _UNNAMED)
        return f"it lies outside every known domain; the nearest is {nearest}"
    ratio = match.distance / match.radius if match.radius > 0 else 0.0
    return f"it lies in {labels.get(match.label, _UNNAMED)}, at {ratio:.2f} of the radius"


def _refusal(best: Candidate | None, standing: BaseStanding) -> str:
    if best is None:
        return "no expert's domain fits it, so the base answers"
    return (
        f"expert {best.arm.name} is expected to be right with probability {best.expected:.2f}, "
        f"which is not above {_chance_of_base(standing, best):.2f}, so the base answers"
    )


def _expert_reason(item: Candidate) -> str:
    arm = item.arm
    base = "" if arm.base_successes is None else f", the base alone {arm.base_successes}"
    return (
        f"expert {arm.name} is expected to be right with probability {item.expected:.2f} "
        f"({arm.successes} of {arm.trials} right at the gate{base}{_said_since(arm)})"
    )


def _said_since(arm: ExpertArm) -> str:
    judged = sum(answers for answers, _ in arm.judged)
    right = sum(right_ones for _, right_ones in arm.judged)
    return f"; {right:g} of {judged:g} judged since" if judged else ""
