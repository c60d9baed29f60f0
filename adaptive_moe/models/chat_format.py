"""Reads from a tokenizer how it writes a conversation down: generation header, answer, end."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from adaptive_moe.errors import PromptError, UnsupportedModelError

Messages = Sequence[Mapping[str, str]]

PLAIN_HEADER = "\n\n### Answer:\n"
"""The generation header of models without a chat template; no answer of ours contains it."""

_QUESTIONS = ("a", "Why is that so?")
_ANSWER = "Because."


@dataclass(frozen=True, slots=True)
class ChatFormat:
    """What is the same in every conversation of one tokenizer.

    `header_ids` open the assistant's turn. `answer_prefix` is the white space that the template
    puts between header and answer. `end_id` closes an answer. `is_appended` says that the header
    is ours (`PLAIN_HEADER`) and follows whatever the template wrote.
    """

    header_ids: tuple[int, ...]
    answer_prefix: str
    end_id: int
    accepts_system: bool
    is_appended: bool


def read_chat_format(tokenizer: PreTrainedTokenizerBase, eos_ids: frozenset[int]) -> ChatFormat:
    """Find header, answer prefix and end token by writing small conversations.

    The header is what `add_generation_prompt=True` appends. Where that is nothing (Llama 2,
    Mistral), it is what all conversations that wait for an answer end in.
    Raises UnsupportedModelError for a tokenizer without an end-of-sequence token.
    """
    header_ids = _template_header(tokenizer) if tokenizer.chat_template else ()
    prefix, end_id = _around_answer(tokenizer, eos_ids)
    return ChatFormat(
        header_ids=header_ids or tokenize(tokenizer, PLAIN_HEADER),
        answer_prefix=prefix if header_ids else "",
        end_id=end_id,
        accepts_system=_accepts_system(tokenizer),
        is_appended=not header_ids,
    )


def split_prompt(
    tokenizer: PreTrainedTokenizerBase, chat_format: ChatFormat, messages: Messages
) -> tuple[int, ...]:
    """Token ids of the conversation up to, and without, the generation header.

    A system turn that the template refuses or drops goes in front of the first user turn.
    Raises PromptError when the template refuses the conversation.
    """
    if not chat_format.accepts_system:
        messages = _fold_system(messages)
    if not tokenizer.chat_template:
        return _start_ids(tokenizer) + tokenize(tokenizer, _plain_text(messages))
    if chat_format.is_appended:
        return tokenize(tokenizer, _render(tokenizer, messages, header=True))
    ids = tokenize(tokenizer, _render(tokenizer, messages, header=True))
    length = len(chat_format.header_ids)
    if ids[-length:] == chat_format.header_ids:
        return ids[:-length]
    return tokenize(tokenizer, _render(tokenizer, messages, header=False))


def tokenize(tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[int, ...]:
    """Ids of a text as it stands: nothing is added, and lone surrogates become U+FFFD."""
    text = text.encode("utf-8", "replace").decode("utf-8")
    return tuple(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])


def _template_header(tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    conversations = [[_turn("user", question)] for question in _QUESTIONS]
    conversations.append([*conversations[0], _turn("assistant", _ANSWER), *conversations[1]])
    opened, appended = [], set()
    for messages in conversations:
        without = tokenize(tokenizer, _render(tokenizer, messages, header=False))
        opened.append(tokenize(tokenizer, _render(tokenizer, messages, header=True)))
        appended.add(opened[-1][_common_length(without, opened[-1]) :])
    if len(appended) == 1:
        (header,) = appended
        if header:
            return header
    backwards = [ids[::-1] for ids in opened]
    shared = min(_common_length(backwards[0], other) for other in backwards[1:])
    return opened[0][len(opened[0]) - shared :]


def _around_answer(tokenizer: PreTrainedTokenizerBase, eos_ids: frozenset[int]) -> tuple[str, int]:
    """White space before an answer and the id that ends it, as the template writes them."""
    default = tokenizer.eos_token_id if tokenizer.eos_token_id in eos_ids else None
    end_id = default if default is not None else min(eos_ids, default=None)
    if end_id is None:
        raise UnsupportedModelError("the tokenizer has no end-of-sequence token; answers never end")
    if not tokenizer.chat_template:
        return "", end_id
    messages = [_turn("user", _QUESTIONS[0])]
    opened = _render(tokenizer, messages, header=True)
    closed = _render(tokenizer, [*messages, _turn("assistant", _ANSWER)], header=False)
    if not closed.startswith(opened) or _ANSWER not in closed[len(opened) :]:
        return "", end_id
    before, after = closed[len(opened) :].split(_ANSWER, 1)
    ends = [token for token in tokenize(tokenizer, after) if token in eos_ids]
    return (before if before.isspace() else ""), (ends[0] if ends else end_id)


def _accepts_system(tokenizer: PreTrainedTokenizerBase) -> bool:
    if not tokenizer.chat_template:
        return True
    text = "Answer briefly in one word."
    messages = [_turn("system", text), _turn("user", _QUESTIONS[0])]
    try:
        return text in _render(tokenizer, messages, header=True)
    except PromptError:
        return False


def _fold_system(messages: Messages) -> Messages:
    system = [message["content"] for message in messages if message["role"] == "system"]
    turns = [message for message in messages if message["role"] != "system"]
    if not system or not turns or turns[0]["role"] != "user":
        return turns
    return [_turn("user", "\n\n".join([*system, turns[0]["content"]])), *turns[1:]]


def _plain_text(messages: Messages) -> str:
    parts = []
    for message in messages:
        if message["role"] == "assistant":
            parts.append(f"{PLAIN_HEADER}{message['content']}\n\n")
        elif message["role"] == "system":
            parts.append(f"{message['content']}\n\n")
        else:
            parts.append(message["content"])
    return "".join(parts)


def _start_ids(tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """The begin-of-sequence id, once, if this tokenizer puts one in front of plain text."""
    bos = tokenizer.bos_token_id
    ids = tokenizer("a", add_special_tokens=True)["input_ids"]
    return (bos,) if bos is not None and ids[:1] == [bos] else ()


def _render(tokenizer: PreTrainedTokenizerBase, messages: Messages, *, header: bool) -> str:
    turns = [dict(message) for message in messages]
    try:
        text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=header)
    except TemplateError as error:
        raise PromptError(f"the chat template refuses this conversation: {error}") from error
    return str(text)


def _turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def _common_length(left: Sequence[int], right: Sequence[int]) -> int:
    length = 0
    for a, b in zip(left, right, strict=False):
        if a != b:
            break
        length += 1
    return length
