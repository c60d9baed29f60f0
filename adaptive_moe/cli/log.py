"""Sets up logging: coloured on stderr, JSON lines in a rotating file, never a secret in either."""

import json
import logging
import re
import sys
import warnings
from contextlib import suppress
from datetime import UTC, datetime
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import final

from rich.console import Console
from rich.highlighter import NullHighlighter
from rich.logging import RichHandler
from rich.text import Text

from adaptive_moe.cli.safe_text import clean
from adaptive_moe.config.settings import LoggingSettings
from adaptive_moe.errors import ConfigurationError

_MASK = "***"
_SECRETS = (
    re.compile(r"\b(hf|sk|pk|ghp|gho|ghs|github_pat|glpat|xox[abp])[-_][A-Za-z0-9_\-]{8,}"),
    re.compile(r"(?i)\b(bearer|authorization:\s*\w+)\s+[A-Za-z0-9._~+/\-]{6,}=*"),
    re.compile(
        r"(?i)\b((?:[a-z0-9]+[_-])*(?:(?:api|access|secret|private)[_-]?key|token|secret|passw(?:or)?d))"
        r"(\"?'?\s*[=:]\s*\"?'?)[^\s\"',;&]{4,}"
    ),
    re.compile(r"(?i)(://[^\s/:@]+:)[^\s/@]+(?=@)"),
)
_KEPT = (r"\1-" + _MASK, r"\1 " + _MASK, r"\1\2" + _MASK, r"\1" + _MASK)
_OURS = "adaptive_moe"


def configure_logging(settings: LoggingSettings, *, debug: bool, console: Console) -> None:
    """Log `adaptive_moe` at the set level (DEBUG with `debug`), other libraries' errors only.

    Raises ConfigurationError when the log file cannot be written.
    """
    level = "DEBUG" if debug else settings.level
    handlers: list[logging.Handler] = [_console_handler(console)]
    if settings.file is not None:
        handlers.append(_file_handler(settings.file, settings, console))
    root = logging.getLogger()
    for old in [one for one in root.handlers if one.get_name() == _OURS]:
        root.removeHandler(old)
        old.close()
    for handler in handlers:
        handler.set_name(_OURS)
        handler.addFilter(_Ours("INFO" if debug else "ERROR"))
        root.addHandler(handler)
    logging.getLogger(_OURS).setLevel(level)
    if not debug:
        warnings.simplefilter("ignore")


def mask_secrets(text: str) -> str:
    """`text` with tokens, keys, passwords and bearer headers replaced by ***."""
    for pattern, kept in zip(_SECRETS, _KEPT, strict=True):
        text = pattern.sub(kept, text)
    return text


@final
class _FileLog(RotatingFileHandler):
    """A log file that is given up, with one warning, when the disk refuses it."""

    def __init__(self, file: Path, settings: LoggingSettings, console: Console) -> None:
        super().__init__(
            file, maxBytes=settings.file_bytes, backupCount=settings.file_count, encoding="utf-8"
        )
        self._console = console
        self._is_given_up = False

    def emit(self, record: logging.LogRecord) -> None:
        """Write the record, unless the file was given up."""
        if not self._is_given_up:
            super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        """Called by `emit` while it handles the error."""
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
            return
        self._is_given_up = True
        with suppress(OSError):  # what is still buffered cannot be written either
            self.close()
        why = error.strerror or type(error).__name__
        told = f"Warning: logging.file: {self.baseFilename} cannot be written ({why}); going on"
        self._console.print(Text(clean(f"{told} without it"), style="yellow"), soft_wrap=True)


class _Ours(logging.Filter):
    """Everything of ours; of other libraries only what is at least `level`."""

    def __init__(self, level: str) -> None:
        super().__init__(_OURS)
        self._level = logging.getLevelName(level)

    def filter(self, record: logging.LogRecord) -> bool:
        return super().filter(record) or record.levelno >= self._level


class _Plain(logging.Formatter):
    """Message and traceback, masked and cleaned; a message stays on one line."""

    def format(self, record: logging.LogRecord) -> str:
        message = clean(mask_secrets(record.getMessage())).replace("\n", "\\n")
        return message + "".join("\n    " + line for line in self._trace(record).splitlines())

    def _trace(self, record: logging.LogRecord) -> str:
        if not record.exc_info:
            return ""
        return clean(mask_secrets(self.formatException(record.exc_info)))


class _JsonLines(_Plain):
    """The same as one JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": datetime.fromtimestamp(record.created, tz=UTC).isoformat(),
            "level": record.levelname,
            "logger": record.name,
            "message": clean(mask_secrets(record.getMessage())),
        }
        trace = self._trace(record)
        return json.dumps(entry | ({"traceback": trace} if trace else {}))


def _console_handler(console: Console) -> logging.Handler:
    handler = RichHandler(
        console=console, markup=False, show_path=False, highlighter=NullHighlighter()
    )
    handler.setFormatter(_Plain())
    return handler


def _file_handler(file: Path, settings: LoggingSettings, console: Console) -> logging.Handler:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        handler = _FileLog(file, settings, console)
    except OSError as error:
        raise ConfigurationError(
            f"logging.file: {file} cannot be written ({error.strerror}); name another file"
        ) from error
    handler.setFormatter(_JsonLines())
    return handler
