"""A frozen causal language model with its tokenizer: what it is, and how text becomes token ids."""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast, final

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from adaptive_moe.errors import (
    DataError,
    EmptyPromptError,
    PromptError,
    PromptTooLongError,
    UnsupportedModelError,
)
from adaptive_moe.models.chat_format import read_chat_format, split_prompt, tokenize
from adaptive_moe.models.fingerprint import Numerics
from adaptive_moe.models.linear_layers import LinearLayer, blocks_path, census

Prompt = str | Sequence[Mapping[str, str]]
"""A question, or a conversation as messages with "role" and "content"."""

_ROLES = ("system", "user", "assistant")
_CONTEXT_KEYS = ("max_position_embeddings", "n_positions", "n_ctx", "seq_length")
_UNSTATED_CONTEXT = 2048
_MASK_AXES = 4  # batch, head, query, key


@dataclass(frozen=True, slots=True)
class EncodedPrompt:
    """A conversation as token ids, cut at the generation header.

    `text` is the last user turn; `has_context` tells whether anything stands before it.
    """

    prompt_ids: tuple[int, ...]
    header_ids: tuple[int, ...]
    text: str
    has_context: bool = False

    @property
    def length(self) -> int:
        """Tokens of prompt and header together."""
        return len(self.prompt_ids) + len(self.header_ids)


@final
class LanguageModel:
    """One frozen base. Nothing in it changes after construction; the LoRA bank wraps its layers.

    `name` is what it was loaded as: a hub id, "pocket", or the last part of a local path.
    `state_layers` index into `hidden_states` as transformers counts them: n is the output of the
    n-th decoder block, at one third, one half and two thirds of the depth. `has_fixed_mask` says
    that attention looks up a stored mask by column, so that padding counts against the context.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: PreTrainedTokenizerBase,
        *,
        base_id: str,
        numerics: Numerics,
        name: str = "",
    ) -> None:
        model.eval().requires_grad_(False)
        config = cast("PreTrainedConfig", model.config).get_text_config(decoder=True)
        self.model = model
        self.tokenizer = tokenizer
        self.base_id = base_id
        self.numerics = numerics
        self.name = name or type(model).__name__
        self.layers: tuple[LinearLayer, ...] = census(model)
        if not self.layers:
            raise UnsupportedModelError(
                f"{type(model).__name__} has no decoder blocks with linear layers"
            )
        self.hidden_size: int = config.hidden_size
        self.layer_count: int = config.num_hidden_layers
        self.vocab_size: int = config.vocab_size
        self.context_length = _context_length(config, tokenizer)
        self.eos_ids = _eos_ids(model, config, tokenizer)
        self.chat_format = read_chat_format(tokenizer, self.eos_ids)
        self.header_ids = self.chat_format.header_ids
        self.pad_id: int = _pad_id(tokenizer, fallback=self.chat_format.end_id)
        self.state_layers = _state_layers(self.layer_count)
        parameters = inspect.signature(model.forward).parameters
        self.takes_positions = "position_ids" in parameters
        self.takes_logits_to_keep = "logits_to_keep" in parameters
        self.has_fixed_mask = any(buffer.dim() == _MASK_AXES for buffer in model.buffers())
        self._header_text = str(tokenizer.decode(list(self.header_ids), skip_special_tokens=False))

    @property
    def device(self) -> torch.device:
        """Where the input ids belong."""
        return self._embedding.device

    @property
    def dtype(self) -> torch.dtype:
        """The type of hidden states; weights may be quantised below it."""
        return self._embedding.dtype

    @property
    def blocks(self) -> nn.ModuleList:
        """The decoder blocks, first to last."""
        return cast("nn.ModuleList", self.model.get_submodule(blocks_path(self.layers)))

    def encode(self, prompt: Prompt, *, max_new_tokens: int = 0) -> EncodedPrompt:
        """Write the conversation down and cut it at the generation header.

        A plain string is one user turn. Raises EmptyPromptError when the last turn says nothing,
        PromptError for turns that are no conversation, and PromptTooLongError when prompt, header
        and `max_new_tokens` (at least one) exceed the context.
        """
        encoded = self._written(prompt)
        if encoded.length + max(1, max_new_tokens) > self.context_length:
            raise PromptTooLongError(
                f"the prompt takes {encoded.length} tokens and the answer up to {max_new_tokens}, "
                f"but this model's context holds {self.context_length}; shorten the prompt or ask "
                "for fewer new tokens"
            )
        return encoded

    def encode_end(self, prompt: Prompt) -> EncodedPrompt:
        """What is left of the prompt where its left end is cut to the context; see `encode`.

        For reading material only: who asks is to be told that a prompt is too long.
        """
        encoded = self._written(prompt)
        room = self.context_length - len(self.header_ids) - 1
        return replace(encoded, prompt_ids=encoded.prompt_ids[-room:])

    def encode_answer(self, text: str) -> tuple[int, ...]:
        """Ids of an answer as they follow the header, with exactly one end token at the end.

        Raises DataError when the text holds the generation header or an end token, which an
        answer must not contain.
        """
        text = self.chat_format.answer_prefix + text
        ids = tokenize(self.tokenizer, self._header_text + text)
        length = len(self.header_ids)
        # In context where the header survives it: sentencepiece adds a space to a lone text.
        ids = ids[length:] if ids[:length] == self.header_ids else tokenize(self.tokenizer, text)
        if not self.eos_ids.isdisjoint(ids) or _contains(ids, self.header_ids):
            raise DataError(f"an answer may not contain the end token or the header: {text[:80]!r}")
        return (*ids, self.chat_format.end_id)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of some ids, without special tokens."""
        return str(
            self.tokenizer.decode(
                list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False
            )
        )

    def decode_answer(self, ids: Sequence[int]) -> str:
        """The text of an answer: `decode` without the white space that belongs to the template."""
        return self.decode(ids).removeprefix(self.chat_format.answer_prefix)

    def _written(self, prompt: Prompt) -> EncodedPrompt:
        """The whole conversation up to the generation header, however long."""
        messages = _checked(prompt)
        prompt_ids = split_prompt(self.tokenizer, self.chat_format, messages)
        if not prompt_ids:
            raise EmptyPromptError("the prompt holds no token that this model knows")
        return EncodedPrompt(
            prompt_ids, self.header_ids, messages[-1]["content"], has_context=len(messages) > 1
        )

    @property
    def _embedding(self) -> torch.Tensor:
        embeddings = cast("Any", self.model).get_input_embeddings()
        return cast("torch.Tensor", embeddings.weight)


def _checked(prompt: Prompt) -> Sequence[Mapping[str, str]]:
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
    for number, message in enumerate(messages, start=1):
        if message.get("role") not in _ROLES or not isinstance(message.get("content"), str):
            raise PromptError(
                f"message {number} needs a role ({', '.join(_ROLES)}) and a text as content"
            )
    if not messages or not messages[-1]["content"].strip():
        raise EmptyPromptError("the prompt is empty; ask something")
    if messages[-1]["role"] != "user":
        raise PromptError("the last message must be the user's")
    return messages


def _contains(ids: Sequence[int], part: Sequence[int]) -> bool:
    width = len(part)
    return any(tuple(ids[i : i + width]) == tuple(part) for i in range(len(ids) - width + 1))


def _context_length(config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase) -> int:
    stated = [getattr(config, key, None) for key in _CONTEXT_KEYS]
    lengths = [int(length) for length in stated if length]
    if lengths:
        return lengths[0]
    limit = tokenizer.model_max_length
    return int(limit) if limit < 10**9 else _UNSTATED_CONTEXT


def _eos_ids(
    model: nn.Module, config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase
) -> frozenset[int]:
    generation = getattr(model, "generation_config", None)
    found: set[int] = set()
    for owner in (generation, config, tokenizer):
        ids = getattr(owner, "eos_token_id", None)
        found.update([ids] if isinstance(ids, int) else ids or [])
    return frozenset(found)


def _pad_id(tokenizer: PreTrainedTokenizerBase, *, fallback: int) -> int:
    pad = tokenizer.pad_token_id
    return fallback if pad is None else int(pad)


def _state_layers(layer_count: int) -> tuple[int, int, int]:
    third, half, two_thirds = (
        max(1, round(layer_count * share)) for share in (1 / 3, 1 / 2, 2 / 3)
    )
    return third, half, two_thirds
