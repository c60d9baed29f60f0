"""Loss on answer tokens alone: the header and the answer run, the prompt comes from a cache."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal, cast, final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from adaptive_moe.experts.bank import LoraBank
from adaptive_moe.experts.weights import LoraStack, LoraWeights
from adaptive_moe.models.language_model import LanguageModel
from adaptive_moe.models.prefilling import left_pad
from adaptive_moe.training.encoding import EncodedExample
from adaptive_moe.training.last_block import LastBlock
from adaptive_moe.training.layouts import Layout, lay_out
from adaptive_moe.training.lower_blocks import LowerBlocks
from adaptive_moe.training.packing import can_pack, packed, packed_cache
from adaptive_moe.training.prompt_cache import (
    PackedPrompts,
    PromptCache,
    Prompts,
    pass_arguments,
)
from adaptive_moe.training.recomputing import RecomputedBlocks

_FEW = 2  # a pass in which most tokens end early has so many times those that do not
_SAME_LOGITS = 1e-4  # relative; else the model does more to its logits than the head does


@dataclass(frozen=True, slots=True)
class BatchLoss:
    """Losses of one forward pass; only `totals` carries gradients.

    `totals` are the sums over the answers' tokens of every slot, the end token included, in nats;
    `per_example` the sum of each answer; `exact` whether greedy decoding would produce exactly the
    answer.
    """

    totals: Float[Tensor, " slot"]
    per_example: Float[Tensor, " batch"]
    exact: Bool[Tensor, " batch"]
    tokens: int

    @property
    def total(self) -> Float[Tensor, ""]:
        """Of all slots together."""
        return self.totals.sum()


@dataclass(frozen=True, slots=True)
class _Run:
    """One forward pass, and where in it an answer's next token is foretold.

    `needed` counts the last `width` tokens of every row, row behind row; `wanted` are the tokens
    that are to follow there, and `row` the places of their examples in the batch.
    """

    ids: Int[Tensor, "row time"]
    arguments: dict[str, Any]
    width: int
    needed: Int[Tensor, " token"]
    wanted: Int[Tensor, " token"]
    row: Int[Tensor, " token"]

    def take(self, states: Float[Tensor, "row _ feature"]) -> Float[Tensor, "token feature"]:
        """Those of the needed tokens."""
        return states[:, -self.width :].flatten(0, 1).index_select(0, self.needed)


@final
class AnswerLoss:
    """Computes the loss of batches of one set of examples, exactly as they would be served.

    With activation "answer" the prompts' key-values come from the base through a `PromptCache`,
    and only header and answer run under whatever is active; with "prompt" everything does. A model
    whose code allows it runs them end to end (`packing`), others padded to one length. Where
    nothing is active in the first `lower_blocks` blocks, "answer" runs header and answer through
    them once, and then through the others only. With "prompt" the tokens before an answer end with
    their key-values in the last block, unless `every_token` is to run through all layers. With
    `recompute` a pass keeps little for its gradients, which then cost a second one; it may be
    switched on later.
    """

    def __init__(
        self,
        language_model: LanguageModel,
        bank: LoraBank,
        examples: Sequence[EncodedExample],
        *,
        activation: Literal["answer", "prompt"],
        prompt_cache_bytes: int,
        lower_blocks: int = 0,
        recompute: bool = False,
        every_token: bool = False,
    ) -> None:
        self.examples = examples
        self.recompute = recompute
        self.max_width: int | None = None
        if language_model.has_fixed_mask:
            self.max_width = language_model.context_length - len(language_model.header_ids) + 1
        self._language_model = language_model
        self._bank = bank
        self._cache: PromptCache | None = None
        self._lower: LowerBlocks | None = None
        if activation == "answer" and lower_blocks:
            self._lower = LowerBlocks(language_model, lower_blocks)
        self._recomputed = RecomputedBlocks(language_model, first=lower_blocks)
        # Another thread may be answering with an expert: what is kept here must be the base's.
        with bank.activate_weights({}):
            if activation == "answer":
                self._cache = PromptCache(
                    language_model,
                    examples,
                    capacity_bytes=prompt_cache_bytes,
                    lower=self._lower,
                )
            self._states = _states_function(language_model)
            self.packs = can_pack(language_model)
            self._last: LastBlock | None = None
            if activation == "prompt" and self.packs and self._states and not every_token:
                last = LastBlock(language_model)
                self._last = last if last.gives_the_same(self._states[0]) else None
        self._keeps_logits = self._states is None and language_model.takes_logits_to_keep

    @property
    def cached_bytes(self) -> int:
        """Bytes of prompt key-values held now."""
        return self._cache.used_bytes if self._cache is not None else 0

    @contextmanager
    def active(self, weights: LoraWeights) -> Iterator[None]:
        """The base with these weights, {} for it alone.

        Prompts are taken, losses computed and their gradients found in here.
        """
        with self._bank.activate_weights(weights), self._packed_passes():
            yield

    @contextmanager
    def active_stack(self, stack: Mapping[str, LoraStack]) -> Iterator[None]:
        """`active` for several slots, each under weights of its own; only where it `packs`."""
        with self._bank.activate_stack(stack), self._packed_passes():
            yield

    def read_ahead(self, *, before_block: Callable[[], None] | None = None) -> None:
        """Fill the prompt cache, a block at a time, so that others can answer in between.

        `before_block` is called before each and may raise to stop; what was read stays.
        """
        more = self._cache is not None
        while more and self._cache is not None:
            if before_block is not None:
                before_block()
            with self.active({}):
                more = self._cache.read_ahead()

    def prompts(
        self, indexes: Sequence[int], *, slots: Sequence[int] = ()
    ) -> Prompts | PackedPrompts:
        """The base's view of the prompts; to be taken inside of `active({})`.

        `slots` tells of every row whose it is, counted from 0 and none left out; without it, and
        wherever nothing `packs`, all are of one.
        """
        if self.packs:
            return self._packed_prompts(indexes, slots)
        if self._cache is not None:
            return self._cache.batch(indexes)
        _, mask = left_pad(self._language_model, [self._start(index) for index in indexes])
        return Prompts(None, mask)

    def compute(self, indexes: Sequence[int], prompts: Prompts | PackedPrompts) -> BatchLoss:
        """Run the batch on top of `prompts(indexes)`, inside of `active`."""
        ending: AbstractContextManager[None] = nullcontext()
        if isinstance(prompts, PackedPrompts):
            run, ending = self._packed(indexes, prompts)
        else:
            run = self._padded(indexes, prompts)
        keeping = self._recomputed.active() if self.recompute else nullcontext()
        with ending, keeping, self._without_lower_blocks(prompts):
            logits = self._logits(run)
        slots = prompts.layout.slots if isinstance(prompts, PackedPrompts) else ()
        return _batch_loss(logits, run, rows=len(indexes), slots=slots)

    def _packed_passes(self) -> AbstractContextManager[None]:
        return packed(self._language_model) if self.packs else nullcontext()

    def _packed_prompts(self, indexes: Sequence[int], slots: Sequence[int]) -> PackedPrompts:
        examples = [self.examples[index] for index in indexes]
        read = [0 if self._cache is None else len(each.prompt_ids) for each in examples]
        tokens = [len(self._tokens(index)) for index in indexes]
        layout = lay_out(read, tokens, device=self._language_model.device, slots=slots)
        if self._cache is not None:
            return self._cache.packed(indexes, layout)
        return PackedPrompts(packed_cache(self._language_model, layout), layout)

    def _start(self, index: int) -> tuple[int, ...]:
        """What runs before an answer: the header, and the prompt where none is kept."""
        header = self._language_model.header_ids
        return header if self._cache is not None else (*self.examples[index].prompt_ids, *header)

    def _tokens(self, index: int) -> tuple[int, ...]:
        """What runs of an example: nothing follows on the last token of its answer."""
        return (*self._start(index), *self.examples[index].answer_ids[:-1])

    def _packed(
        self, indexes: Sequence[int], prompts: PackedPrompts
    ) -> tuple[_Run, AbstractContextManager[None]]:
        """The pass, and what it is to run in."""
        layout, device = prompts.layout, self._language_model.device
        ids: list[int] = []
        needed: list[int] = []
        for row in layout.order:
            ids += self._tokens(indexes[row])
            needed += range(len(ids) - self._answer_length(indexes[row]), len(ids))
        arguments = {
            "past_key_values": prompts.cache,
            "position_ids": layout.positions,
            "use_cache": True,
        }
        tokens = layout.spread(torch.tensor(ids, device=device))
        places = torch.tensor(needed, device=device)
        width, everyone = tokens.shape[1], torch.arange(len(needed), device=device)
        ending: AbstractContextManager[None] = nullcontext()
        if self._last is not None and _FEW * len(needed) <= len(ids):
            tail = self._tail(indexes, layout)
            ending = self._last.asked(prompts.cache, layout, tail, places)
            width, places = tail.positions.shape[1], tail.in_pass(everyone)
        elif layout.places is None and self._keeps_logits:
            arguments["logits_to_keep"] = places
            width, places = len(needed), everyone
        else:
            places = layout.in_pass(places)
        run = self._run(tokens, arguments, indexes, layout.order, needed=places, width=width)
        return run, ending

    def _tail(self, indexes: Sequence[int], layout: Layout) -> Layout:
        """Of the tokens behind which an answer's next one is foretold, in a pass of them alone."""
        needed = [self._answer_length(index) for index in indexes]
        before = [len(self._tokens(i)) - own for i, own in zip(indexes, needed, strict=True)]
        device = self._language_model.device
        return lay_out(before, needed, device=device, slots=layout.slots, tail_of=layout)

    def _padded(self, indexes: Sequence[int], prompts: Prompts) -> _Run:
        width = max(self._answer_length(index) for index in indexes)
        starts, _ = left_pad(self._language_model, [self._start(index) for index in indexes])
        answers = [self.examples[index].answer_ids[:-1] for index in indexes]
        ids = [
            [*start, *answer, *[0] * (width - 1 - len(answer))]
            for start, answer in zip(starts.tolist(), answers, strict=True)
        ]
        needed = [
            row * width + place
            for row, index in enumerate(indexes)
            for place in range(self._answer_length(index))
        ]
        device = self._language_model.device
        tokens, places = torch.tensor(ids, device=device), torch.tensor(needed, device=device)
        arguments = pass_arguments(self._language_model, tokens, prompts.cache, prompts.mask)
        if self._keeps_logits:
            arguments["logits_to_keep"] = width
        return self._run(tokens, arguments, indexes, range(len(ids)), needed=places, width=width)

    def _run(
        self,
        ids: Int[Tensor, "row time"],
        arguments: dict[str, Any],
        indexes: Sequence[int],
        order: Sequence[int],
        *,
        needed: Int[Tensor, " token"],
        width: int,
    ) -> _Run:
        answers = [
            (row, token) for row in order for token in self.examples[indexes[row]].answer_ids
        ]
        row, wanted = torch.tensor(answers, device=needed.device).unbind(dim=1)
        return _Run(ids, arguments, width, needed, wanted, row)

    def _answer_length(self, index: int) -> int:
        return len(self.examples[index].answer_ids)

    def _without_lower_blocks(
        self, prompts: Prompts | PackedPrompts
    ) -> AbstractContextManager[None]:
        if self._lower is None or prompts.lower_states is None:
            return nullcontext()
        return self._lower.skipped(prompts.lower_states)

    def _logits(self, run: _Run) -> Float[Tensor, "token vocab"]:
        if self._states is not None:
            states, head = self._states
            return cast("Tensor", head(run.take(states(run.ids, **run.arguments)))).float()
        model = cast("Any", self._language_model.model)
        return run.take(model(run.ids, **run.arguments).logits).float()


def _batch_loss(
    logits: Float[Tensor, "token vocab"], run: _Run, *, rows: int, slots: Sequence[int]
) -> BatchLoss:
    losses = cross_entropy(logits, run.wanted, reduction="none")
    per_example = losses.new_zeros(rows).index_add(0, run.row, losses.detach())
    wrong = (logits.detach().argmax(dim=-1) != run.wanted).float()
    errors = losses.new_zeros(rows).index_add(0, run.row, wrong.to(losses.dtype))
    return BatchLoss(_totals(losses, run, slots), per_example, errors == 0, len(run.wanted))


def _totals(
    losses: Float[Tensor, " token"], run: _Run, slots: Sequence[int]
) -> Float[Tensor, " slot"]:
    """The sum of every slot; what is not finite in one of them stays there."""
    if not any(slots):
        return losses.sum()[None]
    slot = torch.tensor(slots, device=losses.device)[run.row]
    own = slot == torch.arange(max(slots) + 1, device=losses.device)[:, None]
    return torch.where(own, losses, 0.0).sum(dim=1)


_States = tuple[Callable[..., Tensor], nn.Module]


@torch.no_grad()
def _states_function(language_model: LanguageModel) -> _States | None:
    """Decoder and head of the model, where head(decoder(ids)) are its logits; None where not.

    Some architectures scale or cap their logits: those go through the whole model.
    """
    model = cast("Any", language_model.model)
    head = model.get_output_embeddings()
    decoder = model.get_decoder() if hasattr(model, "get_decoder") else None
    if head is None or decoder is None or decoder is model:
        return None

    def states(ids: Tensor, **arguments: Any) -> Tensor:  # noqa: ANN401  the model's own keywords
        return cast("Tensor", decoder(ids, **arguments).last_hidden_state)

    probe = torch.tensor([list(language_model.header_ids)], device=language_model.device)
    try:
        by_parts = head(states(probe, use_cache=False)).float()
    except (AttributeError, TypeError, RuntimeError):
        return None
    whole = model(probe, use_cache=False).logits.float()
    if by_parts.shape != whole.shape:
        return None
    scale = whole.abs().max().clamp_min(1.0)
    same = bool(((by_parts - whole).abs().max() <= _SAME_LOGITS * scale).item())
    return (states, head) if same else None
