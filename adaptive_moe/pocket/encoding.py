"""Turns training rows into token ids and loss weights, exactly as the chat template would."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tokenizers import Tokenizer

from adaptive_moe.pocket.corpus import Row
from adaptive_moe.pocket.tokenizer import BEGIN, END, HEADER, SYSTEM, USER

PROMPT_EVERY = 4


@dataclass(frozen=True, slots=True)
class Encoded:
    """A row as token ids with, for each token, the weight of predicting it."""

    ids: tuple[int, ...]
    weights: tuple[float, ...]


def encode_rows(
    rows: Iterable[Row], tokenizer: Tokenizer, *, prompt_weight: float
) -> list[Encoded]:
    """The rows as the chat template writes them; answers and their end weigh 1, headers 0.

    Prompts are learnt lightly, and in some rows only: enough to write one, little to pay.
    """
    rows = list(rows)
    texts = [text for row in rows for _, text in row.turns]
    encoded = iter(tokenizer.encode_batch(texts, add_special_tokens=False))
    begin, end = special_ids(tokenizer, (BEGIN, END))
    before = {
        "system": special_ids(tokenizer, (SYSTEM,)),
        "user": special_ids(tokenizer, (USER,)),
        "assistant": special_ids(tokenizer, HEADER),
    }
    results = []
    for index, row in enumerate(rows):
        ids, weights = [begin], [0.0]
        prompt = prompt_weight if index % PROMPT_EVERY == 0 else 0.0
        for role, _ in row.turns:
            content = [*next(encoded).ids, end]
            ids += before[role] + content
            if role == "assistant":
                weights += [0.0] * len(HEADER) + [1.0] * len(content)
            else:
                weights += [prompt] * (1 + len(content))
        results.append(Encoded(tuple(ids), tuple(weights)))
    return results


def special_ids(tokenizer: Tokenizer, names: Sequence[str]) -> list[int]:
    """The ids of special tokens, which every tokenizer of ours holds."""
    ids = [tokenizer.token_to_id(name) for name in names]
    return [id_ for id_ in ids if id_ is not None]
