"""Runs prompts through the base once and keeps what routing and decoding need from that pass."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers.cache_utils import Cache

from adaptive_moe.models.growing_cache import can_be_cut, fork, new_cache, without_last
from adaptive_moe.models.language_model import EncodedPrompt, LanguageModel


@dataclass(frozen=True, slots=True)
class Prefill:
    """A batch of prompts read once by the base, and their headers read from there.

    `cache` ends before the header, left padded, so an expert can run the header itself;
    `header_cache` ends after it, by the base, with `first_logits` (raw) for the first token.
    `pooled` are the mean states of the prompt's tokens at the model's three `state_layers`,
    `header_states` those of the header's last token, both float32. Of a prompt whose first
    `known_tokens` came out of an earlier cache, `pooled` is the mean of the others, 0 without any.
    `forwards` counts the passes that all this took.
    """

    prompts: tuple[EncodedPrompt, ...]
    cache: Cache
    attention_mask: Int[Tensor, "batch time"]
    header_cache: Cache
    first_logits: Float[Tensor, "batch vocab"]
    pooled: Float[Tensor, "batch layer hidden"]
    header_states: Float[Tensor, "batch layer hidden"]
    forwards: int
    known_tokens: int = 0


@torch.inference_mode()
def prefill(language_model: LanguageModel, prompts: Sequence[EncodedPrompt]) -> Prefill:
    """Read all prompts and their headers, left padded.

    That is one pass where the cache can be cut in front of the header afterwards, else two.
    """
    assert prompts, "an empty batch has nothing to read"
    _assert_one_header(language_model, prompts)
    return _read(language_model, prompts, new_cache(language_model))


@torch.inference_mode()
def prefill_on(
    language_model: LanguageModel, prompt: EncodedPrompt, known: Cache, *, tokens: int
) -> Prefill:
    """Read what follows on the prompt's first `tokens` ids, which `known` holds already.

    `known` has one row, was filled by the base, and is used up.
    """
    _assert_one_header(language_model, [prompt])
    return _read(language_model, [prompt], known, known_tokens=tokens)


@torch.inference_mode()
def run_header(
    language_model: LanguageModel, prefill: Prefill
) -> tuple[Cache, Float[Tensor, "batch vocab"]]:
    """Read the header again on the base's prompt cache, under whatever experts are active."""
    cache = fork(prefill.cache)
    mask = prefill.attention_mask
    return cache, _forward_header(language_model, cache, prefill.prompts, mask)


@torch.inference_mode()
def prefill_whole(
    language_model: LanguageModel, prompts: Sequence[EncodedPrompt]
) -> tuple[Cache, Int[Tensor, "batch time"], Float[Tensor, "batch vocab"]]:
    """Read prompt and header in one pass under whatever is active, for whole-prompt experts.

    Returns the cache, its attention mask, and the raw logits of the first answer token.
    """
    _assert_one_header(language_model, prompts)
    ids, mask = left_pad(language_model, [(*x.prompt_ids, *x.header_ids) for x in prompts])
    cache = new_cache(language_model)
    is_padded = len({prompt.length for prompt in prompts}) > 1
    logits = forward(language_model, ids, cache=cache, attention_mask=mask if is_padded else None)
    return cache, mask, logits


@torch.inference_mode()
def take_rows(prefill: Prefill, rows: Sequence[int]) -> Prefill:
    """The sub-batch of these rows, in this order; a row may be taken several times."""
    if list(rows) == list(range(len(prefill.prompts))):
        return prefill
    index = torch.tensor(list(rows), device=prefill.attention_mask.device)
    header_cache = _take_cache_rows(prefill.header_cache, index)
    if can_be_cut(header_cache):
        cache = without_last(header_cache, len(prefill.prompts[0].header_ids))
    else:
        cache = _take_cache_rows(prefill.cache, index)
    return Prefill(
        prompts=tuple(prefill.prompts[row] for row in rows),
        cache=cache,
        attention_mask=prefill.attention_mask[index],
        header_cache=header_cache,
        first_logits=prefill.first_logits[index],
        pooled=prefill.pooled[index],
        header_states=prefill.header_states[index],
        forwards=prefill.forwards,
        known_tokens=prefill.known_tokens,
    )


def expand(prefill: Prefill, count: int) -> Prefill:
    """Every row `count` times in a row, for `num_return_sequences`."""
    return take_rows(prefill, [row for row in range(len(prefill.prompts)) for _ in range(count)])


def left_pad(
    language_model: LanguageModel, rows: Sequence[Sequence[int]]
) -> tuple[Int[Tensor, "batch time"], Int[Tensor, "batch time"]]:
    """Ids and mask (1 = a token, 0 = padding) of rows of different lengths, aligned at the end."""
    width = max(len(row) for row in rows)
    ids = [[language_model.pad_id] * (width - len(row)) + list(row) for row in rows]
    mask = [[0] * (width - len(row)) + [1] * len(row) for row in rows]
    device = language_model.device
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)


def forward(
    language_model: LanguageModel,
    ids: Int[Tensor, "batch time"],
    *,
    cache: Cache,
    attention_mask: Int[Tensor, "batch all_time"] | None,
    positions: Int[Tensor, "batch time"] | None = None,
) -> Float[Tensor, "batch vocab"]:
    """One forward pass that extends `cache`; returns the raw logits of the last position.

    Unlike `prefill` it sets no gradient mode: a trainer calls it under `torch.no_grad`, because
    tensors made in inference mode cannot take part in a backward pass.

    `attention_mask` covers cache and new ids; None says that nothing is padded. Positions default
    to those that the mask implies, so padding moves no token.
    """
    arguments: dict[str, Any] = {"past_key_values": cache, "use_cache": True}
    if attention_mask is not None:
        arguments["attention_mask"] = attention_mask
    if language_model.takes_positions and (positions is not None or attention_mask is not None):
        if positions is None:
            assert attention_mask is not None
            positions = (attention_mask.cumsum(dim=1) - 1).clamp_min(0)[:, -ids.shape[1] :]
        arguments["position_ids"] = positions
    if language_model.takes_logits_to_keep:
        arguments["logits_to_keep"] = 1
    output: Any = language_model.model(ids, **arguments)
    return cast("Tensor", output.logits[:, -1])


def extend_mask(mask: Int[Tensor, "batch time"], length: int) -> Int[Tensor, "batch all_time"]:
    """The mask with ones on its right until it is `length` wide."""
    missing = length - mask.shape[1]
    return torch.cat([mask, mask.new_ones(mask.shape[0], missing)], dim=1) if missing else mask


def _read(
    language_model: LanguageModel,
    prompts: Sequence[EncodedPrompt],
    cache: Cache,
    *,
    known_tokens: int = 0,
) -> Prefill:
    """Go on from a cache, which is empty or holds the first tokens of a single prompt."""
    header = len(language_model.header_ids)
    rest = [prompt.prompt_ids[known_tokens:] + prompt.header_ids for prompt in prompts]
    ids, mask = left_pad(language_model, rest)
    of_prompt = mask.clone()
    of_prompt[:, -header:] = 0
    weights = torch.stack([_mean(of_prompt), _last(mask)], dim=1)
    whole = torch.cat([mask.new_ones(len(prompts), known_tokens), mask], dim=1)
    is_padded = len({prompt.length for prompt in prompts}) > 1
    go_on = partial(_pass, language_model, cache, mask=whole if is_padded else None)
    if can_be_cut(cache):
        logits, states = go_on(ids, weights)
        prompt_cache, forwards = without_last(cache, header), 1
    else:
        before = ids[:, :-header]
        _, of_rest = go_on(before, weights[:, :, :-header]) if before.numel() else (None, 0.0)
        prompt_cache, forwards = fork(cache), 2 if before.numel() else 1
        logits, of_header = go_on(ids[:, -header:], weights[:, :, -header:])
        states = of_header + of_rest
    return Prefill(
        prompts=tuple(prompts),
        cache=prompt_cache,
        attention_mask=whole[:, :-header],
        header_cache=cache,
        first_logits=logits,
        pooled=states[:, :, 0],
        header_states=states[:, :, 1],
        forwards=forwards,
        known_tokens=known_tokens,
    )


def _pass(
    language_model: LanguageModel,
    cache: Cache,
    ids: Int[Tensor, "batch time"],
    weights: Float[Tensor, "batch sum time"],
    *,
    mask: Int[Tensor, "batch all_time"] | None,
) -> tuple[Float[Tensor, "batch vocab"], Float[Tensor, "batch layer sum hidden"]]:
    """One pass that extends the cache: last logits, and the weighted sums of the states."""
    seen = None if mask is None else mask[:, : cache.get_seq_length() + ids.shape[1]]
    with _states(language_model, weights) as states:
        logits = forward(language_model, ids, cache=cache, attention_mask=seen)
    layers = [states[layer] for layer in language_model.state_layers]
    return logits, torch.stack(layers, dim=1)


def _mean(mask: Int[Tensor, "batch time"]) -> Float[Tensor, "batch time"]:
    """Weights that average over the tokens of a mask; all 0 for a row without any."""
    return mask / mask.sum(dim=1, keepdim=True).clamp_min(1)


def _last(mask: Int[Tensor, "batch time"]) -> Float[Tensor, "batch time"]:
    """Weights that take the last token alone."""
    weights = torch.zeros(mask.shape, device=mask.device)
    weights[:, -1] = 1.0
    return weights


def _forward_header(
    language_model: LanguageModel,
    cache: Cache,
    prompts: Sequence[EncodedPrompt],
    mask: Int[Tensor, "batch time"],
) -> Float[Tensor, "batch vocab"]:
    _assert_one_header(language_model, prompts)
    header = list(language_model.header_ids)
    ids = torch.tensor([header] * len(prompts), device=mask.device)
    is_padded = any(len(prompt.prompt_ids) != mask.shape[1] for prompt in prompts)
    whole = extend_mask(mask, mask.shape[1] + len(header)) if is_padded else None
    return forward(language_model, ids, cache=cache, attention_mask=whole)


def _assert_one_header(language_model: LanguageModel, prompts: Sequence[EncodedPrompt]) -> None:
    assert all(prompt.header_ids == language_model.header_ids for prompt in prompts), (
        "prompts were encoded by another model"
    )


def _take_cache_rows(cache: Cache, index: Int[Tensor, " row"]) -> Cache:
    taken = fork(cache)
    taken.batch_select_indices(index)
    return taken


@contextmanager
def _states(
    language_model: LanguageModel, weights: Float[Tensor, "batch sum time"]
) -> Iterator[dict[int, Float[Tensor, "batch sum hidden"]]]:
    """Collect, per state layer, weighted sums over time of a block's output.

    Hooks on three blocks instead of `output_hidden_states`, which keeps all layers alive.
    """
    collected: dict[int, Tensor] = {}
    handles = []

    blocks = language_model.blocks
    try:
        for layer in sorted(set(language_model.state_layers)):
            hook = partial(_keep, collected, layer, weights)
            handles.append(blocks[layer - 1].register_forward_hook(hook))
        yield collected
    finally:
        for handle in handles:
            handle.remove()


def _keep(
    collected: dict[int, Tensor],
    layer: int,
    weights: Float[Tensor, "batch sum time"],
    _module: object,
    _arguments: object,
    output: Any,  # noqa: ANN401 - blocks return tensors or tuples
) -> None:
    states = output[0] if isinstance(output, tuple) else output
    collected[layer] = torch.bmm(weights, states.float())
