"""Fills the Training table: `python benchmarks/training.py`, or `make training`.

Prints one JSON object, and on stderr the table with every row.
"""

import argparse
import json
import sys
from collections.abc import Sequence

from adaptive_moe.experiments.benchmarks import TRAINING, conduct
from adaptive_moe.experiments.plan import Plan
from adaptive_moe.experiments.table import text_table

_USUAL = Plan()


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure everything, or the parts that were named, and print it."""
    options = _parser().parse_args(arguments)
    plan = Plan(
        seed=options.seed, threads=options.threads, device=options.device, quick=options.quick
    )
    found = conduct(options.part or TRAINING, plan, lambda text: print(text, file=sys.stderr))
    print(f"\n{text_table(found)}", file=sys.stderr)
    print(json.dumps(found, indent=2))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--part", action="append", choices=TRAINING, help="may be repeated")
    parser.add_argument("--seed", type=int, default=_USUAL.seed)
    parser.add_argument("--threads", type=int, default=_USUAL.threads)
    parser.add_argument("--device", default=_USUAL.device)
    parser.add_argument("--quick", action="store_true", help="leave out what takes minutes")
    return parser


if __name__ == "__main__":
    main()
