"""One run of the study of rank strategies; as a program, one after another for whoever asks.

`python -m adaptive_moe.experiments.rank_trial SET...` reads a run as JSON from every line of its
input and answers each with a line: the outcome, or the reason why there is none. SET is a name of
`rank_sets.load_set` or NAME=FOLDER.
"""

import json
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import IO, Any

import torch

from adaptive_moe.config.settings import TrainingSettings
from adaptive_moe.experiments import bases
from adaptive_moe.experiments.figures import reason_of
from adaptive_moe.experiments.machine import Bystanders, working_conditions
from adaptive_moe.experiments.plan import POCKET
from adaptive_moe.experiments.rank_runs import OPTIMIZER, READY, RankRun
from adaptive_moe.experiments.rank_sets import StudySet, load_set
from adaptive_moe.experts.bank import LoraBank
from adaptive_moe.experts.weights import LoraWeights
from adaptive_moe.models.language_model import LanguageModel
from adaptive_moe.training.answer_loss import AnswerLoss
from adaptive_moe.training.encoding import encode_examples
from adaptive_moe.training.importance import measured_importance
from adaptive_moe.training.ranks import MEASURED, RankPlan, check_built, plan_ranks
from adaptive_moe.training.steps import ExampleScore, score_examples
from adaptive_moe.training.trainer import train_lora

_EVERY = 80  # steps between looks at the selection side
_BANK_BYTES = 8 << 20


def try_out(
    language_model: LanguageModel, bank: LoraBank, study_set: StudySet, run: RankRun
) -> dict[str, object]:
    """Train as the run says and score it once, all of it as JSON values.

    `right` tells of every test question in its order whether it was answered exactly.
    """
    others, started, worked = Bystanders(), time.perf_counter(), time.process_time()
    settings = _settings(run)
    plan = _plan(language_model, bank, study_set, settings)
    result = train_lora(
        language_model,
        bank,
        plan,
        study_set.train,
        held_out=study_set.selection,
        settings=settings,
        seed=run.seed,
    )
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
        found |= _scored(_test_scores(language_model, bank, study_set, result.weights, settings))
    return found | {
        "seconds": round(time.perf_counter() - started, 1),
        "processor_seconds": round(time.process_time() - worked, 1),
        "others": others.load(),
    }


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


def answer_all(
    lines: Iterable[str], output: IO[str], sets: Mapping[str, StudySet], *, device: str = "cpu"
) -> None:
    """One line of `output` for every line, until there are no more."""
    model = bases.load(POCKET, device)
    bank = LoraBank(model.model, model.layers, capacity_bytes=_BANK_BYTES, dtype=model.dtype)
    try:
        for line in lines:
            answer = _answer(model, bank, sets, RankRun(**json.loads(line)))
            output.write(json.dumps(answer) + "\n")
            output.flush()
    finally:
        bank.close()


def _answer(
    model: LanguageModel, bank: LoraBank, sets: Mapping[str, StudySet], run: RankRun
) -> dict[str, Any]:
    named = {"key": run.key, "run": asdict(run)}
    try:
        return {"kind": "run", **named, "outcome": try_out(model, bank, sets[run.material], run)}
    except Exception as error:  # noqa: BLE001 - whatever a run dies of belongs on the page
        return {"kind": "failed", **named, "reason": reason_of(error)}


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
