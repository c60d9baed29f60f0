"""Reads where prompts lie in the base's own state space."""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float

from adaptive_moe.engine.batches import in_batches
from adaptive_moe.experts.bank import LoraBank
from adaptive_moe.models.decoding import prefill
from adaptive_moe.models.language_model import EncodedPrompt, LanguageModel, Prompt
from adaptive_moe.router.domains import state_vector

StateReader = Callable[[Sequence[Prompt]], Float[np.ndarray, "prompt state"]]


def state_size(language_model: LanguageModel) -> int:
    """Numbers in a state vector: pooled and header states at each of the model's state layers."""
    return 2 * len(language_model.state_layers) * language_model.hidden_size


def state_reader(language_model: LanguageModel, bank: LoraBank) -> StateReader:
    """A function from prompts to their raw state vectors under the bare base.

    It places training material, which may exceed the context; as in training, its left end is cut.
    """

    def read(prompts: Sequence[Prompt]) -> Float[np.ndarray, "prompt state"]:
        encoded = [language_model.encode_end(prompt) for prompt in prompts]
        return np.stack(in_batches(encoded, vectors, length=lambda each: each.length))

    def vectors(encoded: list[EncodedPrompt]) -> list[np.ndarray]:
        with bank.activate([()] * len(encoded)):
            state = prefill(language_model, encoded)
        return [state_vector(state, row=row) for row in range(len(encoded))]

    return read
