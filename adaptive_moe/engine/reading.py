"""Reads prompts by the base alone: what routing needs of them, and where decoding begins."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
from jaxtyping import Float
from transformers.cache_utils import Cache

from adaptive_moe.experts.bank import LoraBank
from adaptive_moe.models.language_model import EncodedPrompt, LanguageModel
from adaptive_moe.models.prefilling import Prefill, prefill, prefill_on, take_rows
from adaptive_moe.models.prompt_memory import PromptMemory
from adaptive_moe.router.domains import state_vector
from adaptive_moe.router.evidence import Evidence
from adaptive_moe.router.scores import prefill_scores_by_row


@dataclass(frozen=True, slots=True)
class Reading:
    """A batch of prompts as read: the prefill, and each one's evidence and model calls."""

    filled: Prefill
    evidence: tuple[Evidence, ...]
    forwards: tuple[int, ...]


@final
class PromptReader:
    """The base's first look at prompts. One prompt at a time it remembers what it has read.

    So the next turn of a conversation, or a prompt after the same system message, is read from
    where it differs on. What experts wrote is not in there: the base reads it once, as text.
    """

    def __init__(self, language_model: LanguageModel, bank: LoraBank, *, memory_bytes: int) -> None:
        self._language_model = language_model
        self._bank = bank
        self._memory = PromptMemory(language_model, capacity_bytes=memory_bytes)

    def read(self, prompts: Sequence[EncodedPrompt]) -> Reading:
        """Read all prompts; those that are the same once."""
        places = {prompt: place for place, prompt in enumerate(dict.fromkeys(prompts))}
        different = list(places)
        with self._bank.activate([()] * len(different)):
            filled = self._prefill(different)
        states, turns = self._states(filled)
        scores = prefill_scores_by_row(filled.first_logits)
        rows = [places[prompt] for prompt in prompts]
        return Reading(
            filled=take_rows(filled, rows),
            evidence=tuple(Evidence(scores[row], states[row], different[row].text) for row in rows),
            forwards=tuple(filled.forwards + turns.get(row, 0) for row in rows),
        )

    def remember(self, ids: Sequence[int], cache: Cache) -> None:
        """Keep a cache of one row, filled by the base alone, for prompts that go on from there."""
        self._memory.keep(ids[: cache.get_seq_length()], cache)

    @property
    def held_bytes(self) -> int:
        """Bytes of the key-values that are kept for prompts to come."""
        return self._memory.used_bytes

    def forget(self) -> bool:
        """Give back the memory; whether there was anything in it."""
        return self._memory.clear()

    def _prefill(self, prompts: Sequence[EncodedPrompt]) -> Prefill:
        if len(prompts) > 1:
            return prefill(self._language_model, prompts)
        (prompt,) = prompts
        # The mean state of a prompt tells where it lies; of a conversation only its last turn does.
        known = self._memory.longest(prompt.prompt_ids) if prompt.has_context else None
        if known is None:
            filled = prefill(self._language_model, prompts)
        else:
            cache, tokens = known
            filled = prefill_on(self._language_model, prompt, cache, tokens=tokens)
        self.remember(prompt.prompt_ids, filled.cache)
        return filled

    def _states(self, filled: Prefill) -> tuple[list[Float[np.ndarray, " state"]], dict[int, int]]:
        """Where each prompt lies, by its last turn alone, which is how routers learn prompts.

        Only a prompt with something before its last turn costs a second, short prefill; how many
        passes that took is told by row.
        """
        states = [state_vector(filled, row=row) for row in range(len(filled.prompts))]
        later = [row for row, prompt in enumerate(filled.prompts) if prompt.has_context]
        if not later:
            return states, {}
        turns = [self._language_model.encode(filled.prompts[row].text) for row in later]
        with self._bank.activate([()] * len(turns)):
            alone = prefill(self._language_model, turns)
        for place, row in enumerate(later):
            states[row] = state_vector(alone, row=place)
        return states, dict.fromkeys(later, alone.forwards)
