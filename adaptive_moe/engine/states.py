"""Reads where prompts lie in the base's own state space."""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float

from adaptive_moe.experts.bank import LoraBank
from adaptive_moe.models.decoding import prefill
from adaptive_moe.models.language_model import LanguageModel, Prompt
from adaptive_moe.router.domains import state_vector
from adaptive_moe.training.interruption import stop_if_cancelled

StateReader = Callable[[Sequence[Prompt]], Float[np.ndarray, "prompt state"]]

_BATCH = 32


def state_reader(language_model: LanguageModel, bank: LoraBank) -> StateReader:
    """A function from prompts to their raw state vectors under the bare base."""

    def read(prompts: Sequence[Prompt]) -> Float[np.ndarray, "prompt state"]:
        vectors: list[np.ndarray] = []
        for start in range(0, len(prompts), _BATCH):
            stop_if_cancelled()
            encoded = [language_model.encode(prompt) for prompt in prompts[start : start + _BATCH]]
            with bank.activate([()] * len(encoded)):
                state = prefill(language_model, encoded)
            vectors += [state_vector(state, row=row) for row in range(len(encoded))]
        return np.stack(vectors)

    return read
