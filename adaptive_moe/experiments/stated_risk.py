"""Is a stated risk honoured? Labels are drawn many times, and every threshold is tested."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from adaptive_moe.experiments.figures import Figure, Findings
from adaptive_moe.experiments.known_world import (
    KnownWorld,
    correct_of,
    draw_labels,
    pocket_figure,
    probabilities,
)
from adaptive_moe.experiments.plan import POCKET, Plan, Tell
from adaptive_moe.measures.calibration import coverage_at_risk
from adaptive_moe.router.thresholds import risk_threshold

_RISKS = (0.1, 0.2, 0.3)
_DELTA = 0.1
_DRAWS = 200
_LABELS = 400
_CERTIFIED_FROM = 0.2  # risks below this may be out of reach of so few labels


@dataclass(frozen=True, slots=True)
class Draw:
    """One threshold: certified or not, and what it does to answers that did not choose it.

    `risk` is their share of errors among the trusted, `coverage` the share trusted, `oracle` that
    of the loosest threshold which keeps the risk on them.
    """

    certified: bool
    risk: float
    coverage: float
    oracle: float


def run(plan: Plan, tell: Tell) -> Findings:
    """Thresholds on labels of the test split, on the rest of which they are tested.

    The router is fitted and calibrated on the other two splits.
    """
    world = KnownWorld(plan, tell)
    tell("fitting a router")
    router = world.fit(world.rows("train_router"), calibration=world.rows("calibration"))
    rows = world.rows("test")
    p, correct = probabilities(router, rows), correct_of(rows)
    generator = np.random.default_rng(plan.seed)
    found: list[Figure] = []
    for risk in _RISKS:
        draws = []
        for _ in range(_DRAWS):
            chosen, rest = draw_labels(rows, _LABELS, generator)
            draws.append(_draw(p, correct, chosen, rest, risk=risk))
        found += _told(draws, risk)
    return Findings(tuple(found), {})


def _draw(
    p: Float[np.ndarray, " item"],
    correct: Float[np.ndarray, " item"],
    chosen: np.ndarray,
    rest: np.ndarray,
    *,
    risk: float,
) -> Draw:
    found = risk_threshold(p[chosen], correct[chosen], target_risk=risk, fallback=1.0, delta=_DELTA)
    trusted = p[rest] >= found.value
    errors = float((1 - correct[rest][trusted]).mean()) if trusted.any() else 0.0
    return Draw(
        found.certified,
        errors,
        float(trusted.mean()),
        coverage_at_risk(1 - p[rest], correct[rest], risk=risk),
    )


def _told(draws: list[Draw], risk: float) -> Iterator[Figure]:
    certified = [draw for draw in draws if draw.certified]
    share = len(certified) / len(draws)
    is_owed = risk >= _CERTIFIED_FROM
    yield pocket_figure(
        "stated_risk",
        f"certified at {risk:g}",
        value=share,
        unit="of the draws",
        target=0.95 if is_owed else None,
        at_least=True,
    )
    if not certified:
        reason = "no draw was certified"
        yield Figure.failed("stated_risk", f"honoured at {risk:g}", POCKET, reason)
        return
    risks = np.array([draw.risk for draw in certified])
    note = f"{len(certified)} certified draws, mean risk {risks.mean():.3f}, largest "
    note += f"{risks.max():.3f}"
    honoured = float((risks <= risk).mean())
    yield pocket_figure(
        "stated_risk",
        f"honoured at {risk:g}",
        value=honoured,
        unit="of the certified",
        target=0.9,
        at_least=True,
        note=note,
    )
    coverage = float(np.mean([draw.coverage for draw in certified]))
    oracle = float(np.mean([draw.oracle for draw in certified]))
    yield pocket_figure(
        "stated_risk",
        f"coverage at {risk:g}",
        value=coverage / oracle,
        unit="of the oracle's",
        target=0.75 if is_owed else None,
        at_least=True,
        note=f"{coverage:.3f} of the answers are trusted, {oracle:.3f} could be",
    )
