"""Fills the Decisions table: `python benchmarks/decisions.py`, or `make decisions`.

Prints one JSON object, and on stderr the table with every row. lm-polygraph needs an environment
of its own, whose interpreter --polygraph names; `make decisions` makes one. A model of others is
measured where --foreign names it and --domains a folder of texts for it.
"""

import argparse
import json
import sys
from collections.abc import Sequence

from adaptive_moe.experiments.benchmarks import DECISIONS, conduct
from adaptive_moe.experiments.plan import Plan
from adaptive_moe.experiments.table import text_table

_USUAL = Plan()


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure everything, or the parts that were named, and print it."""
    options = _parser().parse_args(arguments)
    plan = Plan(
        seed=options.seed,
        threads=options.threads,
        quick=options.quick,
        polygraph=options.polygraph,
        foreign=options.foreign,
        domains=options.domains,
    )
    found = conduct(options.part or DECISIONS, plan, lambda text: print(text, file=sys.stderr))
    print(f"\n{text_table(found)}", file=sys.stderr)
    print(json.dumps(found, indent=2))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--part", action="append", choices=DECISIONS, help="may be repeated")
    parser.add_argument("--polygraph", help="the Python of an environment with lm-polygraph")
    parser.add_argument("--foreign", help="a model of others: an id of the hub or a folder")
    parser.add_argument("--domains", help="a folder for it: NAME/test.jsonl, NAME/train.jsonl")
    parser.add_argument("--seed", type=int, default=_USUAL.seed)
    parser.add_argument("--threads", type=int, default=_USUAL.threads)
    parser.add_argument("--quick", action="store_true", help="leave out what takes minutes")
    return parser


if __name__ == "__main__":
    main()
