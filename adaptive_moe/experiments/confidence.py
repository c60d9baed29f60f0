"""Does the router know when the base is right? On facts that no router was fitted on."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from adaptive_moe.experiments.figures import Figure, Findings
from adaptive_moe.experiments.known_world import (
    LEARNED_SOMETIMES,
    Asked,
    KnownWorld,
    correct_of,
    draw_labels,
    expectations,
    pocket_figure,
    probabilities,
)
from adaptive_moe.experiments.plan import Plan, Tell
from adaptive_moe.measures.calibration import auroc, expected_calibration_error
from adaptive_moe.measures.statistics import cluster_bootstrap
from adaptive_moe.router.evidence import RouterRow
from adaptive_moe.router.probe import fit_probe
from adaptive_moe.router.router import Router
from adaptive_moe.router.scores import answer_scores, mean_entropy

_LABELS = 200  # to calibrate on
_DRAWS = 20
_FEWEST = 20  # test rows of a domain, fewer say nothing of its ranking
_WRONG_HALF = 0.5


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A domain as judged by routers that never saw it, mean entropy's ranking beside.

    `least_ece` is what so many answers measure on average if the probabilities are exactly right.
    """

    domain: str
    items: int
    auroc: float
    entropy_auroc: float
    ece: float
    least_ece: float


def run(plan: Plan, tell: Tell) -> Findings:
    """The router that ships, then routers fitted without a domain or calibrated on few labels."""
    world = KnownWorld(plan, tell)
    shipped = world.shipped_router()
    found = [*_after(shipped, world), *_before(shipped, world)]
    tell("fitting a router")
    few = list(_calibration_errors(world))
    left_out = list(_left_out(world, tell))
    found += _told_left_out(left_out, few)
    found += _controls(world, tell)
    return Findings(tuple(found), {"left_out": [asdict(each) for each in left_out]})


def _after(router: Router, world: KnownWorld) -> Iterator[Figure]:
    """Decision B, on facts learned now and then and on all."""
    asked = world.asked("test")
    sometimes = [each.row for each in asked if each.question.exposure in LEARNED_SOMETIMES]
    for name, rows, accuracy, ranking in (
        ("facts seen 1, 4 or 16 times", sometimes, 0.9, 0.95),
        ("all facts", [each.row for each in asked], None, None),
    ):
        p, correct = probabilities(router, rows), correct_of(rows)
        verdicts = (p >= _WRONG_HALF) == (correct > 0)
        majority = max(correct.mean(), 1 - correct.mean())
        note = (
            f"{len(rows)} answers, {correct.mean():.3f} right; always saying the same is right in "
            f"{majority:.3f}"
        )
        yield pocket_figure(
            "answer_right",
            f"accuracy, {name}",
            value=float(verdicts.mean()),
            target=accuracy,
            at_least=True,
            note=note,
        )
        yield _ranking("answer_right", f"AUROC, {name}", p, rows, ranking, seed=world.seed)


def _before(router: Router, world: KnownWorld) -> Iterator[Figure]:
    """Decision A."""
    asked = world.asked("test")
    everything = [each.row for each in asked]
    sometimes = [each.row for each in asked if each.question.exposure in LEARNED_SOMETIMES]
    for name, rows, target in (
        ("all facts", everything, 0.9),
        ("facts seen 1, 4 or 16 times", sometimes, None),
    ):
        p = expectations(router, rows)
        yield _ranking("will_be_right", f"AUROC, {name}", p, rows, target, seed=world.seed)


def _calibration_errors(world: KnownWorld) -> Iterator[float]:
    """ECE on the test split after calibration on 200 labels, drawn anew every time."""
    fitted = world.fit(world.rows("train_router"), calibration=world.rows("calibration"))
    rows = world.rows("test")
    correct = correct_of(rows)
    generator = np.random.default_rng(world.seed)
    for _ in range(_DRAWS):
        p = probabilities(_recalibrated(fitted, world, generator), rows)
        yield expected_calibration_error(p, correct)


def _recalibrated(
    router: Router, world: KnownWorld, generator: np.random.Generator, *, without: str | None = None
) -> Router:
    rows = [row for row in world.rows("calibration") if row.domain != without]
    chosen, _ = draw_labels(rows, _LABELS, generator)
    labels = [rows[int(place)] for place in chosen]
    return router.recalibrated(labels, numerics=world.language_model.numerics)


def _left_out(world: KnownWorld, tell: Tell) -> Iterator[LeftOut]:
    """Every domain in turn is kept from a router and from the 200 labels it is calibrated on."""
    generator = np.random.default_rng(world.seed)
    test = world.rows("test")
    domains = sorted({row.domain for row in test if row.domain is not None})
    for number, domain in enumerate(domains, start=1):
        rows = [row for row in test if row.domain == domain]
        correct = correct_of(rows)
        if len(rows) < _FEWEST or len(set(correct.tolist())) == 1:
            continue
        tell(f"left-out domain {number} of {len(domains)}: {domain}")
        router = world.fit(
            [row for row in world.rows("train_router") if row.domain != domain],
            calibration=[row for row in world.rows("calibration") if row.domain != domain],
        )
        router = _recalibrated(router, world, generator, without=domain)
        p = probabilities(router, rows)
        yield LeftOut(
            domain,
            len(rows),
            auroc=auroc(p, correct),
            entropy_auroc=auroc(_sureness(rows), correct),
            ece=expected_calibration_error(p, correct),
            least_ece=_least_ece(p, generator),
        )


def _least_ece(p: np.ndarray, generator: np.random.Generator) -> float:
    draws = ((generator.random(p.size) < p).astype(np.float64) for _ in range(_DRAWS))
    return float(np.mean([expected_calibration_error(p, drawn) for drawn in draws]))


def _told_left_out(left_out: Sequence[LeftOut], errors: Sequence[float]) -> Iterator[Figure]:
    gains = np.array([each.auroc - each.entropy_auroc for each in left_out])
    worst = left_out[int(gains.argmin())]
    yield pocket_figure(
        "left_out",
        f"mean of {len(left_out)} domains",
        value=float(gains.mean()),
        target=-0.01,
        at_least=True,
        note=f"the router's mean AUROC is {np.mean([each.auroc for each in left_out]):.3f}",
    )
    note = f"{worst.domain}, {worst.items} answers: {worst.auroc:.3f} against entropy's "
    note += f"{worst.entropy_auroc:.3f}"
    yield pocket_figure("left_out", "worst domain", value=float(gains.min()), note=note)
    spread = f"{len(errors)} draws of {_LABELS} labels, standard deviation {np.std(errors):.3f}"
    yield pocket_figure(
        "calibration", "in domain, mean", value=float(np.mean(errors)), target=0.05, note=spread
    )
    own = [each.ece for each in left_out]
    floor = np.mean([each.least_ece for each in left_out])
    note = f"highest {max(own):.3f}; with {min(each.items for each in left_out)} to "
    note += f"{max(each.items for each in left_out)} answers each, probabilities that were exactly "
    note += f"right would measure {floor:.3f}"
    yield pocket_figure(
        "calibration", "left-out domain, mean", value=float(np.mean(own)), target=0.1, note=note
    )


def _controls(world: KnownWorld, tell: Tell) -> Iterator[Figure]:
    """What must say nothing: a router of shuffled labels; and the length of answers alone."""
    yield from _knowing_exposure(world)
    tell("fitting a router on shuffled labels")
    generator = np.random.default_rng(world.seed)
    shuffled = [_shuffled(world.rows(split), generator) for split in ("train_router", "test")]
    p = probabilities(world.fit(shuffled[0]), shuffled[1])
    permuted = auroc(p, correct_of(shuffled[1]))
    name = "AUROC of a router fitted on shuffled labels"
    yield pocket_figure("answer_right", name, value=permuted)
    rows = world.rows("test")
    lengths = np.array([-float(len(row.trace)) for row in rows])
    value = auroc(lengths, correct_of(rows))
    yield pocket_figure("answer_right", "AUROC of an answer's length alone", value=value)


def _knowing_exposure(world: KnownWorld) -> Iterator[Figure]:
    """A probe that is told how often each fact was taught: more than any answer shows."""
    learn, test = (_with_exposure(world.asked(split)) for split in ("train_router", "test"))
    rows = world.rows("train_router")
    probe = fit_probe(
        learn,
        np.stack([row.evidence.states for row in rows]),
        correct_of(rows),
        features=tuple(learn[0]),
        groups=[row.source for row in rows],
        use_states=False,
        seed=world.seed,
    )
    asked = world.asked("test")
    p = probe.logits(test, np.stack([each.row.evidence.states for each in asked]))
    correct = correct_of([each.row for each in asked])
    middle = np.array([each.question.exposure in LEARNED_SOMETIMES for each in asked])
    for name, chosen in (
        ("facts seen 1, 4 or 16 times", middle),
        ("all facts", np.ones_like(middle)),
    ):
        value = auroc(p[chosen], correct[chosen])
        title = f"AUROC knowing each fact's exposure, {name}"
        yield pocket_figure("answer_right", title, value=value)


def _with_exposure(asked: Sequence[Asked]) -> list[dict[str, float]]:
    return [
        {
            **each.row.evidence.scores,
            **answer_scores(each.row.trace),
            "exposure": float(each.question.exposure),
        }
        for each in asked
    ]


def _shuffled(rows: Sequence[RouterRow], generator: np.random.Generator) -> list[RouterRow]:
    order = generator.permutation(len(rows))
    return [
        RouterRow(row.evidence, row.trace, rows[int(other)].correct, row.domain, row.source)
        for row, other in zip(rows, order, strict=True)
    ]


def _ranking(
    row: str,
    name: str,
    p: np.ndarray,
    rows: Sequence[RouterRow],
    target: float | None,
    *,
    seed: int,
) -> Figure:
    """An AUROC with its interval over facts, and that of plain entropy as a note."""
    correct = correct_of(rows)
    interval = cluster_bootstrap(
        lambda picks: auroc(p[picks], correct[picks]), [each.source for each in rows], seed=seed
    )
    entropy = _sureness(rows) if row == "answer_right" else _first_sureness(rows)
    note = f"plain entropy's is {auroc(entropy, correct):.3f}"
    return pocket_figure(
        row,
        name,
        value=interval.mean,
        low=interval.low,
        high=interval.high,
        target=target,
        at_least=True,
        note=note,
    )


def _sureness(rows: Sequence[RouterRow]) -> np.ndarray:
    return np.array([-mean_entropy(row.trace) for row in rows])


def _first_sureness(rows: Sequence[RouterRow]) -> np.ndarray:
    return np.array([-row.evidence.scores["first_token_entropy"] for row in rows])
