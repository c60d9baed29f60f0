"""Turns token ids into text while they arrive, without ever splitting a character."""

from collections.abc import Sequence
from typing import final

from tokenizers.decoders import DecodeStream

from adaptive_moe.models.language_model import LanguageModel


@final
class TextStream:
    """The growing text of one answer; each id costs the same, however long the answer is."""

    def __init__(self, language_model: LanguageModel) -> None:
        self._tokenizer = language_model.tokenizer
        self._prefix = language_model.chat_format.answer_prefix
        self._decoder = DecodeStream(skip_special_tokens=True)
        self._emitted = 0

    def push(self, token_id: int) -> str:
        """The text that this id completes: "" inside a character or for a special token."""
        backend = getattr(self._tokenizer, "backend_tokenizer")  # noqa: B009  absent from its type
        piece = self._decoder.step(backend, token_id) or ""
        if self._prefix and piece:
            piece, self._prefix = piece.removeprefix(self._prefix), ""
        self._emitted += len(piece)
        return piece

    def finish(self, text: str) -> str:
        """What is still missing from the complete `text`."""
        return text[self._emitted :]


def pieces(language_model: LanguageModel, token_ids: Sequence[int]) -> tuple[str, ...]:
    """The answer's text cut at token boundaries; "" where a token completes no character."""
    stream = TextStream(language_model)
    return tuple(stream.push(token_id) for token_id in token_ids)
