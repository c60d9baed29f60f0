"""Streams of mixed traffic through the whole runtime: are planted gaps found, and no others?

A planted gap is one of the knowledge packs, of which the base knows next to nothing, in a tenth of
the traffic; the rest asks about facts that the base mostly knows. Nobody grades anything: what
declares a gap is the runtime's own checking.
"""

import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from adaptive_moe.config.settings import Settings
from adaptive_moe.engine.runtime import AdaptiveMoE
from adaptive_moe.experiments.figures import Figure, Findings
from adaptive_moe.experiments.known_world import Asked, KnownWorld, pocket_figure, share_figure
from adaptive_moe.experiments.plan import Plan, Tell
from adaptive_moe.experts.store import Store
from adaptive_moe.gaps.ledger import Gap
from adaptive_moe.gaps.states import GapState
from adaptive_moe.models.language_model import LanguageModel
from adaptive_moe.pocket import load_questions, pack_names

_WITHIN = 20  # distinct prompts of the domain
_SHARE = 0.1  # of the traffic
_STREAMS = 26  # of each pack, so that there are over a hundred
_QUIET_STREAMS, _QUIET_LENGTH = 21, 1000  # of known prompts alone
_KNOWN_FAILURE, _KNOWN_FROM = 0.2, 16  # times that a fact was seen
_BATCH = 10
_DECLARED = frozenset(GapState) - {GapState.OBSERVED, GapState.SUSPECTED}
_ANSWER_TOKENS = 32


@dataclass(frozen=True, slots=True)
class Stream:
    """What came of one stream; `found_after` are the planted domain's prompts until its gap.

    `others` are the gaps that were declared of prompts which mostly belong to no planted domain.
    """

    planted: str | None
    seed: int
    prompts: int
    found_after: int | None
    others: int


def run(plan: Plan, tell: Tell) -> Findings:
    """Over a hundred streams with a planted gap, and over 20,000 prompts without any."""
    world = KnownWorld(plan, tell)
    known = _mostly_known(world.asked("test"))
    streams, quiet = (_STREAMS, _QUIET_STREAMS) if not plan.quick else (1, 1)
    jobs: list[tuple[str | None, int]] = [
        (pack, seed) for seed in range(streams) for pack in pack_names()
    ]
    jobs += [(None, seed) for seed in range(quiet)]
    found = []
    for number, (planted, seed) in enumerate(jobs, start=1):
        tell(f"stream {number} of {len(jobs)}")
        generator = np.random.default_rng((plan.seed, number))
        prompts = list(_traffic(known, planted, generator))
        found.append(replace(_listen(world.language_model, prompts, planted), seed=seed))
    figures = tuple(_told(found, known))
    return Findings(figures, {"streams": [asdict(each) for each in found]})


def _mostly_known(asked: Sequence[Asked]) -> list[str]:
    """Questions about facts seen 16 or 64 times, of domains in which few of them fail."""
    often = [each for each in asked if each.question.exposure >= _KNOWN_FROM]
    total = Counter(each.question.domain for each in often)
    wrong = Counter(each.question.domain for each in often if not each.row.correct)
    kept = {domain for domain in total if wrong[domain] <= _KNOWN_FAILURE * total[domain]}
    return [each.question.prompt for each in often if each.question.domain in kept]


def _traffic(
    known: Sequence[str], planted: str | None, generator: np.random.Generator
) -> Iterator[tuple[str, bool]]:
    """Prompts, and whether each belongs to the planted gap, until twenty of those have come."""
    drawn = (known[int(place)] for place in generator.integers(len(known), size=100_000))
    if planted is None:
        yield from ((next(drawn), False) for _ in range(_QUIET_LENGTH))
        return
    unknown = dict.fromkeys(each.question for each in load_questions(planted))
    waiting = [list(unknown)[int(place)] for place in generator.permutation(len(unknown))[:_WITHIN]]
    while waiting:
        if generator.random() < _SHARE:
            yield waiting.pop(), True
        else:
            yield next(drawn), False


def _listen(
    language_model: LanguageModel, traffic: Sequence[tuple[str, bool]], planted: str | None
) -> Stream:
    """Let a fresh runtime answer the stream, in small batches, as its users would ask."""
    unknown = {prompt for prompt, is_planted in traffic if is_planted}
    found_after, heard = None, 0
    with tempfile.TemporaryDirectory() as folder, Store(Path(folder) / "experts") as store:
        moe = AdaptiveMoE(language_model, store, Settings(), background=False)
        with moe:
            for start in range(0, len(traffic), _BATCH):
                batch = [prompt for prompt, _ in traffic[start : start + _BATCH]]
                moe.generate(batch, attribution=False, max_new_tokens=_ANSWER_TOKENS)
                heard += sum(prompt in unknown for prompt in batch)
                if found_after is None and any(_is_of(gap, unknown) for gap in _declared(moe)):
                    found_after = heard
            others = sum(not _is_of(gap, unknown) for gap in _declared(moe))
    return Stream(planted, 0, len(traffic), found_after, others)


def _declared(moe: AdaptiveMoE) -> list[Gap]:
    return [gap for gap in moe.gaps.list() if gap.state in _DECLARED]


def _is_of(gap: Gap, unknown: set[str]) -> bool:
    """Whether most of the gap's prompts belong to the planted domain."""
    return 2 * sum(prompt in unknown for prompt in gap.prompts) > len(gap.prompts)


def _told(streams: Sequence[Stream], known: Sequence[str]) -> Iterator[Figure]:
    planted = [each for each in streams if each.planted is not None]
    found = [each.found_after for each in planted if each.found_after is not None]
    note = f"{len(planted)} streams, median after {np.median(found):.0f} prompts" if found else ""
    yield share_figure(
        "gaps", "planted gaps found", len(found), of=len(planted), target=0.9, note=note
    )
    for pack in sorted({each.planted for each in planted if each.planted}):
        own = [each for each in planted if each.planted == pack]
        caught = sum(each.found_after is not None for each in own)
        note = f"{caught} of {len(own)}"
        yield pocket_figure("gaps", f"of {pack}", value=caught / len(own), note=note)
    quiet = [each for each in streams if each.planted is None]
    for name, some, is_judged in (
        ("false gaps per 1,000 known prompts", quiet, True),
        ("the same beside planted gaps", planted, False),
    ):
        prompts, false = sum(each.prompts for each in some), sum(each.others for each in some)
        note = f"{false} of {prompts:,} prompts, which draw from {len(known):,} questions"
        limit = 1.0 if is_judged else None
        yield pocket_figure("gaps", name, value=1000 * false / prompts, target=limit, note=note)
