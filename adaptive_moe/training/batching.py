"""Which examples every optimiser step sees, and how they are cut into forward passes."""

from collections.abc import Sequence

import numpy as np

from adaptive_moe.training.encoding import EncodedExample


def step_examples(step: int, *, count: int, batch_size: int, seed: int) -> list[int]:
    """Indexes of the examples of one step (from 0): epochs of seeded permutations, end to end.

    The order depends on nothing but its arguments, so a resumed training sees what it would have.
    """
    order: list[int] = []
    position = step * batch_size
    while len(order) < batch_size:
        epoch, start = divmod(position, count)
        permutation = np.random.default_rng([seed, epoch]).permutation(count)
        part = permutation[start : start + batch_size - len(order)]
        order += [int(index) for index in part]
        position += len(part)
    return order


def micro_batches(
    indexes: Sequence[int],
    examples: Sequence[EncodedExample],
    *,
    size: int,
    max_width: int | None = None,
) -> list[list[int]]:
    """Groups of at most `size` of similar length, longest first.

    `max_width` bounds the longest prompt plus the longest answer of a group, for models whose
    stored mask counts padding; a single example is never refused.
    """
    ordered = sorted(
        indexes,
        key=lambda i: (len(examples[i].answer_ids), len(examples[i].prompt_ids), i),
        reverse=True,
    )
    groups: list[list[int]] = []
    for index in ordered:
        if groups and len(groups[-1]) < size and _fits([*groups[-1], index], examples, max_width):
            groups[-1].append(index)
        else:
            groups.append([index])
    return groups


def _fits(group: Sequence[int], examples: Sequence[EncodedExample], width: int | None) -> bool:
    if width is None:
        return True
    longest_prompt = max(len(examples[index].prompt_ids) for index in group)
    return longest_prompt + max(len(examples[index].answer_ids) for index in group) <= width
