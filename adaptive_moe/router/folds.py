"""Shares prompts out for cross-fitting, whole groups at a time."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int


def fold_numbers(groups: Sequence[str], *, folds: int, seed: int) -> Int[np.ndarray, " prompt"]:
    """The fold of every prompt, 0 to `folds` - 1; a group's prompts share theirs.

    Groups are shuffled and dealt out, so fewer groups than folds leave the last folds empty. A
    single group cannot be left out whole: then each prompt is a group of its own.
    """
    distinct = sorted(set(groups))
    if len(distinct) == 1:
        groups = [str(index) for index in range(len(groups))]
        distinct = sorted(groups)
    shuffled = np.random.default_rng(seed).permutation(len(distinct)) % folds
    fold_of = dict(zip(distinct, shuffled.tolist(), strict=True))
    return np.array([fold_of[group] for group in groups], dtype=np.int64)
