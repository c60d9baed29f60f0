"""Fills the Runtime table: `python benchmarks/runtime.py`, or `make bench`.

Prints one JSON object, and on stderr the table with every row: what was wanted, what was measured
on every model, and what peers reached. `adaptive-moe bench NAME` runs one part of it.
"""

import argparse
import json
import sys
from collections.abc import Sequence

from adaptive_moe.experiments.benchmarks import RUNTIME, conduct
from adaptive_moe.experiments.plan import Plan
from adaptive_moe.experiments.table import text_table

_USUAL = Plan()


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure everything and print it."""
    options = _parser().parse_args(arguments)
    plan = Plan(
        models=tuple(options.model),
        rounds=options.rounds,
        minutes=options.minutes,
        seed=options.seed,
        threads=options.threads,
        device=options.device,
        quick=options.quick,
    )
    found = conduct(RUNTIME, plan, _tell)
    print(f"\n{text_table(found)}", file=sys.stderr)
    print(json.dumps(found, indent=2))


def _tell(text: str) -> None:
    """One line that is drawn anew; where it cannot be, rounds are not told."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)
    elif "round " not in text:
        print(text, file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--model", action="append", default=[], help="may be repeated")
    parser.add_argument("--rounds", type=int, default=_USUAL.rounds, help="at most")
    parser.add_argument("--minutes", type=float, help="for the rounds of a model, at most")
    parser.add_argument("--seed", type=int, default=_USUAL.seed)
    parser.add_argument("--threads", type=int, default=_USUAL.threads)
    parser.add_argument("--device", default=_USUAL.device)
    parser.add_argument("--quick", action="store_true", help="leave out what takes minutes")
    return parser


if __name__ == "__main__":
    main()
