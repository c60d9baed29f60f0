"""The whole system on a model and on texts that others made, with an untrained router.

No true answers are known there, so systems are compared by what the expected answers cost them:
nats per token of those answers, as the one who would answer reads them.
"""

import json
import math
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from adaptive_moe.config.settings import BaseModelSettings, Settings, TrainingSettings
from adaptive_moe.engine.request import Forced
from adaptive_moe.engine.runtime import AdaptiveMoE
from adaptive_moe.errors import AdaptiveMoEError, ConfigurationError, PromptTooLongError
from adaptive_moe.experiments.figures import Figure, Findings
from adaptive_moe.experiments.peer_routers import BASE
from adaptive_moe.experiments.plan import Plan, Tell
from adaptive_moe.experiments.routed_world import chooser
from adaptive_moe.measures.calibration import auroc
from adaptive_moe.measures.sampling import evenly
from adaptive_moe.measures.statistics import Interval, clopper_pearson, cluster_bootstrap

_QUESTIONS = 100  # of each domain
_TRAINING_ROWS = 2000  # of each domain at most
_STEPS, _BATCH = 150, 16


@dataclass(frozen=True, slots=True)
class _Read:
    """One question: whose it is (an expert's name, BASE), who was to answer it, and costs.

    `routed`, `base` and `oracle` are nats per token of the expected answer, as read by whom the
    router sent it to, by the base and by the owner.
    """

    owner: str
    sent_to: str
    scores: Mapping[str, float]
    routed: float
    base: float
    oracle: float


def run(plan: Plan, tell: Tell) -> Findings:
    """Nothing where no model and no domains are named.

    A domain is a folder with `test.jsonl`, and `train.jsonl` if an expert is to be trained for it;
    in the others the base is at home, as where the gate turns the expert down. Lines hold `prompt`
    and `response`. Raises ConfigurationError for a folder without domains of both kinds, and
    AdaptiveMoEError where no expert goes live.
    """
    if plan.foreign is None or plan.domains is None:
        return Findings((), {})
    folders = sorted(path.parent for path in Path(plan.domains).glob("*/test.jsonl"))
    taught = [folder for folder in folders if (folder / "train.jsonl").exists()]
    if not taught or len(taught) == len(folders):
        raise ConfigurationError(
            f"{plan.domains}: {len(taught)} of {len(folders)} folders with test.jsonl have a "
            "train.jsonl; some need one for an expert, and some none: there the base is at home"
        )
    with (
        tempfile.TemporaryDirectory() as store,
        AdaptiveMoE.from_settings(_settings(plan, plan.foreign, store)) as moe,
    ):
        gates: dict[str, str] = {}
        for folder in taught:
            tell(f"training an expert on {folder.name}")
            outcome = moe.train_expert(folder.name, folder / "train.jsonl", limit=_TRAINING_ROWS)
            gates[folder.name] = outcome.record.reason or outcome.status
        if not moe.experts:
            raise AdaptiveMoEError(f"no expert went live: {gates}")
        read: list[_Read] = []
        for folder in folders:
            tell(f"asking about {folder.name}")
            read += _ask(moe, folder)
    figure = partial(Figure, model=Path(plan.foreign).name, is_timed=False)
    return Findings(tuple(_figures(read, figure, seed=plan.seed)), {"gates": gates})


def _settings(plan: Plan, base: str, store: str) -> Settings:
    return Settings(
        base=BaseModelSettings(id=base, device=plan.device),
        store=Path(store),
        training=TrainingSettings(max_steps=_STEPS, batch_size=_BATCH, evaluate_every=_STEPS // 5),
    )


def _ask(moe: AdaptiveMoE, folder: Path) -> Iterator[_Read]:
    """Questions for which, with their answers, the model's context has room."""
    owner = folder.name if folder.name in moe.experts else BASE
    for prompt, response in evenly(_fitting(moe, folder / "test.jsonl"), _QUESTIONS):
        answer = moe.generate(prompt, attribution=False, max_new_tokens=1)
        sent_to = chooser(answer)
        by_base = _nats(moe, prompt, response, None)
        yield _Read(
            owner,
            sent_to,
            answer.confidence.scores,
            routed=by_base if sent_to == BASE else _nats(moe, prompt, response, "auto"),
            base=by_base,
            oracle=by_base if owner == BASE else _nats(moe, prompt, response, [owner]),
        )


def _fitting(moe: AdaptiveMoE, file: Path) -> list[tuple[str, str]]:
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    pairs = [(row["prompt"], row["response"]) for row in rows]
    model = moe.language_model
    lengths = [len(model.encode_answer(response)) for _, response in pairs]
    fitting = []
    for pair, length in zip(pairs, lengths, strict=True):
        with suppress(PromptTooLongError):
            model.encode(pair[0], max_new_tokens=length)
            fitting.append(pair)
    return fitting


def _nats(moe: AdaptiveMoE, prompt: str, response: str, experts: Forced) -> float:
    return moe.score(prompt, response, experts=experts).scores["perplexity"]


def _figures(
    read: Sequence[_Read], figure: Callable[..., Figure], *, seed: int
) -> Iterator[Figure]:
    """Who is asked, what that is worth, and whether scores tell foreign prompts from home."""
    yield _right_place(read, figure)
    yield _share_of_gain(read, figure, seed=seed)
    foreign = [each.owner != BASE for each in read]
    for name in ("first_token_entropy", "ood"):
        value = auroc([each.scores[name] for each in read], foreign)
        yield figure("will_be_right", f"foreign prompts by {name}", value=value)


def _right_place(read: Sequence[_Read], figure: Callable[..., Figure]) -> Figure:
    hits = sum(each.sent_to == each.owner for each in read)
    share = clopper_pearson(hits, len(read))
    asked = Counter(each.owner for each in read)
    lost = Counter(each.owner for each in read if each.sent_to != each.owner)
    each_of = ", ".join(f"{lost[owner]} of {asked[owner]} {owner or 'the base'}" for owner in asked)
    return figure(
        "domain",
        "the expert that answers, else the base",
        **_reaching(share),
        note=f"{hits} of {len(read)} prompts; sent elsewhere: {each_of}",
    )


def _share_of_gain(read: Sequence[_Read], figure: Callable[..., Figure], *, seed: int) -> Figure:
    routed, base, oracle = (
        np.array([getattr(each, name) for each in read]) for name in ("routed", "base", "oracle")
    )

    def share(items: np.ndarray) -> float:
        saved = float((base - oracle)[items].sum())
        return float((base - routed)[items].sum()) / saved if saved > 0 else math.nan

    gain = cluster_bootstrap(share, [str(item) for item in range(len(read))], seed=seed)
    return figure(
        "routed_world",
        "our router, of the nats that the oracle saves",
        **_reaching(gain),
        note=f"nats per token of the expected answers: the base {base.mean():.2f}, the oracle "
        f"{oracle.mean():.2f}, the router {routed.mean():.2f}",
    )


def _reaching(share: Interval) -> dict[str, float | bool]:
    """A share and its interval as a figure takes them, .95 of which is wanted."""
    return {
        "value": share.mean,
        "low": share.low,
        "high": share.high,
        "target": 0.95,
        "at_least": True,
    }
