"""New questions as they come up in a chat: after others and their answers."""

import random
from collections import Counter
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import replace

from adaptive_moe.training.rows import Turn
from adaptive_moe.training.stages import Stage
from adaptive_moe.training.synthesis import AS_WRITTEN, Example, examples_hash

_MOST_EXCHANGES = 3
_KNOWN = 0.5  # share of the exchanges that are about what the base knows
_FEWEST_AGAIN = 1000  # rows of files; of more, not all can be taught several times
_COMMON = 0.2  # share of the questions that an answer is given to
_LONGEST = 200  # characters of an exchange; longer ones would cost more than they teach


def in_conversation(
    examples: Sequence[Example],
    known: Sequence[tuple[str, str]],
    *,
    fits: Callable[[Example], bool],
    share: float,
    seed: int,
) -> tuple[Example, ...]:
    """All examples in their order, `share` of the single questions after earlier exchanges.

    Those are one to three short questions with their answers, of `known` and of examples of other
    facts, with other answers but for common ones. Trained on single questions alone, an expert
    takes those of a chat for something else. What is no longer one that `fits` stays single.

    Rows of files have no other wording: they stay single, and up to a thousand of them, or that
    share of more, come once more after exchanges, at the end. With a `share` of 0 nothing does.
    """
    chance = random.Random(f"conversations {seed}")  # noqa: S311  not for security
    single = [index for index, each in enumerate(examples) if len(each.prompt) == 1]
    short = [examples[index] for index in single if _is_short(examples[index])]
    said = Counter(each.answer for each in short)
    common = {answer for answer, count in said.items() if count > _COMMON * len(short)}
    spoken, added = list(examples), list[Example]()
    for index in _chosen(examples, single, share, chance):
        each = examples[index]
        behind = replace(each, prompt=(*_before(each, short, known, common, chance), *each.prompt))
        if behind == each or not fits(behind):
            continue
        if each.form == AS_WRITTEN:
            added.append(behind)
        else:
            spoken[index] = behind
    return (*spoken, *added)


def conversation_stage(before: Sequence[Example], after: Sequence[Example]) -> Stage:
    """The record of what came behind other turns."""
    pairs = zip(before, after, strict=False)  # those added follow
    behind = sum(len(one.prompt) < len(other.prompt) for one, other in pairs)
    behind += len(after) - len(before)
    left = {"train": len(after), "after others": behind}
    return Stage("conversations", {"train": len(before)}, left, examples_hash(after))


def _chosen(
    examples: Sequence[Example], single: Sequence[int], share: float, chance: random.Random
) -> list[int]:
    """Places of the questions that are to come after exchanges."""
    written = [index for index in single if examples[index].form == AS_WRITTEN]
    others = [index for index in single if examples[index].form != AS_WRITTEN]
    again = max(round(share * len(written)), _FEWEST_AGAIN) if share else 0
    chosen = chance.sample(others, round(share * len(others)))
    return chosen + chance.sample(written, min(again, len(written)))


def _is_short(example: Example) -> bool:
    return len(example.prompt[0][1]) + len(example.answer) <= _LONGEST


def _before(
    example: Example,
    short: Sequence[Example],
    known: Sequence[tuple[str, str]],
    common: Container[str],
    chance: random.Random,
) -> Iterator[Turn]:
    """The turns of the exchanges, of other facts.

    One with the example's own answer would tell it. A `common` answer may come all the same: an
    expert of few answers, such as yes and no, would learn that what has been said is wrong.
    """
    for _ in range(chance.randint(1, _MOST_EXCHANGES)):
        if known and chance.random() < _KNOWN:
            question, answer = chance.choice(known)
        elif short and (other := chance.choice(short)).fact != example.fact:
            question, answer = other.prompt[0][1], other.answer
        else:
            continue
        if answer != example.answer or answer in common:
            yield "user", question
            yield "assistant", answer
