"""Thresholds on the probability of being right: fixed, by coverage, by cost, or by a risk."""

import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from jaxtyping import Float

from adaptive_moe.measures.statistics import clopper_pearson_upper
from adaptive_moe.router.certificates import Void

DELTA = 0.1
_STEPS = 12
_FIRST_SHARE = 8
_MOST_LABELS = 100_000


@dataclass(frozen=True, slots=True)
class Threshold:
    """Answers whose probability is at least `value` are trusted.

    For a target risk: `certified` says whether the error rate among trusted answers is at most
    the target with probability 1 - delta over the drawing of the labels, as long as traffic looks
    like them; `risk_bound` is the exact upper limit of that rate, of `errors` in `accepted` labels;
    `labels_needed` is how many more would probably do (None: certified, or not to be had by labels
    alone). `coverage` is the share of the labelled prompts that is trusted. `void` tells why what
    was certified is not any more; the value is then a stricter one.
    """

    kind: Literal["fixed", "coverage", "cost", "target_risk"]
    value: float
    certified: bool
    accepted: int
    errors: int
    risk_bound: float | None
    coverage: float | None
    labels_needed: int | None
    explanation: str
    void: Void | None = None


def fixed_threshold(value: float) -> Threshold:
    """The value itself; says nothing about the risk."""
    return Threshold(
        "fixed", value, False, 0, 0, None, None, None, f"fixed at {value:g}, no risk is promised"
    )


def coverage_threshold(probabilities: Float[np.ndarray, " item"], *, coverage: float) -> Threshold:
    """The value that trusts this share of the given prompts: it promises traffic, not quality."""
    if not len(probabilities) or not 0 < coverage <= 1:
        raise ValueError(f"need prompts and a coverage in (0, 1], got {coverage}")
    falling = np.sort(probabilities)[::-1]
    value = float(falling[max(0, math.ceil(coverage * falling.size - 1e-9) - 1)])
    share = float(np.mean(probabilities >= value))
    text = f"trusts {share:.0%} of prompts like the calibration ones; no risk is promised"
    return Threshold("coverage", value, False, 0, 0, None, share, None, text)


def cost_threshold(
    probabilities: Float[np.ndarray, " item"],
    correct: Float[np.ndarray, " item"],
    *,
    error_cost: float,
) -> Threshold:
    """The value that would have cost least on the labels; of several the one that trusts most.

    A wrong answer that is trusted costs `error_cost`, an answer that is not trusted costs 1. It is
    what these labels cost, and promises nothing beyond them (Chow 1970: with calibrated
    probabilities it tends to 1 - 1 / error_cost).
    """
    if not len(probabilities) or not 0 < error_cost < math.inf:
        raise ValueError(f"need prompts and a finite cost above 0, got {error_cost}")
    order = np.argsort(-probabilities, kind="stable")
    ranked, wrong = probabilities[order], np.cumsum(1 - correct[order])
    # One set for each number of trusted answers, none included; ties enter whole.
    sizes = np.flatnonzero(np.append(ranked[1:] < ranked[:-1], True)) + 1
    costs = error_cost * wrong[sizes - 1] + ranked.size - sizes
    best = len(costs) - 1 - int(np.argmin(costs[::-1]))
    size, cost = int(sizes[best]), float(costs[best])
    value = float(ranked[size - 1])
    if ranked.size < cost:
        size, cost, value = 0, float(ranked.size), math.nextafter(float(ranked[0]), math.inf)
    errors = int(wrong[size - 1]) if size else 0
    text = (
        f"cheapest at {error_cost:g} for an error and 1 for an answer not trusted: {errors} errors "
        f"in {size} of {ranked.size} labels, {cost / ranked.size:.3f} each; no risk is promised"
    )
    return Threshold("cost", value, False, size, errors, None, size / ranked.size, None, text)


def risk_threshold(
    probabilities: Float[np.ndarray, " item"],
    correct: Float[np.ndarray, " item"],
    *,
    target_risk: float,
    fallback: float,
    delta: float = DELTA,
) -> Threshold:
    """The loosest threshold whose error rate is certified to be at most `target_risk`.

    Exact binomial fixed-sequence testing (Learn then Test, Angelopoulos et al. 2021): starting
    with the surest eighth, at least 3 ln(delta) / ln(1 - risk) labels, about a dozen ever larger
    sets are tested in turn, and the first whose Clopper-Pearson limit exceeds the target ends it.
    Ties enter whole. The labels must not be those the probe was fitted on. When not even the first
    set passes, the value is `fallback`, not certified, with the number of labels that would help.
    """
    if not 0 < target_risk < 1 or not 0 < delta < 1:
        raise ValueError(f"target_risk {target_risk} and delta {delta} must lie in (0, 1)")
    order = np.argsort(-probabilities, kind="stable")
    ranked, wrong = probabilities[order], np.cumsum(1 - correct[order])
    first = _first_size(ranked.size, target_risk, delta)
    passed: tuple[int, float] | None = None
    for size in _set_sizes(ranked, first):
        bound = clopper_pearson_upper(int(wrong[size - 1]), size, confidence=1 - delta)
        if bound > target_risk:
            break
        passed = (size, bound)
    if passed is None:
        return _uncertified(ranked, wrong, target_risk, fallback, delta)
    size, bound = passed
    text = f"error rate at most {target_risk:.0%}, certified on {size} of {ranked.size} labels"
    value, share = float(ranked[size - 1]), size / ranked.size
    errors = int(wrong[size - 1])
    return Threshold("target_risk", value, True, size, errors, bound, share, None, text)


def voided_threshold(
    certified: Threshold,
    probabilities: Float[np.ndarray, " item"],
    correct: Float[np.ndarray, " item"],
    *,
    void: Void,
    target_risk: float,
    fallback: float,
    delta: float = DELTA,
) -> Threshold:
    """The stricter threshold that takes the place of a certified one; it promises nothing.

    It trusts the surest set that certification begins with, or the surer half of what was certified
    if that is less, and nothing below `fallback`. The labels say no more what the errors are, so no
    set of them could be certified; where the router is surest it is still the least often wrong.
    """
    ranked = np.sort(probabilities)[::-1]
    first = _first_size(ranked.size, target_risk, delta)
    surest = float(ranked[max(1, min(first, certified.accepted // 2)) - 1])
    value = max(surest, fallback, math.nextafter(certified.value, math.inf))
    trusted = probabilities >= value
    text = (
        f"not certified any more: {void}; the surest answers alone are trusted, and no risk is "
        "promised, until the router is fitted on new labels"
    )
    return replace(
        certified,
        value=value,
        certified=False,
        accepted=int(trusted.sum()),
        errors=int((1 - correct[trusted]).sum()),
        risk_bound=None,
        coverage=float(trusted.mean()),
        explanation=text,
        void=void,
    )


def first_set_size(target_risk: float, *, delta: float = DELTA) -> int:
    """Smallest set that is tested: three times the fewest error-free labels that can certify.

    33 for a risk of .2, as .8^11 is the first power below .1.
    """
    return 3 * math.ceil(math.log(delta) / math.log(1 - target_risk))


def _first_size(labels: int, target_risk: float, delta: float) -> int:
    """With many labels the first set grows too, or its chance errors would end every sequence."""
    return max(first_set_size(target_risk, delta=delta), labels // _FIRST_SHARE)


def _set_sizes(ranked: np.ndarray, first: int) -> list[int]:
    """Sizes of the sets to test, rising, each grown to the end of its tie."""
    if ranked.size < first:
        return []
    raw = np.unique(np.linspace(first, ranked.size, _STEPS).round().astype(int))
    # The list falls, so everything not below the last accepted value is accepted.
    return sorted({int(np.searchsorted(-ranked, -ranked[size - 1], side="right")) for size in raw})


def _uncertified(
    ranked: np.ndarray, wrong: np.ndarray, target_risk: float, fallback: float, delta: float
) -> Threshold:
    accepted = min(_first_size(ranked.size, target_risk, delta), ranked.size)
    errors = int(wrong[accepted - 1]) if accepted else 0
    bound = clopper_pearson_upper(errors, accepted, confidence=1 - delta)
    enough = _accepted_needed(errors / accepted if accepted else 0.0, target_risk, delta)
    share = float(np.mean(ranked >= fallback)) if ranked.size else None
    if enough is None:
        needed = None
        text = (
            f"not certified: {errors} of the surest {accepted} labels are wrong, which is not "
            f"below {target_risk:.0%}; a better router is needed rather than more labels"
        )
    else:
        first = first_set_size(target_risk, delta=delta)
        total = first if enough <= first else _FIRST_SHARE * enough
        needed = max(1, total - ranked.size)
        text = f"not certified: about {needed} more labels needed for a risk of {target_risk:.0%}"
    return Threshold("target_risk", fallback, False, accepted, errors, bound, share, needed, text)


def _accepted_needed(error_rate: float, target_risk: float, delta: float) -> int | None:
    """Fewest accepted labels that certify the target if errors go on at this rate."""
    if error_rate >= target_risk:
        return None
    size = 1
    while size < _MOST_LABELS:
        errors = round(error_rate * size)
        if clopper_pearson_upper(errors, size, confidence=1 - delta) <= target_risk:
            return size
        size = max(size + 1, math.ceil(size * 1.02))
    return None
