"""The study of rank strategies: noise floor, learning rates, five seeds, set by set."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict

import torch

from adaptive_moe.errors import DataError
from adaptive_moe.experiments.machine import describe, working_conditions
from adaptive_moe.experiments.plan import Tell
from adaptive_moe.experiments.rank_floor import chosen_rates, noise_floor
from adaptive_moe.experiments.rank_runs import (
    RankPlan,
    RankRun,
    Record,
    RunFile,
    failures,
    outcomes,
)
from adaptive_moe.experiments.rank_sets import StudySet

Perform = Callable[[Sequence[RankRun]], Iterator[Record]]
"""Carries out runs and gives back a record of each, in any order."""


def conduct(
    plan: RankPlan, sets: Mapping[str, str], file: RunFile, perform: Perform, tell: Tell
) -> None:
    """Every run that the file lacks, one set after the other; `sets` are digests by name.

    A set on which the two uniform ranks lie within the noise is left at that. A run that failed is
    not tried again. What is done is in the file at once, so a study that was stopped goes on.
    """
    for name, digest in sets.items():
        _complete(plan.floor_runs(name, digest), file, perform, tell)
        floor = noise_floor(plan, name, digest, outcomes(file.records))
        if floor is None or not floor.is_exceeded:
            tell(f"{name}: rank {plan.floor_ranks[0]} and {plan.floor_ranks[1]} look alike")
            continue
        _complete(plan.sweep_runs(name, digest), file, perform, tell)
        done, failed = outcomes(file.records), failures(file.records)
        rates = chosen_rates(plan, name, digest, done, failed)
        chosen = {arm: choice.rate for arm, choice in rates.items()}
        _complete(plan.final_runs(name, digest, chosen), file, perform, tell)


def begin(
    file: RunFile,
    plan: RankPlan,
    sets: Sequence[StudySet],
    *,
    at_once: int,
    device: torch.device,
) -> None:
    """Write what has to be known about the study and its machine as the file's next line.

    `at_once` runs go on at a time, on the CPU each in a process of its own. Raises DataError where
    the file's runs are of another device: rounding would tell them apart.
    """
    with working_conditions(1):
        machine = describe(device)
    for record in file.records:
        if record["kind"] == "start" and record["machine"]["device"] != machine["device"]:
            raise DataError(
                f"the runs of this file are of {record['machine']['device']}, not of "
                f"{machine['device']}; go on there, or begin another file"
            )
    started = {
        "kind": "start",
        "plan": asdict(plan),
        "sets": {each.name: each.to_dict() for each in sets},
        "machine": machine,
        "workers": at_once,
        "load_before": round(os.getloadavg()[0], 2),
    }
    file.append(started)


def _complete(runs: Sequence[RankRun], file: RunFile, perform: Perform, tell: Tell) -> None:
    known = outcomes(file.records) | failures(file.records)
    left = [run for run in runs if run.key not in known]
    for number, record in enumerate(perform(left), start=1):
        file.append(record)
        tell(f"{number} of {len(left)}: {_told(record)}")


def _told(record: Record) -> str:
    title = RankRun(**record["run"]).title
    if record["kind"] == "failed":
        return f"{title}: failed: {record['reason']}"
    outcome = record["outcome"]
    exact = outcome.get("exact", outcome["selection_exact"])
    return f"{title}: {exact:.3f} exact in {outcome['seconds']:.0f} s"
