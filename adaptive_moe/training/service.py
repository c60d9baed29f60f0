"""A teacher behind a URL that speaks OpenAI's chat completions; asked patiently, never trusted."""

import http.client
import json
import logging
import os
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Never, final

from adaptive_moe.config.settings import TeacherSettings
from adaptive_moe.errors import ConfigurationError, TeacherError
from adaptive_moe.models.chat_format import Messages
from adaptive_moe.training.interruption import stop_if_cancelled
from adaptive_moe.training.replies import Keep, keep_nothing

_PATH = "/chat/completions"
_BUSY = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
_FIRST_PAUSE_SECONDS = 1.0  # doubled before every further try
_LONGEST_PAUSE_SECONDS = 60.0
_LONGEST_REPLY_BYTES = 8 << 20
_PIECE_BYTES = 1 << 16
_LOOK_UP_SECONDS = 0.2  # how often a cancelled training is noticed
_TELLING = 8  # characters of a key
_READ_OF_ERRORS = 4096  # bytes
_QUOTED = 200  # characters of what a service says of an error
_ADVICE = {
    401: "the key is refused; see training.teacher_key",
    403: "the key is refused; see training.teacher_key",
    404: "write the URL up to, and without, /chat/completions, and see training.teacher_model",
    429: "wait a while, or lower training.teacher_concurrency",
}

_log = logging.getLogger(__name__)


class _BusyError(Exception):
    """Another try makes sense, after `pause_seconds` where the service says so."""

    def __init__(self, reason: str, *, status: int = 0, pause_seconds: float | None = None) -> None:
        super().__init__(reason)
        self.status = status
        self.pause_seconds = pause_seconds


class _StayPut(urllib.request.HTTPRedirectHandler):
    """A redirect would carry key and documents to a place that nobody named."""

    def redirect_request(self, *_: object) -> None:
        """Follow none; it then counts as an error."""


@final
class ServiceTeacher:
    """Asks several conversations at once, and again while the service is busy or out of reach.

    The key is read from the environment, travels in one header, and is told nowhere.
    """

    def __init__(self, url: str, settings: TeacherSettings, *, seed: int) -> None:
        assert settings.teacher_model is not None, "settings without a model's name are refused"
        self._url = url + _PATH
        self._settings = settings
        self._seed = seed
        self._key = _read_key(settings.teacher_key)
        self._opener = urllib.request.build_opener(_StayPut)
        self.name = f"service {settings.teacher_model}"
        self.identity = json.dumps([url, self._body([])], sort_keys=True)

    def answer(
        self, conversations: Sequence[Messages], *, keep: Keep = keep_nothing
    ) -> list[str | None]:
        """One reply each. Raises TeacherError with URL, status and what to do.

        The first that fails stops the others; a cancelled training does so too. A reply that says
        nothing, as when a model thinks until its tokens are used up, is empty and not kept.
        """
        stop = threading.Event()
        pool = ThreadPoolExecutor(self._settings.teacher_concurrency, "teacher")
        futures = [pool.submit(self._ask, each, stop) for each in conversations]
        try:
            self._await(futures, keep)
        finally:
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
        return [future.result() or "" for future in futures]

    def _await(self, futures: Sequence[Future[str | None]], keep: Keep) -> None:
        places = {future: place for place, future in enumerate(futures)}
        pending = set(futures)
        while pending:
            stop_if_cancelled()
            done, pending = wait(pending, _LOOK_UP_SECONDS, return_when=FIRST_COMPLETED)
            failed = [future for future in done if future.exception() is not None]
            for future in done.difference(failed):
                reply = future.result()
                if reply is not None:
                    keep(places[future], reply)
            for future in failed:
                future.result()

    def _ask(self, conversation: Messages, stop: threading.Event) -> str | None:
        pause = _FIRST_PAUSE_SECONDS
        tries = self._settings.teacher_retries + 1
        for further in reversed(range(tries)):
            try:
                return self._content(self._post(self._body(conversation)))
            except _BusyError as error:
                _log.info("%s: %s; %d more tries", self._url, error, further)
                wished = pause if error.pause_seconds is None else error.pause_seconds
                if not further or stop.wait(min(wished, _LONGEST_PAUSE_SECONDS)):
                    self._fail(f"{error} (asked {tries - further} times)", error.status, error)
                pause *= 2
        raise AssertionError("the last try returns or raises")

    def _body(self, conversation: Messages) -> dict[str, object]:
        drawn = {"seed": self._seed} if self._settings.teacher_temperature else {}
        return {
            "model": self._settings.teacher_model,
            "messages": [dict(message) for message in conversation],
            "temperature": self._settings.teacher_temperature,
            "max_tokens": self._settings.teacher_max_tokens,
            **drawn,
        }

    def _post(self, body: Mapping[str, object]) -> bytes:
        """The bytes of one reply; _BusyError where another try makes sense, else TeacherError."""
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if self._key is not None:
            headers["Authorization"] = f"Bearer {self._key}"
        request = urllib.request.Request(  # noqa: S310  the settings take http and https only
            self._url, json.dumps(body).encode(), headers
        )
        seconds = self._settings.teacher_timeout_seconds
        try:
            with self._opener.open(request, timeout=seconds) as response:
                return _read(response, time.monotonic() + seconds)
        except urllib.error.HTTPError as error:
            with error:
                self._refused(error)
        except TimeoutError as error:
            raise _BusyError(f"no reply within {seconds:g} seconds") from error
        except (OSError, http.client.HTTPException) as error:  # URLError is an OSError
            if isinstance(getattr(error, "reason", None), TimeoutError):
                raise _BusyError(f"no reply within {seconds:g} seconds") from error
            raise _BusyError(self._without_key(str(error) or type(error).__name__)) from error

    def _refused(self, error: urllib.error.HTTPError) -> Never:
        said = self._without_key(error.read(_READ_OF_ERRORS).decode(errors="replace"))
        said = " ".join(said.split())[:_QUOTED]
        reason = f"status {error.code}" + (f", {said}" if said else "")
        if error.code in _BUSY:
            pause = _seconds(error.headers.get("Retry-After"))
            raise _BusyError(reason, status=error.code, pause_seconds=pause) from error
        self._fail(reason, error.code, error)

    def _content(self, reply: bytes) -> str | None:
        """What was said; None where the tokens were used up before anything was."""
        try:
            content = json.loads(reply)["choices"][0]["message"]["content"]
        except (ValueError, KeyError, IndexError, TypeError, RecursionError) as error:
            self._fail("status 200, but no chat completion in it", 404, error)
        return content if isinstance(content, str) else None

    def _fail(self, reason: str, status: int, error: Exception) -> Never:
        """`status` chooses the advice; 0 is a service that never replied."""
        advice = _ADVICE.get(status, "see whether it runs and accepts this")
        raise TeacherError(
            f"the teacher at {self._url} does not answer: {reason}; {advice}, then train again: "
            "what it wrote already is kept"
        ) from error

    def _without_key(self, text: str) -> str:
        """Some services quote the key that they refuse, or the beginning of it."""
        key = self._key or ""
        for length in range(len(key), _TELLING - 1, -1):
            text = text.replace(key[:length], "***")
        return text


def _read_key(variable: str | None) -> str | None:
    if variable is None:
        return None
    key = os.environ.get(variable, "").strip()
    if not key:
        raise ConfigurationError(
            f"training.teacher_key: the environment variable {variable} is not set; put the "
            "teacher's key into it, or leave the setting out"
        )
    if not (key.isascii() and key.isprintable()):
        raise ConfigurationError(
            f"training.teacher_key: {variable} holds characters that no key has; set it anew"
        )
    return key


def _read(response: http.client.HTTPResponse, deadline: float) -> bytes:
    """The whole reply, within its time and of a sensible size."""
    pieces: list[bytes] = []
    size = 0
    while piece := response.read1(_PIECE_BYTES):
        pieces.append(piece)
        size += len(piece)
        if size > _LONGEST_REPLY_BYTES:
            raise _BusyError(f"a reply of more than {_LONGEST_REPLY_BYTES} bytes")
        if time.monotonic() > deadline:
            raise TimeoutError
    if response.length:
        raise http.client.IncompleteRead(b"", response.length)
    return b"".join(pieces)


def _seconds(header: str | None) -> float | None:
    """What Retry-After asks for; None for a date, or nothing sensible."""
    try:
        seconds = float(header or "")
    except ValueError:
        return None
    return max(0.0, seconds) if seconds == seconds else None  # noqa: PLR0124  nan
