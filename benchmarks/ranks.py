"""Compares rank strategies: `python benchmarks/ranks.py build/ranks.jsonl`, or `make ranks`.

Appends a line for every run to the file; started again with the same file, it goes on with what is
missing. Tells on stderr how far it has come.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from adaptive_moe.experiments.rank_runs import RankPlan, RunFile
from adaptive_moe.experiments.rank_sets import PACKS, UNSHOWN, StudySet, load_set
from adaptive_moe.experiments.rank_study import begin, conduct
from adaptive_moe.experiments.rank_trial import PocketRuns
from adaptive_moe.experiments.rank_workers import Workers
from adaptive_moe.models.loading import choose_device

_USUAL = RankPlan()


def main(arguments: Sequence[str] | None = None) -> None:
    """Carry out all runs that are missing."""
    options = _parser().parse_args(arguments)
    plan = RankPlan(
        reference_rank=options.rank,
        steps=options.steps,
        seeds=tuple(range(1, options.seeds + 1)),
        rates=tuple(sorted(options.rates)),
    )
    words = [*(options.set or (PACKS, UNSHOWN)), *options.domain]
    sets = [load_set(word) for word in words]
    digests = {each.name: each.digest for each in sets}
    device = choose_device(options.device)
    with RunFile(options.file) as file:
        at_once = options.workers if device.type == "cpu" else options.at_once
        begin(file, plan, sets, at_once=at_once, device=device)
        with _performer(device, words, sets, at_once) as performer:
            conduct(plan, digests, file, performer.perform, _tell)


def _performer(
    device: torch.device, words: Sequence[str], sets: Sequence[StudySet], at_once: int
) -> Workers | PocketRuns:
    if device.type == "cpu":
        return Workers(at_once, words)
    named = {each.name: each for each in sets}
    return PocketRuns(named, device=str(device), at_once=at_once)


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("file", type=Path, help="JSON lines, one a run")
    parser.add_argument("--set", action="append", help="packs, unshown or PACK+PACK; repeatable")
    parser.add_argument(
        "--domain", action="append", default=[], help="NAME=FOLDER with train.jsonl; repeatable"
    )
    parser.add_argument("--workers", type=int, default=1, help="processes of one thread each")
    parser.add_argument("--device", default="cpu", help="another than cpu has no workers")
    parser.add_argument(
        "--at-once", type=int, default=15, help="runs that share their passes there"
    )
    parser.add_argument("--rank", type=int, default=_USUAL.reference_rank)
    parser.add_argument("--steps", type=int, default=_USUAL.steps)
    parser.add_argument(
        "--rates", type=float, nargs="+", default=_USUAL.rates, help="learning rates to choose of"
    )
    parser.add_argument("--seeds", type=int, default=len(_USUAL.seeds))
    return parser


if __name__ == "__main__":
    main()
