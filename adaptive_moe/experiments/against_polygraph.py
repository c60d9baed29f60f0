"""The router beside lm-polygraph's estimators, on the same greedy answers to the same questions.

lm-polygraph runs in an environment of its own, whose interpreter the plan names.
"""

import json
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from adaptive_moe.errors import AdaptiveMoEError
from adaptive_moe.experiments.figures import Figure, Findings
from adaptive_moe.experiments.known_world import (
    LEARNED_SOMETIMES,
    Asked,
    KnownWorld,
    correct_of,
    probabilities,
)
from adaptive_moe.experiments.plan import POCKET, Plan, Tell
from adaptive_moe.measures.calibration import auroc
from adaptive_moe.measures.sampling import evenly
from adaptive_moe.measures.statistics import Interval, cluster_bootstrap
from adaptive_moe.pocket import model_path
from adaptive_moe.router.evidence import RouterRow
from adaptive_moe.router.scores import SCORES

_SCRIPT = Path(__file__).with_name("polygraph_peer.py")
_ROWS = ("against_polygraph", "polygraph_scores")
_SAME = ("msp", "perplexity", "mean_entropy", "self_certainty")
# lm-polygraph 0.7.0 returns confidence where it means uncertainty; both ways are tried.
_EITHER_WAY = ("renyi", "fisher_rao")
_TOLERANCE = 1e-5
_COMPARED = 1000  # answers, decoded one at a time as lm-polygraph's are: batches round otherwise
_SATURATED = 0.99
_ABSENT = "say where lm-polygraph 0.7.0 is installed: --polygraph PATH_OF_ITS_PYTHON"


@dataclass(frozen=True, slots=True)
class PeerAnswer:
    """Tokens and scores of one question; higher = more uncertain."""

    tokens: tuple[int, ...]
    scores: dict[str, float]


def run(plan: Plan, tell: Tell) -> Findings:
    """The estimator that ranks best on the calibration split, against the router that ships."""
    if plan.polygraph is None:
        return Findings(tuple(Figure.failed(row, "all", POCKET, _ABSENT) for row in _ROWS), {})
    world = KnownWorld(plan, tell)
    asked = {split: world.asked(split) for split in ("calibration", "test")}
    tell("lm-polygraph answers")
    peers = {split: _peer_answers(plan.polygraph, each) for split, each in asked.items()}
    singly = world.asked_singly("test", _COMPARED)
    same = evenly(peers["test"], _COMPARED)
    ranked = _rank(world.rows("calibration"), peers["calibration"])
    best = max(ranked, key=lambda name: ranked[name])
    found = list(_same_scores(singly, same))
    found += _errors_of_ranking(world, peers["test"], best, ranked)
    return Findings(tuple(found), {"auroc_on_calibration": ranked})


def _peer_answers(python: str, asked: Sequence[Asked]) -> list[PeerAnswer]:
    """What lm-polygraph makes of the questions. Raises AdaptiveMoEError when it fails."""
    with tempfile.TemporaryDirectory() as folder:
        questions, scores = Path(folder) / "questions.json", Path(folder) / "scores.json"
        questions.write_text(json.dumps([each.prompt_ids for each in asked]))
        words = [python, str(_SCRIPT), str(model_path()), str(questions), str(scores)]
        done = subprocess.run(words, capture_output=True, text=True, check=False)  # noqa: S603
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["nothing said"])[-1]
            raise AdaptiveMoEError(f"lm-polygraph in {python} failed: {last}")
        found: dict[str, Any] = json.loads(scores.read_text())
    answers = []
    for each in found["answers"]:
        turned = {f"{name}, turned": -each["scores"][name] for name in _EITHER_WAY}
        answers.append(PeerAnswer(tuple(each["tokens"]), {**each["scores"], **turned}))
    return answers


def _rank(rows: Sequence[RouterRow], peers: Sequence[PeerAnswer]) -> dict[str, float]:
    correct = correct_of(rows)
    return {name: auroc(_sureness(peers, name), correct) for name in peers[0].scores}


def _same_scores(asked: Sequence[Asked], peers: Sequence[PeerAnswer]) -> Iterator[Figure]:
    pairs = [
        (each.row, peer)
        for each, peer in zip(asked, peers, strict=True)
        if each.answer_ids == peer.tokens
    ]
    note = f"{len(pairs)} of {len(asked)} answers have the same tokens"
    for name in _SAME:
        apart = max(abs(SCORES[name](row.trace) - peer.scores[name]) for row, peer in pairs)
        yield Figure(
            "polygraph_scores",
            name,
            POCKET,
            apart,
            target=_TOLERANCE,
            is_timed=False,
            note=note,
        )


def _errors_of_ranking(
    world: KnownWorld, peers: Sequence[PeerAnswer], best: str, ranked: dict[str, float]
) -> Iterator[Figure]:
    asked = world.asked("test")
    router = world.shipped_router()
    sometimes = [
        place for place, each in enumerate(asked) if each.question.exposure in LEARNED_SOMETIMES
    ]
    for name, places, is_judged in (
        ("all facts", range(len(asked)), True),
        ("facts seen 1, 4 or 16 times", sometimes, False),
    ):
        rows = [asked[place].row for place in places]
        theirs = _sureness([peers[place] for place in places], best)
        ours = probabilities(router, rows)
        correct, sources = correct_of(rows), [row.source for row in rows]
        ratio = _ratio(ours, theirs, correct, sources, seed=world.seed)
        at = auroc(theirs, correct)
        note = (
            f"{best} was best on the calibration split ({ranked[best]:.3f}) and has {at:.3f} here, "
            f"the router {auroc(ours, correct):.3f}"
        )
        if at >= _SATURATED:
            note += "; saturated, no win"
        yield _figure(name, ratio.mean, 0.7 if is_judged and at < _SATURATED else None, ratio, note)
        upper = 1.0 if is_judged and at < _SATURATED else None
        yield _figure(f"{name}, upper end of the interval", ratio.high, upper, None, "")


def _ratio(
    ours: Float[np.ndarray, " item"],
    theirs: Float[np.ndarray, " item"],
    correct: Float[np.ndarray, " item"],
    sources: Sequence[str],
    *,
    seed: int,
) -> Interval:
    """How many pairs we rank wrongly for each that they do; the interval is over facts."""

    def ratio(picks: np.ndarray) -> float:
        missed = 1 - auroc(theirs[picks], correct[picks])
        return (1 - auroc(ours[picks], correct[picks])) / missed

    return cluster_bootstrap(ratio, sources, seed=seed)


def _sureness(peers: Sequence[PeerAnswer], name: str) -> Float[np.ndarray, " item"]:
    return np.array([-peer.scores[name] for peer in peers])


def _figure(
    name: str, value: float, target: float | None, interval: Interval | None, note: str
) -> Figure:
    return Figure(
        "against_polygraph",
        name,
        POCKET,
        value,
        unit="x lm-polygraph's",
        low=None if interval is None else interval.low,
        high=None if interval is None else interval.high,
        target=target,
        is_timed=False,
        note=note,
    )
