"""Writes docs/performance.md out of what `make bench` measured.

`python -m adaptive_moe.experiments.performance_page build/bench.json docs/performance.md`. Of
several files the figures of a later one take the place of an earlier one's, by benchmark and model.
"""

import sys
from collections.abc import Mapping, Sequence

from adaptive_moe.experiments.page import Found, Page

_HOW = """\
Every round runs every variant once, in random order, and a ratio is the median over rounds of a
variant's seconds over its reference's in the same round, with its distribution-free 95 % interval.
A variant stops when its interval lies within +-.01 (not before ten rounds); if rounds end sooner
and the interval holds what was to be reached, the figure is undecided. Seconds of answers are
CPU seconds of the process over its threads, on CUDA wall seconds; milliseconds are wall time.
A run is contended when other processes kept 0.3 processors busy meanwhile; the load average
before it, which lags by minutes, is told but judges only where that cannot be known.
Answers are greedy and of full length, attribution is off where it is not what is measured. Peers
answer the same prompts with the same experts in the same rounds; ten rounds do for them."""

_NOT_HERE = """\
Not measured on this device: models of 1.2 billion parameters in bf16 and nf4, torch.compile \
beside compiled `generate`, and how far bf16 answers agree between batch sizes. `make bench \
BENCH_OPTIONS="--device cuda"` measures these as well."""


def _conditions(found: Found) -> Mapping[str, str]:
    plan = found["plan"]
    return {
        "prompt / answer": f"{plan['prompt_tokens']} / {plan['new_tokens']} tokens",
        "experts": f"rank {plan['rank']}, random",
    }


def _remarks(found: Found) -> Sequence[str]:
    if found["machine"]["device"] != "cpu":
        return ()
    return (_NOT_HERE,)


PERFORMANCE = Page(
    title="Performance",
    opening="Written by `make bench`; do not edit it. The figures to reach are fixed beforehand.",
    how=_HOW,
    conditions=_conditions,
    remarks=_remarks,
    profile="performance_profile.md",
)

if __name__ == "__main__":
    sys.exit(PERFORMANCE.main())
