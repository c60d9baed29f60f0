"""The whole system on mixed questions: four trained experts, the base, and who answers what."""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from adaptive_moe.config.settings import Settings
from adaptive_moe.engine.events import Answer
from adaptive_moe.engine.grading import BaseGrader
from adaptive_moe.engine.request import Forced
from adaptive_moe.engine.runtime import AdaptiveMoE
from adaptive_moe.engine.shelf import DOMAIN_FILE, Expert
from adaptive_moe.errors import AdaptiveMoEError
from adaptive_moe.experiments.figures import Figure, Findings
from adaptive_moe.experiments.known_world import KnownWorld, pocket_figure, share_figure
from adaptive_moe.experiments.peer_routers import BASE, NearestMean, SimilarityWeightedWins
from adaptive_moe.experiments.plan import Plan, Tell
from adaptive_moe.experts.bank import LoraBank
from adaptive_moe.experts.store import Store
from adaptive_moe.integration.sources import read_vectors
from adaptive_moe.measures.graders import normalised
from adaptive_moe.measures.sampling import evenly
from adaptive_moe.pocket import load_questions, pack_names, pack_path
from adaptive_moe.router.domains import DomainIndex, read_domain
from adaptive_moe.router.router import Router

_BATCH = 64
_ANSWER_TOKENS = 32
_BANK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Mixed:
    """One question: whose it is (an expert's name, BASE), its domain, and the true answer."""

    prompt: str
    reference: str
    owner: str
    domain: str
    state: np.ndarray


def run(plan: Plan, tell: Tell) -> Findings:
    """As many known questions as there are blind questions of all packs, in one test set."""
    if plan.quick:
        return Findings((), {})
    world = KnownWorld(plan, tell)
    questions = _mixed(world)
    with (
        tempfile.TemporaryDirectory() as folder,
        Store(Path(folder) / "experts") as store,
        AdaptiveMoE(world.language_model, store, Settings(), background=False) as moe,
    ):
        for pack in pack_names():
            tell(f"training an expert on {pack}")
            outcome = moe.train_expert(pack, pack_path(pack))
            if not outcome.is_live:
                raise AdaptiveMoEError(f"{pack} did not go live: {outcome.record.reason}")
        tell(f"answering {len(questions):,} questions")
        automatic = _answers(moe, questions, "auto")
        found = [
            *_systems(moe, world, questions, automatic),
            *_domains(moe, world, questions, automatic),
        ]
    return Findings(tuple(found), {})


def _mixed(world: KnownWorld) -> list[Mixed]:
    packs = [each for pack in pack_names() for each in load_questions(pack)]
    model = world.language_model
    bank = LoraBank(model.model, model.layers, capacity_bytes=_BANK_BYTES, dtype=model.dtype)
    try:
        asked = BaseGrader(model, bank).ask([each.question for each in packs])
    finally:
        bank.close()
    mixed = [
        Mixed(each.question, each.answer, each.pack, each.pack, evidence.states)
        for each, (evidence, _) in zip(packs, asked, strict=True)
    ]
    for each in evenly(world.asked("test"), len(packs)):
        question, state = each.question, each.row.evidence.states
        mixed.append(Mixed(question.prompt, question.answer, BASE, question.domain, state))
    return mixed


def _systems(
    moe: AdaptiveMoE, world: KnownWorld, questions: Sequence[Mixed], automatic: Sequence[Answer]
) -> Iterator[Figure]:
    """Every way of choosing, over the answers that each choice would give."""
    right: dict[str, list[bool]] = {BASE: _right(questions, _answers(moe, questions, None))}
    for name in moe.experts:
        right[name] = _right(questions, _answers(moe, questions, [name]))
    oracle = sum(right[each.owner][place] for place, each in enumerate(questions))
    routed = sum(_right(questions, automatic))
    chosen = [chooser(answer) for answer in automatic]
    same = sum(name == each.owner for name, each in zip(chosen, questions, strict=True))
    known = sum(each.owner == BASE for each in questions)
    note = (
        f"{routed} right of {len(questions)}, of which {known} are of what the base may know; the "
        f"oracle's {oracle}; {same} answered by their owner"
    )
    yield pocket_figure(
        "routed_world", "our router", value=routed / oracle, target=0.95, at_least=True, note=note
    )
    for title, peer in _peers(moe, world, questions).items():
        got = sum(right[name][place] for place, name in enumerate(peer))
        owners = sum(name == each.owner for name, each in zip(peer, questions, strict=True))
        note = f"{got} right; {owners} answered by their owner"
        yield pocket_figure("routed_world", title, value=got / oracle, is_peer=True, note=note)
    alone = sum(right[BASE])
    yield pocket_figure("routed_world", "the base alone", value=alone / oracle, is_peer=True)


def _peers(moe: AdaptiveMoE, world: KnownWorld, questions: Sequence[Mixed]) -> dict[str, list[str]]:
    """Whom the baselines choose, from the experts' training rows and the base's calibration."""
    whitening = moe.router.current.whitening
    states = whitening.apply(np.stack([each.state for each in questions]))
    rows = world.rows("calibration")
    known = whitening.apply(np.stack([row.evidence.states for row in rows]))
    own = _training_vectors(moe)
    base_right = np.array([row.correct for row in rows], dtype=np.float64)
    domains = _domain_means(moe, world, moe.router.current).choose(states)
    wins = SimilarityWeightedWins(own, known, base_right)
    return {
        "nearest class mean": [name if name in own else BASE for name in domains],
        "similarity-weighted wins (RouteLLM's ranking)": wins.choose(states),
    }


def _domains(
    moe: AdaptiveMoE, world: KnownWorld, questions: Sequence[Mixed], answers: Sequence[Answer]
) -> Iterator[Figure]:
    """Of every question: what routing says it is about, and what its place alone would."""
    router = moe.router.current
    wanted = [each.domain for each in questions]
    routed = [chooser(answer) or answer.route.domain or "" for answer in answers]
    everything = _index(router, moe.experts)
    matches = [everything.assign(each.state) for each in questions]
    nearest = [match.ranking[0][0] for match in matches]
    hits = _hits(routed, wanted)
    note = (
        f"{hits} of {len(wanted)} questions, {len(set(wanted))} domains; "
        f"{routed.count('')} are said to be of none"
    )
    title = "the expert that answers, else the topic"
    yield share_figure("domain", title, hits, of=len(wanted), target=0.95, note=note)
    hits = _hits(nearest, wanted)
    yield pocket_figure("domain", "nearest of all domains", value=hits / len(wanted))
    means = _domain_means(moe, world, router)
    states = router.whitening.apply(np.stack([each.state for each in questions]))
    hits = _hits(means.choose(states), wanted)
    yield pocket_figure("domain", "nearest class mean", value=hits / len(wanted), is_peer=True)


def _hits(said: Sequence[str], wanted: Sequence[str]) -> int:
    return sum(name == domain for name, domain in zip(said, wanted, strict=True))


def _index(router: Router, experts: Mapping[str, Expert]) -> DomainIndex:
    index = DomainIndex(router.whitening)
    for domain in router.known_domains:
        index.add(domain)
    for name, expert in experts.items():
        index.add(read_domain(expert.folder / DOMAIN_FILE), key=name)
    return index


def _domain_means(moe: AdaptiveMoE, world: KnownWorld, router: Router) -> NearestMean:
    rows = world.rows("calibration")
    classes: dict[str, np.ndarray] = {}
    for domain in sorted({row.domain for row in rows if row.domain is not None}):
        states = np.stack([row.evidence.states for row in rows if row.domain == domain])
        classes[domain] = router.whitening.apply(states)
    return NearestMean({**classes, **_training_vectors(moe)})


def _training_vectors(moe: AdaptiveMoE) -> Mapping[str, np.ndarray]:
    return {
        name: read_vectors(expert.folder).astype(np.float32) for name, expert in moe.experts.items()
    }


def _answers(moe: AdaptiveMoE, questions: Sequence[Mixed], experts: Forced) -> list[Answer]:
    answers: list[Answer] = []
    for start in range(0, len(questions), _BATCH):
        prompts = [each.prompt for each in questions[start : start + _BATCH]]
        found = moe.generate(
            prompts, experts=experts, attribution=False, max_new_tokens=_ANSWER_TOKENS
        )
        answers += found if isinstance(found, list) else [found]
    return answers


def _right(questions: Sequence[Mixed], answers: Sequence[Answer]) -> list[bool]:
    return [
        normalised(answer.text, each.reference)
        for each, answer in zip(questions, answers, strict=True)
    ]


def chooser(answer: Answer) -> str:
    """Who answered; of several the one with the largest gate."""
    experts = answer.route.experts
    return max(experts, key=lambda expert: expert.gate).name if experts else BASE
