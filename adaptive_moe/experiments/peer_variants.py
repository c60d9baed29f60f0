"""What others take for the same answers: bare transformers, and every way PEFT has.

A peer that cannot do it, on a quantised base for example, is reported as failed, with its reason.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch

from adaptive_moe.experiments import peers
from adaptive_moe.experiments.figures import Figure, reason_of
from adaptive_moe.experiments.interleaved import Comparison, Run, Variant
from adaptive_moe.experiments.plan import Plan
from adaptive_moe.experiments.workload import NAMES, generated, prompts_of, token_ids
from adaptive_moe.experts.weights import LoraWeights
from adaptive_moe.models.language_model import LanguageModel

BARE = "bare"
PEER_ROUNDS = 10

# X-LoRA reads the whole text twice for every token; a full comparison would take most of the run.
_SHORT_TOKENS = 16
_SLOW_ROUNDS = 3


@dataclass(frozen=True, slots=True)
class _Peer:
    """One way of PEFT: which row of the table it belongs to, and how to get it ready."""

    row: str
    name: str
    prepare: Callable[[], Run]
    reference: Variant
    rounds: int = PEER_ROUNDS
    note: str = ""


class Peers:
    """Bare transformers and PEFT on one model, with the same eight experts as ours."""

    def __init__(
        self,
        language_model: LanguageModel,
        plan: Plan,
        experts: dict[str, LoraWeights],
        *,
        title: str,
        folder: Path,
    ) -> None:
        self._language_model, self._plan, self._title = language_model, plan, title
        self._experts, self._folder = experts, folder

    def bare(self, batch: int, *, new_tokens: int | None = None) -> Variant:
        """The `generate` of transformers on the untouched base."""
        tokens = new_tokens or self._plan.new_tokens
        name = BARE if tokens == self._plan.new_tokens else f"{BARE} ({tokens} tokens)"
        model = self._language_model.model
        return Variant(name, batch, partial(self._generate, model, self._ids(batch), tokens))

    def comparisons(self, batch: int, bare: Variant) -> tuple[list[Comparison], list[Figure]]:
        """Those that work on this model, run once and found to work, and those that do not."""
        found, failed = [], []
        for peer in self._peers(batch, bare):
            try:
                variant = Variant(peer.name, batch, peer.prepare())
                variant.run()
            except Exception as error:  # noqa: BLE001 - whatever a peer raises is its result
                failed.append(
                    Figure.failed(
                        peer.row,
                        peer.name,
                        self._title,
                        reason_of(error),
                        batch=batch,
                        is_peer=True,
                    )
                )
                continue
            found.append(
                Comparison(
                    peer.row,
                    variant,
                    peer.reference,
                    most_rounds=peer.rounds,
                    is_peer=True,
                    note=peer.note,
                )
            )
        return found, failed

    def _peers(self, batch: int, bare: Variant) -> Iterator[_Peer]:
        ids, tokens = self._ids(batch), self._plan.new_tokens
        several = [NAMES[row % len(NAMES)] for row in range(batch)]

        def with_adapters(*names: str) -> int:
            self._peft.base_model.set_adapter(list(names))
            return self._generate(self._peft, ids, tokens)

        def one_per_row() -> int:
            return self._generate(self._peft, ids, tokens, adapter_names=several)

        yield _Peer("one_expert", "PEFT", lambda: partial(with_adapters, NAMES[0]), bare)
        if batch > 1:
            yield _Peer("eight_experts", "PEFT adapter_names", lambda: one_per_row, bare)
        four = partial(with_adapters, *NAMES[:4])
        yield _Peer("four_mixed", "PEFT, four at once", lambda: four, bare)
        yield _Peer(
            "four_mixed",
            "PEFT add_weighted_adapter",
            lambda: partial(with_adapters, self._mixture),
            bare,
            note="made beforehand: one adapter of four ranks, with fixed gates",
        )
        yield _Peer(
            "eight_experts" if batch > 1 else "four_mixed",
            "PEFT Arrow",
            lambda: partial(self._generate, self._arrow, ids, tokens),
            bare,
            note="three of eight experts per token",
        )
        few = min(tokens, _SHORT_TOKENS)
        yield _Peer(
            "four_mixed",
            "PEFT X-LoRA",
            lambda: partial(self._generate, self._x_lora, ids, few),
            self.bare(batch, new_tokens=few),
            rounds=_SLOW_ROUNDS,
            note=f"answers of {few} tokens, {_SLOW_ROUNDS} rounds at most: it keeps no key-values, "
            "so longer answers cost it more",
        )

    @cached_property
    def _peft(self) -> Any:  # noqa: ANN401 - PEFT is untyped
        return peers.in_peft(peers.twin(self._language_model.model), self._experts)

    @cached_property
    def _mixture(self) -> str:
        return peers.add_mixture(self._peft, dict.fromkeys(NAMES[:4], 0.25))

    @cached_property
    def _folders(self) -> dict[str, Path]:
        alone = peers.in_peft(peers.twin(self._language_model.model), self._experts)
        return peers.saved(alone, self._folder)

    @cached_property
    def _arrow(self) -> Any:  # noqa: ANN401 - PEFT is untyped
        return peers.arrow(self._language_model.model, list(self._folders.values()))

    @cached_property
    def _x_lora(self) -> Any:  # noqa: ANN401 - PEFT is untyped
        folders = list(self._folders.values())[:4]
        size = self._language_model.hidden_size
        return peers.x_lora(self._language_model.model, folders, hidden_size=size)

    def _ids(self, batch: int) -> torch.Tensor:
        prompts = prompts_of(self._language_model, self._plan.prompt_tokens, batch)
        return token_ids(self._language_model, prompts)

    def _generate(
        self,
        model: Any,  # noqa: ANN401 - transformers' or PEFT's
        ids: torch.Tensor,
        new_tokens: int,
        **options: list[str],
    ) -> int:
        return generated(model, ids, new_tokens, pad_id=self._language_model.pad_id, **options)
