"""Answer-activated against whole-prompt experts: `python benchmarks/activation.py`.

Without --set two and two of the knowledge packs are learned by one expert, and all four. Prints
one JSON object, and a table on stderr. What is done: adaptive_moe/experiments/activation.py.
"""

import argparse
import json
import sys
from collections.abc import Sequence

from adaptive_moe.experiments.activation import Ablation, Material, compare, default_materials
from adaptive_moe.experiments.benchmarks import Benchmark, conduct_all
from adaptive_moe.experiments.plan import Plan
from adaptive_moe.experiments.table import text_table


def main(arguments: Sequence[str] | None = None) -> None:
    """Train everything that was asked for and print the figures."""
    options = _parser().parse_args(arguments)
    ablation = Ablation(
        tuple(Material.parse(word) for word in options.set),
        ranks=tuple(options.rank),
        seeds=options.seeds,
        answer_steps=options.answer_steps or options.steps,
        prompt_steps=options.steps,
    )
    plan = Plan(models=(options.model,), threads=options.threads, device=options.device)
    trainings = Benchmark("", lambda plan, tell: compare(ablation, plan, tell))
    found = conduct_all({"activation": trainings}, plan, lambda text: print(text, file=sys.stderr))
    print(text_table(found), file=sys.stderr)
    print(json.dumps(found, indent=2))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--model", default="pocket", help='"pocket", a folder or a hub id')
    parser.add_argument(
        "--set",
        nargs="+",
        default=list(default_materials()),
        help="PACK, PACK+PACK, NAME=PATH or NAME=PATH:ROWS",
    )
    parser.add_argument("--rank", type=int, nargs="+", default=[2, 8, 16, 32])
    parser.add_argument("--seeds", type=int, default=3, help="how many, from 0")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument(
        "--answer-steps", type=int, help="of answer-activated training; as many if not given"
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    return parser


if __name__ == "__main__":
    main()
