"""Reads an answer that is given, and traces it as decoding would have."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers.cache_utils import Cache

from adaptive_moe.models.blending import Blend
from adaptive_moe.models.growing_cache import fork
from adaptive_moe.models.language_model import LanguageModel
from adaptive_moe.models.token_trace import TokenTrace, token_statistics

_LOGITS_BYTES = 64 << 20


@torch.inference_mode()
def trace_answer(
    language_model: LanguageModel,
    cache: Cache,
    first_logits: Float[Tensor, "reader vocab"],
    answer_ids: Sequence[int],
    *,
    blend: Blend | None = None,
    logits_bytes: int = _LOGITS_BYTES,
) -> TokenTrace:
    """The statistics of every token of an answer, from one pass in slices of `logits_bytes`.

    `cache` holds one prompt and its header, without padding, once for each reader of a `blend`,
    and is left as it is. An answer without a token has an empty trace.
    """
    ids = torch.tensor([list(answer_ids)], device=first_logits.device)
    readers, vocabulary = first_logits.shape
    step = max(1, logits_bytes // (4 * readers * vocabulary))
    cache, logits = fork(cache), first_logits[:, None]
    parts: list[Tensor] = []
    for start in range(0, ids.shape[1], step):
        wanted = ids[0, start : start + step]
        if start:
            read = ids[:, start - 1 : start - 1 + len(wanted)]
            logits = _read(language_model, read.expand(readers, -1), cache)
        elif len(wanted) > 1:
            read = ids[:, : len(wanted) - 1].expand(readers, -1)
            logits = torch.cat([logits, _read(language_model, read, cache)], dim=1)
        parts.append(token_statistics(_joint(logits, blend), wanted))
    if not parts:
        return TokenTrace.empty()
    return TokenTrace(*torch.cat(parts, dim=1).cpu().numpy())


def _joint(
    logits: Float[Tensor, "reader time vocab"], blend: Blend | None
) -> Float[Tensor, "time vocab"]:
    if blend is None:
        return logits[0]
    return torch.cat([blend.combine(step) for step in logits.unbind(dim=1)])


def _read(
    language_model: LanguageModel, ids: Int[Tensor, "reader time"], cache: Cache
) -> Float[Tensor, "reader time vocab"]:
    arguments: dict[str, Any] = {"past_key_values": cache, "use_cache": True}
    output: Any = language_model.model(ids, **arguments)
    logits: Tensor = output.logits
    return logits
