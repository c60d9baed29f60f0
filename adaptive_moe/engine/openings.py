"""Where the answers of a batch begin: who reads, up to where, and what they would say first."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import final

from jaxtyping import Float, Int
from torch import Tensor
from transformers.cache_utils import Cache

from adaptive_moe.engine.choosing import Chooser
from adaptive_moe.experts.bank import LoraBank
from adaptive_moe.experts.pool import Mixture
from adaptive_moe.models.blending import Blend
from adaptive_moe.models.language_model import LanguageModel
from adaptive_moe.models.prefilling import Prefill, prefill_whole, run_header, take_rows


@dataclass(frozen=True, slots=True)
class Opening:
    """The cache after the header, its mask, and the raw logits of the first answer token.

    They have a row for every prompt, with a `blend` one for every reader of it. With `by_token`
    gates are found anew in every token.
    """

    cache: Cache
    attention_mask: Int[Tensor, "row time"]
    first_logits: Float[Tensor, "row vocab"]
    blend: Blend | None = None
    by_token: bool = False


@final
class Openings:
    """Opens batches whose mixtures are of one kind."""

    def __init__(self, language_model: LanguageModel, bank: LoraBank, chooser: Chooser) -> None:
        self._language_model = language_model
        self._bank = bank
        self._chooser = chooser

    @contextmanager
    def opened(
        self, filled: Prefill, mixtures: Sequence[Mixture], *, static: bool = False
    ) -> Iterator[Opening]:
        """The prompts' opening; inside of the block their experts, which are held, are active."""
        mixed = self._chooser.mixed(mixtures[0])
        readers = None
        if mixed == "distributions":
            readers = [(row, each) for row, mixture in enumerate(mixtures) for each in mixture]
            filled = take_rows(filled, [row for row, _ in readers])
        by_token = mixed == "updates by token"
        with self._active(mixtures, readers, by_token=by_token, static=static):
            cache, mask, logits = self._begin(filled, mixtures)
            blend = None
            if readers is not None:
                gates = [[gate for _, gate in mixture] for mixture in mixtures]
                blend = Blend(gates, device=self._language_model.device)
            yield Opening(cache, mask, logits, blend, by_token)

    def _active(
        self,
        mixtures: Sequence[Mixture],
        readers: Sequence[tuple[int, tuple[str, float]]] | None,
        *,
        by_token: bool,
        static: bool,
    ) -> AbstractContextManager[None]:
        if by_token:
            return self._bank.activate_by_token(mixtures)
        if readers is not None:
            mixtures = [((expert_id, 1.0),) for _, (expert_id, _) in readers]
        return self._bank.activate(mixtures, static=static)

    def _begin(
        self, filled: Prefill, mixtures: Sequence[Mixture]
    ) -> tuple[Cache, Int[Tensor, "row time"], Float[Tensor, "row vocab"]]:
        if not any(mixtures):
            return filled.header_cache, filled.attention_mask, filled.first_logits
        if self._chooser.activation(mixtures[0]) == "prompt":
            return prefill_whole(self._language_model, filled.prompts)
        cache, logits = run_header(self._language_model, filled)
        return cache, filled.attention_mask, logits
