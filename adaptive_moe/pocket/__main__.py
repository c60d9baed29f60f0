"""`python -m adaptive_moe.pocket build | check | evaluate | questions`: the model's own tools."""

import argparse
import logging
import os
import sys
from pathlib import Path

from adaptive_moe.errors import AdaptiveMoEError
from adaptive_moe.pocket.paths import FACTS_FILE, MODEL

DEFAULT_STEPS = 4200
_LOGGER = logging.getLogger("adaptive_moe.pocket")


def main(arguments: list[str] | None = None) -> int:
    """Run one command; 0 done, 1 the check or the build failed, 2 wrong usage."""
    options = _parser().parse_args(arguments)
    # On a busy machine threads that spin while they wait make every step many times slower.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    commands = {
        "build": _build,
        "check": _check,
        "evaluate": _evaluate,
        "questions": _questions,
    }
    try:
        return commands[options.command](options)
    except AdaptiveMoEError as error:
        _LOGGER.error("%s", error)  # noqa: TRY400 - the message says it all
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m adaptive_moe.pocket", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    build = commands.add_parser("build", help="train the model from the fact files")
    build.add_argument("--output", type=Path, default=None, help="folder for the model")
    build.add_argument("--steps", type=int, default=DEFAULT_STEPS, help="optimiser steps")
    build.add_argument("--seed", type=int, default=0)
    commands.add_parser("check", help="guard facts and packs: sources, contradictions, leaks")
    evaluate = commands.add_parser("evaluate", help="measure the stored weights, write the card")
    evaluate.add_argument("--model", type=Path, default=MODEL, help="folder of the model")
    questions = commands.add_parser("questions", help="write known questions to train routers on")
    questions.add_argument("output", type=Path, help="JSON-lines file to write")
    questions.add_argument("--wordings", type=int, default=1, help="of a fact, of either kind")
    questions.add_argument("--splits", nargs="+", default=["train_router", "calibration"])
    return parser


def _build(options: argparse.Namespace) -> int:
    from adaptive_moe.pocket.build import build
    from adaptive_moe.pocket.training import Recipe, Shape

    folder = options.output or MODEL
    facts_file = FACTS_FILE if options.output is None else folder / FACTS_FILE.name
    build(folder, facts_file, shape=Shape(), recipe=Recipe(steps=options.steps), seed=options.seed)
    return 0


def _check(_: argparse.Namespace) -> int:
    from adaptive_moe.pocket.check import find_problems

    problems = find_problems()
    for problem in problems:
        _LOGGER.error("%s", problem)
    _LOGGER.info("%d problems", len(problems))
    return 1 if problems else 0


def _evaluate(options: argparse.Namespace) -> int:
    from adaptive_moe.pocket.card import write_card
    from adaptive_moe.pocket.measuring import measure

    write_card(measure(options.model), options.model)
    return 0


def _questions(options: argparse.Namespace) -> int:
    from adaptive_moe.pocket.asking import write_known_questions

    count = write_known_questions(options.output, splits=options.splits, wordings=options.wordings)
    _LOGGER.info("%d questions in %s", count, options.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
