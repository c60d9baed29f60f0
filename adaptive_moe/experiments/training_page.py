"""Writes docs/training.md out of what `make training` measured.

`python -m adaptive_moe.experiments.training_page build/training.json docs/training.md`.
"""

import sys
from collections.abc import Mapping, Sequence

from adaptive_moe.experiments.page import Found, Page

_HOW = """\
Everything is trained on the pocket model, in all layers; at rank 8, but packs by default settings
and the sweep at its five ranks.

* **Speed.** All trainers start from the same factors, see the same examples in the same steps, and
  use AdamW with the same rates and clipping; a step has 32 examples in four passes. First it is
  measured that our losses and the Trainer's agree, then they take turns in random order; a ratio is
  the median over rounds, of CPU seconds over threads, or of wall seconds on CUDA. The examples of
  identical mathematics and of the sweep are a knowledge pack's own; those of cached prompts are
  words at random, 64 tokens of prompt and 16 of answer on average. Reading the prompts is part of
  the time, in every round anew; making the Trainer is part of its. trl's SFTTrainer gets the same
  tokens, in float32 and without gradient checkpointing, which it would otherwise use.
* **Packs.** Each in an empty store, from its documents alone, by default settings; wall seconds
  from reading them until the expert is live, the gate included. The blind questions were written
  by hand, and nothing reads them but this measurement; before and after, routing is automatic.
* **What a dry run foretells** comes from five seconds of steps that are thrown away; it is compared
  with the seconds of as many steps as the training took, as one that is done early takes fewer."""


def _conditions(_: Found) -> Mapping[str, str]:
    return {}


def _remarks(_: Found) -> Sequence[str]:
    return ()


TRAINING = Page(
    title="Training",
    opening="Written by `make training`; do not edit it. The figures to reach are fixed "
    "beforehand.",
    how=_HOW,
    conditions=_conditions,
    remarks=_remarks,
    profile="training_notes.md",
)

if __name__ == "__main__":
    sys.exit(TRAINING.main())
