"""Runs of the study of rank strategies; as a program, one after another for whoever asks.

`python -m adaptive_moe.experiments.rank_trial SET...` reads a run as JSON from every line of its
input and answers each with a line: the outcome, or the reason why there is none. SET is a name of
`rank_sets.load_set` or NAME=FOLDER.
"""

import json
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import IO, Self, final

import torch

from adaptive_moe.config.settings import TrainingSettings
from adaptive_moe.errors import DivergedError
from adaptive_moe.experiments import bases
from adaptive_moe.experiments.figures import reason_of
from adaptive_moe.experiments.machine import Bystanders, working_conditions
from adaptive_moe.experiments.plan import POCKET
from adaptive_moe.experiments.rank_runs import OPTIMIZER, READY, RankRun, Record
from adaptive_moe.experiments.rank_sets import StudySet, load_set
from adaptive_moe.experts.bank import LoraBank
from adaptive_moe.experts.weights import LoraWeights
from adaptive_moe.models.language_model import LanguageModel
from adaptive_moe.training.answer_loss import AnswerLoss
from adaptive_moe.training.encoding import encode_examples
from adaptive_moe.training.importance import measured_importance
from adaptive_moe.training.ranks import MEASURED, RankPlan, check_built, plan_ranks
from adaptive_moe.training.steps import ExampleScore, score_examples
from adaptive_moe.training.trainer import Slot, TrainingResult, train_sweep

_EVERY = 80  # steps between looks at the selection side
_BANK_BYTES = 8 << 20


def try_out(
    language_model: LanguageModel, bank: LoraBank, study_set: StudySet, runs: Sequence[RankRun]
) -> list[dict[str, object] | DivergedError]:
    """Train as the runs say, side by side, and score each once, all of it as JSON values.

    They may differ in strategy, rank, rate and seed. `right` tells of every test question in its
    order whether it was answered exactly; the times are of all runs together, an equal share each.
    """
    others, started, worked = Bystanders(), time.perf_counter(), time.process_time()
    plans = [_plan(language_model, bank, study_set, _settings(run)) for run in runs]
    results = train_sweep(
        language_model,
        bank,
        [Slot(plan, run.seed, run.learning_rate) for run, plan in zip(runs, plans, strict=True)],
        study_set.train,
        held_out=study_set.selection,
        settings=_settings(runs[0]),
    )
    found = [
        result
        if isinstance(result, DivergedError)
        else _found(language_model, bank, study_set, run, plan, result)
        for run, plan, result in zip(runs, plans, results, strict=True)
    ]
    times = {
        "seconds": round((time.perf_counter() - started) / len(runs), 1),
        "processor_seconds": round((time.process_time() - worked) / len(runs), 1),
        "others": others.load(),
    }
    return [each | times if isinstance(each, dict) else each for each in found]


def _found(
    language_model: LanguageModel,
    bank: LoraBank,
    study_set: StudySet,
    run: RankRun,
    plan: RankPlan,
    result: TrainingResult,
) -> dict[str, object]:
    check_built(plan, result.weights)
    found: dict[str, object] = {
        "selection_exact": result.exact_after,
        "selection_loss": result.loss_after,
        "best_step": result.best_step,
        "steps": result.steps,
        "skipped_steps": result.skipped_steps,
        "parameters": plan.parameters,
        "least_rank": min(plan.ranks.values()),
        "greatest_rank": max(plan.ranks.values()),
    }
    if run.is_scored:
        settings = _settings(run)
        found |= _scored(_test_scores(language_model, bank, study_set, result.weights, settings))
    return found


def _settings(run: RankRun) -> TrainingSettings:
    """All steps are taken, as far as answers are still wrong; most prompts come up only once."""
    return TrainingSettings.model_validate(
        {
            "ranks": run.strategy,
            "rank": run.rank,
            "optimizer": OPTIMIZER,
            "learning_rate": run.learning_rate,
            "max_steps": run.steps,
            "evaluate_every": _EVERY,
            "patience": run.steps,
            "prompt_cache_bytes": 0,
            "seed": run.seed,
        }
    )


def _plan(
    language_model: LanguageModel, bank: LoraBank, study_set: StudySet, settings: TrainingSettings
) -> RankPlan:
    importance = None
    if settings.ranks in MEASURED:
        importance = measured_importance(
            settings.ranks,
            language_model,
            language_model.layers,
            study_set.train,
            bank=bank,
            reference_rank=settings.rank,
            settings=settings,
        )
    return plan_ranks(
        language_model.layers,
        strategy=settings.ranks,
        reference_rank=settings.rank,
        importance=importance,
        scaling=settings.scaling,
        alpha=settings.alpha,
        seed=settings.seed,
    )


def _test_scores(
    language_model: LanguageModel,
    bank: LoraBank,
    study_set: StudySet,
    weights: LoraWeights,
    settings: TrainingSettings,
) -> list[ExampleScore]:
    loss = AnswerLoss(
        language_model,
        bank,
        encode_examples(language_model, study_set.test).examples,
        activation=settings.activation,
        prompt_cache_bytes=0,
    )
    return score_examples(weights, loss, settings)


def _scored(scores: Sequence[ExampleScore]) -> dict[str, object]:
    return {
        "exact": sum(score.exact for score in scores) / len(scores),
        "loss": sum(score.loss for score in scores) / sum(score.tokens for score in scores),
        "right": "".join(str(int(score.exact)) for score in scores),
    }


@final
class PocketRuns:
    """The pocket model on a device, where it carries out runs, so many at a time."""

    def __init__(
        self, sets: Mapping[str, StudySet], *, device: str = "cpu", at_once: int = 1
    ) -> None:
        self._sets = sets
        self._at_once = at_once
        self._model = bases.load(POCKET, device)
        self._bank = LoraBank(
            self._model.model,
            self._model.layers,
            capacity_bytes=_BANK_BYTES,
            dtype=self._model.dtype,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._bank.close()

    def perform(self, runs: Sequence[RankRun]) -> Iterator[Record]:
        """A record for every run; those of a set that take as many steps go side by side."""
        alike: dict[tuple[str, int], list[RankRun]] = {}
        for run in runs:
            alike.setdefault((run.material, run.steps), []).append(run)
        for group in alike.values():
            for start in range(0, len(group), self._at_once):
                yield from self._performed(group[start : start + self._at_once])

    def _performed(self, runs: Sequence[RankRun]) -> Iterator[Record]:
        """Where something goes wrong with several, each is tried by itself."""
        try:
            found = try_out(self._model, self._bank, self._sets[runs[0].material], runs)
        except Exception as error:  # noqa: BLE001 - whatever runs die of belongs on the page
            reason = reason_of(error)
        else:
            yield from map(_record, runs, found)
            return
        if len(runs) == 1:
            yield _failed(runs[0], reason)
            return
        for run in runs:
            yield from self._performed([run])


def _record(run: RankRun, outcome: dict[str, object] | DivergedError) -> Record:
    if isinstance(outcome, DivergedError):
        return _failed(run, reason_of(outcome))
    return {"kind": "run", "key": run.key, "run": asdict(run), "outcome": outcome}


def _failed(run: RankRun, reason: str) -> Record:
    return {"kind": "failed", "key": run.key, "run": asdict(run), "reason": reason}


def answer_all(lines: Iterable[str], output: IO[str], sets: Mapping[str, StudySet]) -> None:
    """One line of `output` for every line, until there are no more."""
    with PocketRuns(sets) as pocket:
        for line in lines:
            for record in pocket.perform([RankRun(**json.loads(line))]):
                output.write(json.dumps(record) + "\n")
            output.flush()


def main() -> None:
    """Answer what comes from the standard input, on one thread."""
    sets = {found.name: found for found in map(load_set, sys.argv[1:])}
    with working_conditions(1):
        torch.set_num_interop_threads(1)
        sys.stdout.write(READY)
        sys.stdout.flush()
        answer_all(sys.stdin, sys.stdout, sets)


if __name__ == "__main__":
    main()
