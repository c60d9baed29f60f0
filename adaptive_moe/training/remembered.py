"""Keeps what a teacher wrote, so that a repeated or interrupted training does not ask again."""

import hashlib
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import final

from adaptive_moe.models.chat_format import Messages
from adaptive_moe.training.replies import Keep, keep_nothing
from adaptive_moe.training.teacher import Teacher

_log = logging.getLogger(__name__)


@final
class RememberingTeacher:
    """A teacher and a folder of its replies, one file each, named by who was asked what.

    A file that cannot be read, or was written for something else, is as good as none. The folder
    may be deleted at any time.
    """

    def __init__(self, teacher: Teacher, folder: Path) -> None:
        self._teacher = teacher
        self._folder = folder
        self.name = teacher.name
        self.identity = teacher.identity

    def answer(
        self, conversations: Sequence[Messages], *, keep: Keep = keep_nothing
    ) -> list[str | None]:
        """The replies, asking the teacher only for those that it did not give before.

        What it says is written down as it comes.
        """
        keys = [self._key(each) for each in conversations]
        known: dict[str, str | None] = {key: self._read(key) for key in keys}
        missing = {
            key: conversation
            for key, conversation in zip(keys, conversations, strict=True)
            if known[key] is None
        }
        asked = list(missing)

        def write(place: int, reply: str) -> None:
            self._write(asked[place], reply)

        written = self._teacher.answer(list(missing.values()), keep=write) if missing else []
        known |= dict(zip(asked, written, strict=True))
        replies = [known[key] for key in keys]
        for place, reply in enumerate(replies):
            if reply is not None:
                keep(place, reply)
        return replies

    def _key(self, conversation: Messages) -> str:
        content = [self.identity, [dict(message) for message in conversation]]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def _path(self, key: str) -> Path:
        return self._folder / key[:2] / f"{key}.json"

    def _read(self, key: str) -> str | None:
        try:
            record = json.loads(self._path(key).read_bytes())
            reply = record["reply"] if record["asked"] == key else None
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return None
        return reply if isinstance(reply, str) else None

    def _write(self, key: str, reply: str) -> None:
        """In one step; a disk that refuses costs no training, only asking again."""
        path = self._path(key)
        temporary = path.with_suffix(".partial")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_text(json.dumps({"asked": key, "reply": reply}), encoding="utf-8")
            temporary.replace(path)
        except OSError as error:
            _log.warning("%s: the teacher's reply is not kept: %s", path, error)
