"""The lines between a runtime and the process that trains for it: one JSON object each."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from adaptive_moe.config.settings import Section, Settings
from adaptive_moe.engine.events import ExpertReady, TeacherStep, TrainingStep
from adaptive_moe.errors import TrainingProcessError

_SHOWN = 200  # characters of a line that is none of ours


class Job(Section):
    """What the process is told first: what to train, on which base, and how much it may take.

    `lock` is a file that it holds as long as it lives; `threads` are those of its arithmetic.
    """

    name: str
    data: tuple[Path, ...]
    settings: Settings
    base_id: str
    lock: Path
    threads: int


@dataclass(frozen=True, slots=True)
class Evaluating:
    """The training is over and the gate begins."""


@dataclass(frozen=True, slots=True)
class Unfit:
    """The process has not begun: it cannot load the base, or another one came."""

    reason: str


@dataclass(frozen=True, slots=True)
class Failed:
    """The training ended without a verdict: the error's class, and its message."""

    error: str
    message: str


Message = TeacherStep | TrainingStep | ExpertReady | Evaluating | Unfit | Failed
"""What the process says; the last one is `ExpertReady`, `Unfit` or `Failed`."""

_KINDS: Mapping[str, TypeAdapter[Message]] = {
    kind.__name__: TypeAdapter(kind)
    for kind in (TeacherStep, TrainingStep, ExpertReady, Evaluating, Unfit, Failed)
}


def write_line(message: Message) -> str:
    """The message as one line of ASCII, its end included; losses may be NaN."""
    return json.dumps({"kind": type(message).__name__, "of": asdict(message)}) + "\n"


def read_line(line: str) -> Message:
    """The message that `write_line` wrote. Raises TrainingProcessError for any other line."""
    try:
        found = json.loads(line)
        return _KINDS[found["kind"]].validate_python(found["of"])
    except (ValueError, KeyError, TypeError, ValidationError) as error:
        raise TrainingProcessError(
            f"the training process said what is no message: {line[:_SHOWN]!r}"
        ) from error
