"""How long the pocket model's router takes to choose among thousands of experts."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from adaptive_moe.experiments import bases
from adaptive_moe.experiments.figures import Figure
from adaptive_moe.experiments.interleaved import milliseconds, timing, wall_clock
from adaptive_moe.experiments.plan import POCKET, Plan, Tell
from adaptive_moe.models.decoding import prefill
from adaptive_moe.models.language_model import LanguageModel
from adaptive_moe.pocket import model_path
from adaptive_moe.router.boundary import Axes, Boundary
from adaptive_moe.router.domains import Domain, state_vector
from adaptive_moe.router.router import Evidence, ExpertArm, Router
from adaptive_moe.router.scores import prefill_scores_by_row
from adaptive_moe.router.wording import COLUMNS

_TARGETS_MS = {1_000: 1.0, 10_000: 5.0}
# As experts trained on the packs have them: radii of 11 to 13 in a whitened space where the
# coordinates of a domain's centres spread by 0.7, and 640 to 800 supports of a boundary.
_CENTRES, _SPREAD, _RADIUS = 16, 0.7, 12.0
_SUPPORTS, _AXES = 700, 256
_DISTINCT_BOUNDARIES = 256  # as arrays: 180 MB, so that what is asked lies in no near cache
_WORD_SPREAD = 0.1
_UNLIKELY = -4.0  # log-odds of the prompt being an expert's own
_TRAINED, _PLAIN = "with boundaries, as trained ones", "without boundaries"
_APART = "whose boundaries share no axes"
_SUBJECTS = ("France", "Peru", "Norway", "Chad", "Laos", "Kenya", "Japan", "Spain")
_QUESTIONS = ("What is the capital of {}?", "Which language do most people in {} speak today?")


def figures(plan: Plan, tell: Tell) -> Iterator[Figure]:
    """Decisions among synthetic experts that all may be meant, as the engine keeps their list.

    Those shaped like trained ones are judged: 32 of their boundaries hear the words, and those of
    them that are spoken for most weigh the state, every time. They share their axes, as experts do
    that were trained beside one router with one guard; those of other origin do not. Sixteen
    questions take turns, about which other boundaries are asked each time.
    """
    language_model = bases.load(POCKET, "cpu")
    clock = wall_clock(language_model.device)
    router = Router.load(
        model_path() / "router",
        base_id=language_model.base_id,
        numerics=language_model.numerics,
    )
    asked = [_evidence(language_model, question) for question in _questions()]
    choices = 20 if plan.quick else 100
    for count, target in _TARGETS_MS.items():
        tell(f"choosing among {count:,} experts")
        arms = _arms(router, asked[0], count=count, seed=plan.seed)
        plain = tuple(replace(arm, domain=replace(arm.domain, boundary=None)) for arm in arms)
        apart = _with_axes_of_their_own(arms)
        kinds = ((_TRAINED, arms, target), (_APART, apart, None), (_PLAIN, plain, None))
        for name, kind, limit in kinds:
            asks = [partial(router.decide, evidence, kind) for evidence in asked]
            for ask in asks:
                ask()
            turns = itertools.islice(itertools.cycle(asks), choices)
            median = milliseconds(clock(ask) for ask in turns)
            title = f"{count:,} experts {name}"
            yield timing("choosing", title, POCKET, median, rounds=choices, target=limit)
        after = partial(_after_reading, language_model, clock)
        asks = [partial(router.decide, evidence, arms) for evidence in asked]
        turns = itertools.islice(itertools.cycle(asks), choices)
        median = milliseconds(after(ask) for ask in turns)
        title = f"{count:,} experts {_TRAINED}, just after a prompt was read"
        yield timing("choosing", title, POCKET, median, rounds=choices)


def _after_reading(
    language_model: LanguageModel,
    clock: Callable[[Callable[[], object]], float],
    ask: Callable[[], object],
) -> float:
    """Seconds of a choice where torch was at work a moment before, as it is in use."""
    _evidence(language_model, _QUESTIONS[0])
    return clock(ask)


def _questions() -> list[str]:
    return [question.format(subject) for subject in _SUBJECTS for question in _QUESTIONS]


def _evidence(language_model: LanguageModel, question: str) -> Evidence:
    filled = prefill(language_model, [language_model.encode(question)])
    scores = prefill_scores_by_row(filled.first_logits)[0]
    return Evidence(scores, state_vector(filled), question)


def _arms(router: Router, evidence: Evidence, *, count: int, seed: int) -> tuple[ExpertArm, ...]:
    generator = np.random.default_rng(seed)
    whitening = router.whitening
    state = evidence.states.size
    axes = Axes(_drawn(generator, state), _drawn(generator, state, _AXES))
    boundaries = [_boundary(generator, axes) for _ in range(_DISTINCT_BOUNDARIES)]
    shape = (count, _CENTRES, whitening.dimensions)
    centres = generator.standard_normal(shape, dtype=np.float32) * np.float32(_SPREAD)
    return tuple(
        ExpertArm(
            name=f"expert-{number}",
            version=1,
            expert_id=f"{number:064}",
            domain=Domain(
                f"topic {number}",
                centres[number],
                _RADIUS,
                whitening.digest,
                boundaries[number % len(boundaries)],
            ),
            successes=80,
            trials=100,
            created=f"{number:08}",
            base_successes=5,
        )
        for number in range(count)
    )


def _with_axes_of_their_own(arms: Sequence[ExpertArm]) -> tuple[ExpertArm, ...]:
    """The same experts, each distinct boundary along a copy of its axes."""
    copies: dict[int, Boundary] = {}
    found = []
    for arm in arms:
        boundary = arm.domain.boundary
        assert boundary is not None
        if id(boundary) not in copies:
            axes = Axes(boundary.axes.mean.copy(), boundary.axes.projection.copy())
            copies[id(boundary)] = replace(boundary, axes=axes)
        found.append(replace(arm, domain=replace(arm.domain, boundary=copies[id(boundary)])))
    return tuple(found)


def _boundary(generator: np.random.Generator, axes: Axes) -> Boundary:
    return Boundary(
        axes,
        supports=_drawn(generator, _SUPPORTS, _AXES),
        weights=_drawn(generator, _SUPPORTS),
        word_weights=_drawn(generator, COLUMNS) * np.float32(_WORD_SPREAD),
        bias=0.0,
        gamma=0.5 / _AXES,
        slope=1.0,
        intercept=_UNLIKELY,
    )


def _drawn(generator: np.random.Generator, *shape: int) -> np.ndarray:
    """Standard normal numbers, float32."""
    return generator.standard_normal(shape, dtype=np.float32)
