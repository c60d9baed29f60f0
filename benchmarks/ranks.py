"""Compares rank strategies: `python benchmarks/ranks.py build/ranks.jsonl`, or `make ranks`.

Appends a line for every run to the file; started again with the same file, it goes on with what is
missing. Tells on stderr how far it has come.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from adaptive_moe.experiments.rank_runs import RankPlan, RunFile
from adaptive_moe.experiments.rank_sets import PACKS, UNSHOWN, StudySet, load_set
from adaptive_moe.experiments.rank_study import conduct, start_record
from adaptive_moe.experiments.rank_trial import Bench
from adaptive_moe.experiments.rank_workers import Workers

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
    with RunFile(options.file) as file, _performer(options, words, sets) as performer:
        abreast = options.workers if options.device == "cpu" else options.abreast
        file.append(start_record(plan, sets, abreast=abreast, device=options.device))
        conduct(plan, digests, file, performer.perform, _tell)


def _performer(
    options: argparse.Namespace, words: Sequence[str], sets: Sequence[StudySet]
) -> Workers | Bench:
    if options.device == "cpu":
        return Workers(options.workers, words)
    named = {each.name: each for each in sets}
    return Bench(named, device=options.device, abreast=options.abreast)


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
    parser.add_argument("--device", default="cpu", help="another than the CPU has no workers")
    parser.add_argument(
        "--abreast", type=int, default=15, help="runs of a device that share their passes"
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
