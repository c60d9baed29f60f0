"""`router`: teach it when the base is right, measure it, choose its threshold."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from adaptive_moe.cli.command import command
from adaptive_moe.cli.group import group
from adaptive_moe.cli.safe_text import clean_line
from adaptive_moe.cli.terminal import Terminal
from adaptive_moe.errors import ConfigurationError

if TYPE_CHECKING:
    from adaptive_moe.router.fitted_on import FittedOn
    from adaptive_moe.router.model import Learned
    from adaptive_moe.router.router import Router

app = group("The router: when the base's own answer is trusted.")

_UNGRADED = (
    "Nobody graded these answers. Its probabilities say whether {samples} sampled answers agree, "
    "not whether they are right; they count as uncalibrated, and no risk can be promised. How good "
    "they are: router evaluate, with known answers."
)

QuestionsArgument = Annotated[
    list[Path],
    typer.Argument(metavar="FILE...", help="JSON lines with prompt, answer, and perhaps domain."),
]
GraderOption = Annotated[
    str, typer.Option("--grader", help="exact, normalised, numeric, token_f1 or choice.")
]


@command(app, "train", "base", "store", "seed")
def train(
    terminal: Terminal,
    data: QuestionsArgument,
    output: Annotated[
        Path | None, typer.Option("--output", metavar="DIR", help="Where to keep the router.")
    ] = None,
    grader: GraderOption = "normalised",
    unlabelled: Annotated[
        bool,
        typer.Option(
            "--unlabelled",
            help="Prompts without answers, or text with one a line: learn what it would say again.",
        ),
    ] = False,
) -> int:
    """Let the base answer questions with known answers and learn when it is right.

    Without known answers (--unlabelled) it learns which answers the base would give again.
    """
    from adaptive_moe.cli.engine import open_engine

    folder = output or terminal.settings.router.folder
    if folder is None:
        raise ConfigurationError("say where to keep the router: --output DIR")
    if unlabelled and grader != "normalised":
        raise ConfigurationError(
            f"--grader {grader}: with --unlabelled nothing is graded; leave one of them out"
        )
    unfitted = terminal.settings.router.model_copy(update={"folder": None})
    seed = terminal.settings.training.seed
    with (
        open_engine(terminal.with_settings(router=unfitted)) as moe,
        terminal.working("sampling answers" if unlabelled else "grading the base's answers"),
    ):
        if unlabelled:
            router = moe.router.fit_unlabelled(data, output=folder, seed=seed)
        else:
            router = moe.router.fit(data, output=folder, grader=grader, seed=seed)
    terminal.finish(_fitted_values(router, folder), *_fitted_lines(router, folder))
    return 0


@command(app, "evaluate", "base", "store", "seed", "force_uncalibrated")
def evaluate(
    terminal: Terminal,
    data: QuestionsArgument,
    training: Annotated[
        list[Path] | None,
        typer.Option(
            "--training", metavar="FILE", help="What it was fitted on, for controls; repeatable."
        ),
    ] = None,
    plots: Annotated[
        Path | None, typer.Option("--plots", metavar="DIR", help="Also draw SVG files there.")
    ] = None,
    grader: GraderOption = "normalised",
) -> int:
    """Measure the router on questions with known answers that it was not fitted on.

    With --training it is also fitted anew, without each domain in turn and on permuted labels.
    """
    from adaptive_moe.cli.engine import open_engine
    from adaptive_moe.cli.router_view import report_parts
    from adaptive_moe.router.plots import PLOTS

    with open_engine(terminal) as moe, terminal.working("reading the questions") as status:
        report = moe.router.evaluate(
            data,
            training=training or (),
            plots=plots,
            grader=grader,
            seed=terminal.settings.training.seed,
            tell=lambda text: status.update(clean_line(text)),
        )
    drawn = [] if plots is None else [str(plots / name) for name in PLOTS]
    values = {**report.to_dict(), "plots": drawn}
    terminal.finish(values, *report_parts(report), *(f"drawn: {file}" for file in drawn))
    return 0


@command(app, "threshold", "base", "store", "force_uncalibrated")
def threshold(
    terminal: Terminal,
    target_risk: Annotated[
        float | None,
        typer.Option("--target-risk", min=0.0, max=1.0, help="Errors among trusted answers."),
    ] = None,
    coverage: Annotated[
        float | None,
        typer.Option("--coverage", min=0.0, max=1.0, help="Share of answers to trust."),
    ] = None,
    error_cost: Annotated[
        float | None,
        typer.Option("--error-cost", help="Of trusting a wrong answer; not trusting one costs 1."),
    ] = None,
) -> int:
    """The threshold for a risk, a coverage or a cost; without any, the one in force."""
    if sum(aim is not None for aim in (target_risk, coverage, error_cost)) > 1:
        raise ConfigurationError("give one of --target-risk, --coverage and --error-cost")
    if error_cost is not None and not 0 < error_cost < math.inf:
        raise ConfigurationError(f"--error-cost {error_cost}: give a finite number above 0")
    from adaptive_moe.cli.engine import open_engine
    from adaptive_moe.engine.events import to_json

    with open_engine(terminal) as moe:
        found = moe.router.threshold(
            target_risk=target_risk, coverage=coverage, error_cost=error_cost
        )
    use = f"Use it with --set router.threshold={found.value:.4f}"
    parts = (f"threshold {found.value:.4f} ({found.kind})", found.explanation, use)
    terminal.finish(to_json(found), *parts)
    return 0


def _fitted_values(router: "Router", folder: Path) -> dict[str, object]:
    learned, lessons = _learned(router)
    return {
        "folder": str(folder),
        "threshold": router.threshold().value,
        "target": lessons.target,
        "samples": lessons.samples,
        "labels": learned.labels,
        "accuracy": learned.accuracy,
        "repeated": lessons.repeated,
        "left_out": lessons.left_out,
    }


def _fitted_lines(router: "Router", folder: Path) -> tuple[str, ...]:
    learned, lessons = _learned(router)
    counted = (
        f"It learned from {learned.labels} prompts; {lessons.repeated} that repeat others and "
        f"{lessons.left_out} that cannot be asked are left out."
    )
    warned = () if lessons.target == "answers" else (_UNGRADED.format(samples=lessons.samples),)
    use = f"Use it with --set router.folder={folder}, or router: {{folder: {folder}}} in a file."
    return f"The router is in {folder}.", counted, *warned, use


def _learned(router: "Router") -> tuple["Learned", "FittedOn"]:
    """What a router just fitted knows of its fitting."""
    learned = router.model.learned
    assert learned is not None
    assert learned.fitted_on is not None
    return learned, learned.fitted_on
