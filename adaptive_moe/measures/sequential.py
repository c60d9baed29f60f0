"""Evidence that a failure rate is too high, which may be looked at after every single outcome."""

import math

from scipy import special

Count = int | float

_MAX_LOG = 700.0


def e_value(failures: Count, successes: Count, *, failure_rate: float) -> float:
    """Evidence that the failure rate exceeds `failure_rate`: 1 is none, 20 is alpha .05.

    The likelihood ratio against `failure_rate`, averaged over a uniform prior on
    (failure_rate, 1): B(f+1, s+1) (1 - I_q(f+1, s+1)) / ((1 - q) q^f (1 - q)^s). The method of
    mixtures, Robbins 1970; a supermartingale for every true rate <= q, so the chance that it ever
    reaches 1 / alpha is at most alpha (Ville). Counts may be fractions.
    """
    rate = min(max(failure_rate, 1e-9), 1.0 - 1e-9)
    tail = float(special.betaincc(failures + 1.0, successes + 1.0, rate))
    if tail <= 0.0:
        return 0.0
    log_e = (
        float(special.betaln(failures + 1.0, successes + 1.0))
        + math.log(tail)
        - (successes + 1.0) * math.log1p(-rate)
        - failures * math.log(rate)
    )
    return math.exp(min(log_e, _MAX_LOG))
