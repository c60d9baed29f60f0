"""From a knowledge pack's documents to a live expert: how long it takes and what it then knows."""

import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from adaptive_moe.config.settings import Settings
from adaptive_moe.engine.events import Answer
from adaptive_moe.engine.expert_folder import as_messages
from adaptive_moe.engine.orders import TrainingEstimate, TrainingOutcome
from adaptive_moe.engine.runtime import AdaptiveMoE
from adaptive_moe.errors import AdaptiveMoEError
from adaptive_moe.experiments import bases
from adaptive_moe.experiments.figures import Figure, Findings, reason_of
from adaptive_moe.experiments.known_world import pocket_figure, share_figure
from adaptive_moe.experiments.plan import POCKET, Plan, Tell
from adaptive_moe.experiments.processes import output_of_command, peak_of_command
from adaptive_moe.experts.store import Store
from adaptive_moe.measures.graders import normalised
from adaptive_moe.models.language_model import Prompt
from adaptive_moe.pocket import load_questions, pack_names, pack_path
from adaptive_moe.pocket.packs import PackQuestion

_BATCH = 64
_ANSWER_TOKENS = 32
_SECONDS, _BEFORE, _AFTER, _LOST = 60.0, 0.05, 0.95, 0.01
_TIME_OFF, _MEMORY_OFF = 0.25, 0.20  # of what `train --dry-run` foretold
_FEW_STEPS = 80
_EXCHANGES = 2  # before each question, where it is asked in a conversation
_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class _Story:
    """One pack before and after, and what was foretold of its training."""

    pack: str
    foretold: TrainingEstimate
    outcome: TrainingOutcome
    seconds: float
    questions: int
    before: int
    after: int
    sent_to_it: int
    after_others: int


def run(plan: Plan, tell: Tell) -> Findings:
    """Each pack in a store of its own, with default settings; quickly only the first."""
    model = bases.load(POCKET, plan.device)
    packs = pack_names()[:1] if plan.quick else pack_names()
    stories = []
    for pack in packs:
        with (
            tempfile.TemporaryDirectory() as folder,
            Store(Path(folder) / "experts") as store,
            AdaptiveMoE(model, store, Settings(), background=False) as moe,
        ):
            stories.append(_live_through(moe, pack, tell))
    figures = [figure for story in stories for figure in _figures(story)]
    tell(f"{packs[0]}: memory of the commands")
    figures.append(_foretold_memory(packs[0], plan))
    details = {story.pack: story.outcome.to_dict() for story in stories}
    return Findings(tuple(figures), {"trainings": details})


def _live_through(moe: AdaptiveMoE, pack: str, tell: Tell) -> _Story:
    questions = load_questions(pack)
    prompts = [each.question for each in questions]
    references = [each.answer for each in questions]
    tell(f"{pack}: asking {len(prompts)} questions")
    before = _right(_answers(moe, prompts), references)
    tell(f"{pack}: foretelling")
    foretold = moe.estimate_expert(pack_path(pack))
    tell(f"{pack}: training")
    started = time.perf_counter()
    outcome = moe.train_expert(pack, pack_path(pack))
    seconds = time.perf_counter() - started
    if not outcome.is_live:
        raise AdaptiveMoEError(f"{pack} did not go live: {outcome.record.reason}")
    answers = _answers(moe, prompts)
    tell(f"{pack}: asking in conversations")
    talking = _answers(moe, [_conversation(questions, index) for index in range(len(questions))])
    sent = sum(pack in [each.name for each in answer.route.experts] for answer in answers)
    return _Story(
        pack,
        foretold,
        outcome,
        seconds,
        len(prompts),
        before,
        _right(answers, references),
        sent,
        _right(talking, references),
    )


def _figures(story: _Story) -> Iterator[Figure]:
    pack, outcome = story.pack, story.outcome
    training = outcome.result.seconds
    yield Figure(
        "pack_seconds",
        pack,
        POCKET,
        story.seconds,
        unit="s",
        target=_SECONDS,
        note=f"{outcome.result.steps} steps on {outcome.examples} examples took {training:.0f} s, "
        f"the rest went to reading, placing and the gate; {outcome.plan.parameters:,} parameters",
    )
    yield pocket_figure(
        "pack_answers",
        f"{pack}, before",
        value=story.before / story.questions,
        target=_BEFORE,
        note=f"{story.before} of {story.questions} blind questions",
    )
    yield share_figure(
        "pack_answers",
        f"{pack}, after",
        story.after,
        of=story.questions,
        target=_AFTER,
        note=f"{story.after} of {story.questions}; {story.sent_to_it} were sent to the expert",
    )
    yield share_figure(
        "pack_answers",
        f"{pack}, after, as the third question of a chat",
        story.after_others,
        of=story.questions,
        note=f"{story.after_others} of {story.questions}",
    )
    guard = outcome.report.guard
    assert guard is not None
    yield pocket_figure(
        "guard",
        pack,
        value=guard.bound,
        target=_LOST,
        note=f"{guard.lost} of {guard.items} lost, {guard.near_lost} of {guard.near_items} near",
    )
    yield from _forgotten(story)
    yield from _foretold(story)


def _forgotten(story: _Story) -> Iterator[Figure]:
    """As the gate measured it."""
    found = story.outcome.report.forgetting
    assert found is not None
    yield Figure(
        "forgetting",
        story.pack,
        POCKET,
        found.rise.mean,
        unit="nats per token",
        low=found.rise.low,
        high=found.rise.high,
        is_timed=False,
        note=f"{found.to_expert} of {found.texts} texts are sent to the expert; all of them forced "
        f"on it would cost {found.loss_forced:.2f} nats per token instead of "
        f"{found.loss_before:.2f}",
    )


def _foretold(story: _Story) -> Iterator[Figure]:
    """What `--dry-run` said beside what came; a training that is done early takes less."""
    foretold, result = story.foretold, story.outcome.result
    per_step = foretold.seconds / foretold.steps
    yield Figure(
        "dry_run",
        f"{story.pack}, seconds of as many steps",
        POCKET,
        abs(per_step * result.steps / result.seconds - 1),
        target=_TIME_OFF,
        note=f"{foretold.seconds:.0f} s foretold for {foretold.steps} steps; {result.steps} were "
        f"taken in {result.seconds:.0f} s",
    )


def _foretold_memory(pack: str, plan: Plan) -> Figure:
    """Both in processes of their own, the training with as few steps as the dry run takes."""
    words = ["train", pack, "--data", str(pack_path(pack)), "--json"]
    name = f"{pack}, memory at the peak"
    try:
        said = output_of_command([*words, "--dry-run"], threads=plan.threads)
        foretold = int(json.loads(said)["peak_bytes"])
        short = ["--force", "--set", f"training.max_steps={_FEW_STEPS}"]
        peak = peak_of_command([*words, *short], threads=plan.threads, accepts=(0, 1))
    except (AdaptiveMoEError, OSError) as error:
        return Figure.failed("dry_run", name, POCKET, reason_of(error))
    return Figure(
        "dry_run",
        name,
        POCKET,
        abs(foretold / peak - 1),
        target=_MEMORY_OFF,
        is_timed=False,
        note=f"{foretold / _MIB:.0f} MiB foretold, {peak / _MIB:.0f} MiB taken by the command, "
        "the gate included",
    )


def _conversation(questions: Sequence[PackQuestion], index: int) -> Prompt:
    """A question after two others of the pack and their answers."""
    step = len(questions) // (_EXCHANGES + 1)
    turns = []
    for number in range(_EXCHANGES, 0, -1):
        other = questions[(index - number * step) % len(questions)]
        turns += [("user", other.question), ("assistant", other.answer)]
    return as_messages([*turns, ("user", questions[index].question)])


def _answers(moe: AdaptiveMoE, prompts: Sequence[Prompt]) -> list[Answer]:
    answers: list[Answer] = []
    for start in range(0, len(prompts), _BATCH):
        found = moe.generate(
            list(prompts[start : start + _BATCH]),
            attribution=False,
            max_new_tokens=_ANSWER_TOKENS,
        )
        answers += found if isinstance(found, list) else [found]
    return answers


def _right(answers: Sequence[Answer], references: Sequence[str]) -> int:
    return sum(
        normalised(answer.text, reference)
        for answer, reference in zip(answers, references, strict=True)
    )
