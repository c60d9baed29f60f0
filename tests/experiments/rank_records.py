"""Records of a study of rank strategies, written by hand: no model is asked."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict

from adaptive_moe.experiments.rank_runs import RankPlan, RankRun, Record

FACTS = 20
PLAN = RankPlan(arms=("fixed", "gradient", "random"), steps=2)
SETS = {"packs": "a1", "unshown": "b2"}
SPREAD = (0, 1, -1, 0, 0)  # facts more or less right, by seed


def record(run: RankRun, right: int, **changes: object) -> Record:
    """A run that answers so many of twenty test questions and as many on the selection side."""
    outcome = {
        "selection_exact": right / FACTS, "selection_loss": 1.0, "best_step": 2, "steps": 2,
        "skipped_steps": 0, "parameters": 81920, "least_rank": 4, "greatest_rank": 4,
        "exact": right / FACTS, "loss": 2 - right / FACTS,
        "right": "1" * right + "0" * (FACTS - right), "seconds": 60.0,
        "processor_seconds": 50.0, "others": 0.5,
    }  # fmt: skip
    return {
        "kind": "run", "key": run.key, "run": asdict(run), "outcome": {**outcome, **changes}
    }  # fmt: skip


def start(plan: RankPlan = PLAN) -> Record:
    about = {"about": "facts", "facts": 20, "train": 200, "selection": 20, "test": 20}
    return {
        "kind": "start",
        "plan": {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(plan).items()},
        "sets": {name: {**about, "digest": digest} for name, digest in SETS.items()},
        "machine": {
            "device": "cpu", "processor": "x86_64", "processors": 2, "threads": 1,
            "python": "3.11.1", "versions": {"torch": "2.13.0", "bitsandbytes": None},
        },
        "workers": 1,
        "load_before": 0.4,
    }  # fmt: skip


class Bench:
    """Stands where the workers do: answers by a rule and remembers what it was asked.

    `more` are right answers beyond ten by arm, `great` those of the greater uniform rank; those
    of `broken` fail, and after `patience` runs it is switched off.
    """

    def __init__(
        self,
        more: Mapping[str, int] | None = None,
        *,
        great: int = 18,
        broken: str = "",
        patience: int = 1000,
    ) -> None:
        self.asked: list[RankRun] = []
        self._more, self._great, self._broken = more or {}, great, broken
        self._patience = patience

    def perform(self, runs: Sequence[RankRun]) -> Iterator[Record]:
        for run in runs:
            if len(self.asked) >= self._patience:
                raise KeyboardInterrupt
            self.asked.append(run)
            if run.strategy == self._broken:
                named = {"key": run.key, "run": asdict(run)}
                yield {"kind": "failed", **named, "reason": "DivergedError: not | finite"}
            else:
                yield record(run, self._right(run))

    def _right(self, run: RankRun) -> int:
        if run.rank != PLAN.reference_rank:
            return (5 if run.rank == PLAN.floor_ranks[0] else self._great) + run.seed % 2
        if not run.is_scored:
            return 10 + (run.learning_rate == PLAN.rates[1])
        return 10 + SPREAD[run.seed - 1] + self._more.get(run.strategy, 0)
