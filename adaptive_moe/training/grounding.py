"""Whether an answer stands in the passage that it is said to come from."""

from adaptive_moe.measures.graders import normalise


def is_grounded(answer: str, passage: str) -> bool:
    """Whether the answer's words stand in the passage in this order, side by side.

    Case, punctuation and articles do not count, as `normalise` has it. An empty answer never is.
    """
    words = normalise(answer)
    return bool(words) and f" {words} " in f" {normalise(passage)} "
