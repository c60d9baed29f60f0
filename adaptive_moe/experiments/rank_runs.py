"""The runs of the study of rank strategies, and the file that remembers which are done."""

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import product
from pathlib import Path
from typing import Any, Literal, Self, final

from adaptive_moe.errors import DataError

FIXED, CONTROL = "fixed", "random"
OPTIMIZER: Literal["muon"] = "muon"
_VERSION = 2  # of what a run does; a new one does not go on with the records of another

Record = Mapping[str, Any]
"""One line of the file: the start of a study, or a run that is done or failed."""

READY = "ready\n"
"""The first line of a process that carries out runs."""


@dataclass(frozen=True, slots=True)
class RankRun:
    """One training. `digest` is that of its set; one that is not scored asks no test question."""

    material: str
    digest: str
    strategy: str
    rank: int
    learning_rate: float
    seed: int
    steps: int
    is_scored: bool = True

    @property
    def key(self) -> str:
        """Equal for runs that end in the same figures."""
        content = json.dumps([_VERSION, asdict(self)], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:16]

    @property
    def title(self) -> str:
        """In words, for whoever watches."""
        return (
            f"{self.material}, {self.strategy}, rank {self.rank}, rate {self.learning_rate:g}, "
            f"seed {self.seed}"
        )


@dataclass(frozen=True, slots=True)
class RankPlan:
    """What is compared, and how often.

    The noise floor is that of `fixed` at the two `floor_ranks`. The rate of every arm and set is
    chosen on `sweep_seed`, which is none of `seeds`. All arms get the budget of `reference_rank`.
    """

    arms: tuple[str, ...] = (
        FIXED, "linear_decay", "attention_heavy", "mlp_heavy", "gradient", CONTROL,
    )  # fmt: skip
    reference_rank: int = 4
    steps: int = 320
    seeds: tuple[int, ...] = (1, 2, 3, 4, 5)
    rates: tuple[float, ...] = (3e-3, 6e-3, 1.2e-2)
    sweep_seed: int = 100
    floor_ranks: tuple[int, int] = (2, 16)
    floor_seeds: tuple[int, ...] = (11, 12, 13)
    floor_rate: float = 6e-3

    def floor_runs(self, name: str, digest: str) -> tuple[RankRun, ...]:
        """Uniform ranks of either size on a few seeds."""
        return tuple(
            RankRun(name, digest, FIXED, rank, self.floor_rate, seed, self.steps)
            for seed, rank in product(self.floor_seeds, self.floor_ranks)
        )

    def sweep_runs(self, name: str, digest: str) -> tuple[RankRun, ...]:
        """Every arm at every rate, judged by the selection side alone."""
        rank, seed, steps = self.reference_rank, self.sweep_seed, self.steps
        return tuple(
            RankRun(name, digest, arm, rank, rate, seed, steps, is_scored=False)
            for arm, rate in product(self.arms, self.rates)
        )

    def final_runs(self, name: str, digest: str, rates: Mapping[str, float]) -> tuple[RankRun, ...]:
        """Every arm that has a rate, seed by seed, so that those of a seed are complete early."""
        rank, steps = self.reference_rank, self.steps
        return tuple(
            RankRun(name, digest, arm, rank, rates[arm], seed, steps)
            for seed, arm in product(self.seeds, self.arms)
            if arm in rates
        )

    @classmethod
    def read(cls, values: Mapping[str, Any]) -> "RankPlan":
        """The plan as `asdict` gave it, through JSON."""
        known = {field.name for field in fields(cls)}
        read: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in values.items()
            if name in known
        }
        return cls(**read)


@final
class RunFile:
    """An append-only file of JSON lines, locked while it is open; a torn last line is left out."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a+b")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._file.close()
            raise DataError(
                f"{path}: another study writes this file; wait for it, or stop it first"
            ) from None
        self._file.seek(0)
        content = self._file.read()
        if content and not content.endswith(b"\n"):
            self._file.write(b"\n")
        self._records = list(_parsed(content))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    @property
    def records(self) -> Sequence[Record]:
        """Everything that was written so far, by this study and those before it."""
        return tuple(self._records)

    def append(self, record: Record) -> None:
        """Write one line and see to it that it lies on the disk."""
        self._file.write(json.dumps(record).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())
        self._records.append(record)


def read_records(path: Path) -> tuple[Record, ...]:
    """The records of a file, whether or not a study still writes it."""
    return tuple(_parsed(path.read_bytes()))


def outcomes(records: Sequence[Record]) -> dict[str, Record]:
    """The outcome of every run that is done, by key."""
    return {each["key"]: each["outcome"] for each in records if each["kind"] == "run"}


def failures(records: Sequence[Record]) -> dict[str, str]:
    """The reason of every run that failed, by key, unless it was done later."""
    done = outcomes(records)
    return {
        each["key"]: each["reason"]
        for each in records
        if each["kind"] == "failed" and each["key"] not in done
    }


def _parsed(content: bytes) -> Iterator[Record]:
    for line in content.splitlines():
        try:
            yield json.loads(line)
        except ValueError:  # a study that was killed while it wrote
            continue
