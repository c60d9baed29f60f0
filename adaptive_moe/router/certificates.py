"""The promise of a certified threshold, and the evidence that takes it back.

A certificate holds for prompts like the labels it was made of. Two streams tell whether traffic
still is like them: what people say of trusted answers, and how far prompts lie from what the router
learned. On each runs a test that may be looked at after every outcome (`measures.sequential`); a
certificate that holds is taken back by either with probability 0.05 at most, however long it
serves, if what is judged is a fair sample of what is trusted. It hardly ever is: people complain
sooner than they praise. So a void certificate says that the answers which people judged were wrong
more often than promised, and one that is not void says nothing of errors that nobody reported.
"""

import hashlib
from dataclasses import dataclass
from typing import Literal

import numpy as np

from adaptive_moe.measures.sequential import e_value
from adaptive_moe.router.model import RouterModel

ALPHA = 0.05  # chance of taking a good certificate back, for each of the two streams
# Before that many distinct prompts even a proof is only one person's run of bad luck.
_FEWEST_JUDGED = 8
_FEWEST_PROMPTS = 50
_FAR_SHARE = 0.1  # twice the share of calibration prompts that lie beyond the edge


@dataclass(frozen=True, slots=True)
class Certificate:
    """What is promised: of the answers with a p_correct of at least `value`, `target_risk` wrong.

    `id` is another one for a router fitted on other labels, another risk, or another threshold.
    """

    id: str
    target_risk: float
    value: float


@dataclass(frozen=True, slots=True)
class Void:
    """Why a certificate is void: `failures` in `counted` prompts are too many for `allowed`.

    For the reason "errors" judged answers count, and wrong ones are failures; for "strangers" all
    prompts that the base answered count, and those far from what the router learned are failures.
    `e_value` is the evidence that their share exceeds `allowed`.
    """

    reason: Literal["errors", "strangers"]
    counted: int
    failures: int
    allowed: float
    e_value: float

    def __str__(self) -> str:
        """A sentence without its full stop."""
        evidence = f"(e-value {self.e_value:.3g}, {1 / ALPHA:g} is enough)"
        if self.reason == "errors":
            return (
                f"{self.failures} of {self.counted} trusted answers that people judged were wrong, "
                f"more than {self.allowed:.0%} {evidence}"
            )
        return (
            f"{self.failures} of {self.counted} prompts were far from what the router was "
            f"calibrated on, more than {self.allowed:.0%} {evidence}"
        )


def certificate_of(model: RouterModel, *, target_risk: float, value: float) -> Certificate:
    """The certificate for this risk at the answer threshold `value`. `model` must be trained."""
    assert model.learned is not None
    split, digest = model.learned.calibration, hashlib.sha256()
    for text in (model.base_id, model.whitening.digest, repr(target_risk), repr(value)):
        digest.update(f"{text}\n".encode())
    for array in (split.p_prefill, split.p_correct, split.correct):
        digest.update(np.ascontiguousarray(array, dtype="<f8").tobytes())
    return Certificate(digest.hexdigest()[:32], target_risk, value)


def void_by_errors(certificate: Certificate, *, judged: int, wrong: int) -> Void | None:
    """The end of a certificate when judged answers prove more errors than it allows."""
    if judged < _FEWEST_JUDGED:
        return None
    return _void("errors", judged, wrong, certificate.target_risk)


def void_by_strangers(*, prompts: int, far: int) -> Void | None:
    """The end of a certificate when prompts prove to come from elsewhere than its labels."""
    if prompts < _FEWEST_PROMPTS:
        return None
    return _void("strangers", prompts, far, _FAR_SHARE)


def _void(
    reason: Literal["errors", "strangers"], counted: int, failures: int, allowed: float
) -> Void | None:
    evidence = e_value(failures, counted - failures, failure_rate=allowed)
    if evidence < 1 / ALPHA:
        return None
    return Void(reason, counted, failures, allowed, evidence)
