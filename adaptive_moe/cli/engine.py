"""Opens the engine for a command, late and quietly."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from adaptive_moe.cli.terminal import Terminal

if TYPE_CHECKING:
    from adaptive_moe.engine.runtime import AdaptiveMoE


@contextmanager
def open_engine(terminal: Terminal, *, background: bool = False) -> Iterator["AdaptiveMoE"]:
    """The runtime for the terminal's settings; says on stderr that it loads.

    With `background` it fills queued gaps meanwhile, if `gaps.on_verified` is train.
    """
    with terminal.working(f"loading {terminal.settings.base.id}"):
        moe = _load(terminal, background=background)
    with moe:
        yield moe


def quieten_libraries(terminal: Terminal) -> None:
    """Let transformers and the hub's client tell errors only; call it before either is imported."""
    if not terminal.debug:
        os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
        os.environ.setdefault("HF_HUB_VERBOSITY", "error")
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def _load(terminal: Terminal, *, background: bool) -> "AdaptiveMoE":
    quieten_libraries(terminal)
    from adaptive_moe.engine.runtime import AdaptiveMoE

    return AdaptiveMoE.from_settings(terminal.settings, background=background)
