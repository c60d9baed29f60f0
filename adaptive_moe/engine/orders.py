"""What a training is asked for, what it would take, and what came of it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import JsonValue

from adaptive_moe.config.settings import TrainingSettings
from adaptive_moe.engine.events import ExpertReady, TeacherStep, TrainingStep, to_json
from adaptive_moe.errors import DataError
from adaptive_moe.experts.store import ExpertRecord
from adaptive_moe.models.linear_layers import LinearLayer
from adaptive_moe.training.gate import GateReport
from adaptive_moe.training.lessons import Lessons
from adaptive_moe.training.material import Material
from adaptive_moe.training.ranks import RankPlan
from adaptive_moe.training.splits import Split
from adaptive_moe.training.stages import Place, Stage
from adaptive_moe.training.synthesis import Example
from adaptive_moe.training.trainer import TrainingResult

Paths = Path | str | Sequence[Path | str]
"""One file or folder, or several."""

Listener = Callable[[TeacherStep | TrainingStep | ExpertReady], None]


def as_paths(data: object) -> tuple[Path, ...]:
    """The files and folders named, whether one or several. Raises DataError for anything else."""
    named = data if isinstance(data, Sequence) and not isinstance(data, str) else (data,)
    paths = tuple(Path(each) for each in named if isinstance(each, str | Path))
    if len(paths) != len(named):
        raise DataError(f"data cannot be {str(data)[:60]}; give a path, or a list of paths")
    return paths


@dataclass(frozen=True, slots=True)
class Prepared:
    """Material ready to train on, under the settings that it was prepared with.

    `taught` is what the split teaches, some of it in conversations. `stages` tell what every stage
    let through, `lessons` are what a teacher wrote about the material, where one was asked;
    `rehearsal` is trained along with it, and is no part of what the expert is about. `cut` are the
    places of prompts of which the context takes the end only.
    """

    material: Material
    split: Split
    taught: tuple[Example, ...]
    layers: tuple[LinearLayer, ...]
    plan: RankPlan
    settings: TrainingSettings
    stages: tuple[Stage, ...] = ()
    lessons: Lessons | None = None
    rehearsal: tuple[Example, ...] = ()
    cut: tuple[Place, ...] = ()

    @property
    def trained_on(self) -> tuple[Example, ...]:
        """Everything that shapes the weights."""
        return (*self.taught, *self.rehearsal)

    @property
    def dropped(self) -> tuple[Place, ...]:
        """(file, line, reason) of unusable material, and of a teacher's contradictions to it."""
        contradictions = () if self.lessons is None else self.lessons.contradictions
        return (*self.material.dropped, *contradictions)


@dataclass(frozen=True, slots=True)
class TrainingOrder:
    """A name and material, to be read or read already. `force` quarantines a rejected expert."""

    name: str
    data: tuple[Path, ...] | Prepared
    limit: int | None = None
    force: bool = False


@dataclass(frozen=True, slots=True)
class TrainingOutcome:
    """A finished training: what was published under which status, and every figure behind it.

    `examples` taught, `selection` others chose the weights, `held_out` judged them; where there
    was too little to part, `selection` is 0 and `held_out` did both. `dropped` and `cut` are the
    material's, see `Prepared`. `teacher` is what the manifest says of one, None where rules alone
    made the examples.
    """

    record: ExpertRecord
    report: GateReport
    plan: RankPlan
    result: TrainingResult
    shape: str
    examples: int
    selection: int
    held_out: int
    dropped: tuple[Place, ...]
    cut: tuple[Place, ...]
    seconds: float
    teacher: Mapping[str, JsonValue] | None = None

    @property
    def name(self) -> str:
        """What the expert is called."""
        return self.record.name

    @property
    def version(self) -> int:
        """Which training of this name it was, from 1."""
        return self.record.version

    @property
    def status(self) -> str:
        """One of "active", "rejected", "quarantine"."""
        return self.record.status

    @property
    def is_live(self) -> bool:
        """Whether the gate let the expert in."""
        return self.record.status == "active"

    def to_dict(self) -> dict[str, object]:
        """The outcome as JSON values."""
        result, record = self.result, self.record
        return {
            "name": record.name,
            "version": record.version,
            "expert_id": record.expert_id,
            "status": record.status,
            "reason": record.reason,
            "shape": self.shape,
            "examples": self.examples,
            "selection_examples": self.selection,
            "held_out_examples": self.held_out,
            "dropped": [list(each) for each in self.dropped],
            "cut": [list(each) for each in self.cut],
            "teacher": to_json(self.teacher),
            "plan": to_json(self.plan),
            "training": {
                "steps": result.steps,
                "tokens": result.tokens,
                "seconds": result.seconds,
                "loss_before": result.loss_before,
                "loss_after": result.loss_after,
                "exact_before": result.exact_before,
                "exact_after": result.exact_after,
            },
            "gate": to_json(self.report.to_dict()),
            "seconds": self.seconds,
        }


@dataclass(frozen=True, slots=True)
class TrainingEstimate:
    """What a training would take if it ran to its last step.

    `steps` and `tokens` (answer tokens) are exact; `seconds` and `peak_bytes` are extrapolated
    from a few real steps. `examples`, `selection`, `held_out`, `dropped` and `cut` are those of the
    outcome. Where
    a teacher is still to be asked, `teacher_passages` are what about, and the other figures are
    those without what it will write.
    """

    steps: int
    tokens: int
    seconds: float
    peak_bytes: int
    examples: int
    selection: int
    held_out: int
    shape: str
    split: str
    parameters: int
    teacher_passages: int = 0
    stages: tuple[Stage, ...] = ()
    dropped: tuple[Place, ...] = ()
    cut: tuple[Place, ...] = ()
