"""Loss on answer tokens alone: the header and the answer run, the prompt comes from a cache."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal, cast, final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers.cache_utils import Cache

from adaptive_moe.experts.bank import LoraBank
from adaptive_moe.experts.weights import LoraWeights
from adaptive_moe.models.language_model import LanguageModel
from adaptive_moe.models.prefilling import left_pad
from adaptive_moe.training.encoding import EncodedExample
from adaptive_moe.training.lower_blocks import LowerBlocks
from adaptive_moe.training.prompt_attention import over_prompts
from adaptive_moe.training.prompt_cache import PromptCache, Prompts, pass_arguments
from adaptive_moe.training.recomputing import RecomputedBlocks

_SAME_LOGITS = 1e-4  # relative; else the model does more to its logits than the head does
_IGNORED = -100


@dataclass(frozen=True, slots=True)
class BatchLoss:
    """Losses of one forward pass; only `total` carries gradients.

    `total` is the sum over the answers' tokens, the end token included, in nats; `per_example`
    the sum of each answer; `exact` whether greedy decoding would produce exactly the answer.
    """

    total: Float[Tensor, ""]
    per_example: Float[Tensor, " batch"]
    exact: Bool[Tensor, " batch"]
    tokens: int


@final
class AnswerLoss:
    """Computes the loss of batches of one set of examples, exactly as they would be served.

    With activation "answer" the prompts' key-values come from the base through a `PromptCache`,
    and only header and answer run under whatever is active; with "prompt" everything does. Where
    nothing is active in the first `lower_blocks` blocks, "answer" runs header and answer through
    them once, and then through the others only. With `recompute` a pass keeps little for its
    gradients, which then cost a second one; it may be switched on later.
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

    @property
    def cached_bytes(self) -> int:
        """Bytes of prompt key-values held now."""
        return self._cache.used_bytes if self._cache is not None else 0

    @contextmanager
    def active(self, weights: LoraWeights) -> Iterator[None]:
        """The base with these weights, {} for it alone.

        Prompts are taken, losses computed and their gradients found in here.
        """
        with self._bank.activate_weights(weights):
            if self._cache is not None and self._cache.keeps_apart:
                with over_prompts(self._language_model):
                    yield
            else:
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

    def prompts(self, indexes: Sequence[int]) -> Prompts:
        """The base's view of the prompts; to be taken inside of `active({})`."""
        if self._cache is not None:
            return self._cache.batch(indexes)
        header = self._language_model.header_ids
        rows = [(*self.examples[index].prompt_ids, *header) for index in indexes]
        _, mask = left_pad(self._language_model, rows)
        return Prompts(None, mask)

    def compute(self, indexes: Sequence[int], prompts: Prompts) -> BatchLoss:
        """Run the batch on top of `prompts(indexes)`, inside of `active`."""
        answers = [self.examples[index].answer_ids for index in indexes]
        width = max(len(answer) for answer in answers)
        targets = torch.full((len(answers), width), _IGNORED, dtype=torch.long)
        for row, answer in enumerate(answers):
            targets[row, : len(answer)] = torch.tensor(answer)
        targets = targets.to(prompts.mask.device)
        ids = self._ids(indexes, prompts.cache, targets)
        needed = targets != _IGNORED
        keeping = self._recomputed.active() if self.recompute else nullcontext()
        with keeping, self._without_lower_blocks(prompts):
            logits = self._logits(ids, prompts, needed)
        return _batch_loss(logits, targets, needed)

    def _ids(
        self,
        indexes: Sequence[int],
        cache: Cache | None,
        targets: Int[Tensor, "batch answer"],
    ) -> Int[Tensor, "batch time"]:
        """Header and answer without its last token, after the prompt where it has to run too."""
        header = self._language_model.header_ids
        if cache is None:
            rows = [(*self.examples[index].prompt_ids, *header) for index in indexes]
            start, _ = left_pad(self._language_model, rows)
        else:
            start = torch.tensor([header] * len(indexes), device=targets.device)
        inputs = targets[:, :-1].masked_fill(targets[:, :-1] == _IGNORED, 0)
        return torch.cat([start, inputs], dim=1)

    def _without_lower_blocks(self, prompts: Prompts) -> AbstractContextManager[None]:
        if self._lower is None or prompts.lower_states is None:
            return nullcontext()
        return self._lower.skipped(prompts.lower_states)

    def _logits(
        self,
        ids: Int[Tensor, "batch time"],
        prompts: Prompts,
        needed: Bool[Tensor, "batch answer"],
    ) -> Float[Tensor, "token vocab"]:
        arguments = pass_arguments(self._language_model, ids, prompts.cache, prompts.mask)
        width = needed.shape[1]
        if self._states is not None:
            states, head = self._states
            hidden = states(ids, **arguments)[:, -width:][needed]
            return cast("Tensor", head(hidden)).float()
        if self._language_model.takes_logits_to_keep:
            arguments["logits_to_keep"] = width
        logits = cast("Any", self._language_model.model)(ids, **arguments).logits
        return cast("Tensor", logits[:, -width:][needed]).float()


def _batch_loss(
    logits: Float[Tensor, "token vocab"],
    targets: Int[Tensor, "batch answer"],
    needed: Bool[Tensor, "batch answer"],
) -> BatchLoss:
    wanted = targets[needed]
    losses = cross_entropy(logits, wanted, reduction="none")
    row = needed.nonzero()[:, 0]
    per_example = losses.new_zeros(len(targets)).index_add(0, row, losses.detach())
    wrong = (logits.detach().argmax(dim=-1) != wanted).float()
    errors = losses.new_zeros(len(targets)).index_add(0, row, wrong.to(losses.dtype))
    return BatchLoss(losses.sum(), per_example, errors == 0, len(wanted))


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
