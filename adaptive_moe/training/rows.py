"""One record of an example file, whatever its shape, as prompt turns and answer."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Turn = tuple[str, str]  # role ("system", "user", "assistant") and content

_PROMPT_KEYS = ("prompt", "question", "query", "input")
_ANSWER_KEYS = ("completion", "answer", "response", "output", "target")
_CONTEXT_KEY = "context"  # beside a question: what it is asked about
_GROUP_KEYS = ("group", "document", "doc_id", "source_document", "source")
_ROLES = {
    "system": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
}
_MAX_CHARACTERS = 200_000  # of one text; beyond it, it is a file and not an example
_SHORT = 3  # characters; "+", "!=" and the like are answers
_MAX_UNREADABLE = 0.02  # share of control and replacement characters
_MANY_WORDS = 20  # from here on a person uses more than a twentieth of them once
_UNREADABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ufffd]")
_SURROGATE = re.compile("[\ud800-\udfff]")
_REPEATED_SIGN = re.compile(r"(\S)\1{19,}\s*")


@dataclass(frozen=True, slots=True)
class Row:
    """One assistant answer to learn: the turns before it, the answer, and where it was written.

    `line` counts from 1: the line of a JSON-lines or CSV file, else the number of the row.
    `group` names the source inside the file where the file tells it (None otherwise); rows of a
    group never stand on both sides of a split.
    """

    prompt: tuple[Turn, ...]
    answer: str
    file: str
    line: int
    group: str | None = None


def asked_in(text: str) -> str:
    """What a turn asks where it quotes something first: its last paragraph."""
    return text.rstrip().rpartition("\n\n")[2]


class RowError(ValueError):
    """This record cannot be used; the message is the reason."""


def detect_shape(record: Mapping[str, object]) -> str:
    """The shape's name: messages, sharegpt, alpaca, prompt/completion (or the aliases), text.

    Raises RowError when no known keys are there.
    """
    if "messages" in record:
        return "messages"
    if "conversations" in record:
        return "sharegpt"
    if "instruction" in record and _first_key(record, _ANSWER_KEYS):
        return "alpaca"
    prompt, answer = _first_key(record, _PROMPT_KEYS), _first_key(record, _ANSWER_KEYS)
    if prompt and answer:
        keys = (prompt, _CONTEXT_KEY, answer) if record.get(_CONTEXT_KEY) else (prompt, answer)
        return "/".join(keys)
    if "text" in record:
        return "text"
    found = ", ".join(sorted(str(key) for key in record)[:8]) or "none"
    raise RowError(
        "no known keys: expected messages, conversations, instruction/output, prompt/completion, "
        f"question/answer or text; found {found} (a table of facts is read from a .md file)"
    )


def rows_of(record: Mapping[str, object], shape: str, *, file: str, line: int) -> list[Row]:
    """The record's rows: one per assistant turn. Raises RowError with the reason."""
    if shape == "messages":
        conversation = _turns(record["messages"], role_key="role", text_key="content")
        pairs = _assistant_turns(conversation)
    elif shape == "sharegpt":
        pairs = _assistant_turns(_sharegpt_turns(record))
    elif shape == "alpaca":
        pairs = [_alpaca_pair(record)]
    else:
        prompt_key, *_, answer_key = shape.split("/")
        pairs = [_pair(record, prompt_key, answer_key)]
    group = _group(record)
    return [Row(prompt, answer, file, line, group) for prompt, answer in pairs]


def clean_text(value: object, what: str) -> str:
    """The text of a field, trimmed; RowError when it is not text, empty or unreadable."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str):
        raise RowError(f"{what} is {_kind(value)}, not text")
    text = value.replace("\r\n", "\n").strip()
    if not text:
        raise RowError(f"{what} is empty")
    reason = _garbage(text)
    if reason:
        raise RowError(f"{what} {reason}")
    return text


def _alpaca_pair(record: Mapping[str, object]) -> tuple[tuple[Turn, ...], str]:
    instruction = clean_text(record["instruction"], "instruction")
    extra = record.get("input")
    if isinstance(extra, str) and extra.strip():
        instruction = f"{instruction}\n{clean_text(extra, 'input')}"
    instruction = _about(record, instruction)
    key = _first_key(record, _ANSWER_KEYS)
    return (("user", instruction),), clean_text(record[key], key)


def _pair(
    record: Mapping[str, object], prompt_key: str, answer_key: str
) -> tuple[tuple[Turn, ...], str]:
    prompt, answer = record[prompt_key], record[answer_key]
    if isinstance(prompt, list) and isinstance(answer, list):
        turns = _turns([*prompt, *answer], role_key="role", text_key="content")
        turns, text = _assistant_turns(turns)[-1]
    else:
        turns = (
            _turns(prompt, role_key="role", text_key="content")
            if isinstance(prompt, list)
            else (("user", clean_text(prompt, prompt_key)),)
        )
        text = clean_text(answer, answer_key)
    *before, (role, question) = turns
    if role != "user":
        raise RowError(f"{prompt_key} does not end with a user turn")
    return (*before, ("user", _about(record, question))), text


def _about(record: Mapping[str, object], question: str) -> str:
    """The question behind its context, as people ask about a text that they paste.

    In front of it, for what exceeds a model's context is cut from the left.
    """
    context = record.get(_CONTEXT_KEY)
    if context is None or (isinstance(context, str) and not context.strip()):
        return question
    return f"{clean_text(context, _CONTEXT_KEY)}\n\n{question}"


def _sharegpt_turns(record: Mapping[str, object]) -> tuple[Turn, ...]:
    conversation = record["conversations"]
    chatml = isinstance(conversation, list) and all(
        isinstance(turn, Mapping) and "role" in turn for turn in conversation
    )
    keys = ("role", "content") if chatml else ("from", "value")
    turns = _turns(conversation, role_key=keys[0], text_key=keys[1])
    system = record.get("system")
    if isinstance(system, str) and system.strip() and turns[0][0] != "system":
        return (("system", clean_text(system, "system")), *turns)
    return turns


def _turns(value: object, *, role_key: str, text_key: str) -> tuple[Turn, ...]:
    if not isinstance(value, list) or not value:
        raise RowError("the conversation is not a non-empty list")
    turns = []
    for index, turn in enumerate(value):
        if not isinstance(turn, Mapping) or role_key not in turn or text_key not in turn:
            raise RowError(f"turn {index + 1} lacks {role_key!r} or {text_key!r}")
        role = _ROLES.get(str(turn[role_key]).lower())
        if role is None:
            raise RowError(f"turn {index + 1} has the unknown role {str(turn[role_key])[:20]!r}")
        turns.append((role, clean_text(turn[text_key], f"turn {index + 1}")))
    return tuple(turns)


def _assistant_turns(turns: Sequence[Turn]) -> list[tuple[tuple[Turn, ...], str]]:
    """(turns before, answer) of every assistant turn; user and assistant must alternate."""
    spoken = turns[1:] if turns[0][0] == "system" else turns
    for index, (role, _) in enumerate(spoken):
        if role != ("user", "assistant")[index % 2]:
            raise RowError(f"turn {index + 1} is by the {role}; user and assistant must alternate")
    pairs = [
        (tuple(turns[:index]), text)
        for index, (role, text) in enumerate(turns)
        if role == "assistant"
    ]
    if not pairs:
        raise RowError("there is no assistant turn to learn")
    return pairs


def _group(record: Mapping[str, object]) -> str | None:
    key = _first_key(record, _GROUP_KEYS)
    value = record.get(key)
    return value if isinstance(value, str) and value else None


def _first_key(record: Mapping[str, object], keys: Sequence[str]) -> str:
    return next((key for key in keys if record.get(key) is not None), "")


def _kind(value: object) -> str:
    return {"NoneType": "missing", "dict": "an object", "list": "a list"}.get(
        type(value).__name__, f"a {type(value).__name__}"
    )


def _garbage(text: str) -> str:
    """Why this cannot be something a person wrote to be learned; empty when it can."""
    if len(text) > _MAX_CHARACTERS:
        return f"is longer than {_MAX_CHARACTERS} characters"
    if len(text) > _SHORT and not any(character.isalnum() for character in text):
        return "holds neither letters nor digits"
    unreadable = len(_UNREADABLE.findall(text))
    if unreadable > _MAX_UNREADABLE * len(text) or _SURROGATE.search(text):
        return "holds unreadable characters"
    if _REPEATED_SIGN.fullmatch(text):
        return "is one sign repeated"
    words = text.split()
    if len(words) >= _MANY_WORDS and len(set(words)) <= max(2, len(words) // _MANY_WORDS):
        return "is a few words repeated"
    return ""
