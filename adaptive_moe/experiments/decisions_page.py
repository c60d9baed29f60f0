"""Writes docs/decisions.md out of what `make decisions` measured.

`python -m adaptive_moe.experiments.decisions_page build/decisions.json docs/decisions.md`.
"""

import sys
from collections.abc import Mapping, Sequence

from adaptive_moe.experiments.page import Found, Page

_HOW = """\
All but the last is asked of the pocket model, which was taught known facts a known number of times.
Facts are split by fact: the router that ships was fitted on two parts and is measured on the third,
three wordings of each fact, one of them unlike any in training. An answer is right if it is the
true one after folding case, articles and punctuation. Intervals hold 95 % and draw whole facts.
Nothing was tuned on what is measured here; what is chosen by data is chosen on the other splits,
and on other questions of the same knowledge packs.

* **Left-out domains**: every domain in turn is kept from the router and from the 200 labels that
  calibrate it, and judged by it.
* **lm-polygraph** runs in an environment of its own, on the same greedy answers, one at a time, on
  statistics made by transformers' own `generate` (its own generation forces a second token). The
  best of its estimators that need one pass and nothing else is chosen on the calibration split;
  Renyi and Fisher-Rao are tried both ways round.
* **Stated risks**: 400 labels of different facts choose a threshold, all other facts test it.
* **Gaps**: streams go through the whole runtime with default settings and no experts. The prompts
  of one knowledge pack are a tenth of the traffic, the others are drawn from facts seen 16 or 64
  times, of domains in which at most a fifth of those fail. Nobody grades an answer.
* **Routed system**: four experts, each trained on its pack's documents with default settings; the
  packs' blind questions, and as many about known facts of the test split. The oracle gives every
  question to its pack's expert or to the base.
* **Attribution**: random experts of rank 8 over all layers, 24 tokens.
* **A model of others** (`--foreign`, `--domains`): an untrained router, an expert for each domain,
  trained for 150 steps of 16 on at most 2,000 rows, and 100 test questions of each domain, those of
  the model's own kind among them. Its answers are neither right nor wrong there, so what routing is
  worth are the nats per token that the expected answers cost whoever is sent them."""


def _conditions(_: Found) -> Mapping[str, str]:
    return {}


def _remarks(_: Found) -> Sequence[str]:
    return ()


DECISIONS = Page(
    title="Decisions",
    opening="Written by `make decisions`; do not edit it. The figures to reach are fixed "
    "beforehand.",
    how=_HOW,
    conditions=_conditions,
    remarks=_remarks,
    profile="decisions_notes.md",
)

if __name__ == "__main__":
    sys.exit(DECISIONS.main())
