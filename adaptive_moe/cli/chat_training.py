"""Training from inside a conversation: always asked for, never started by what the model said."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from adaptive_moe.cli.chat_log import replace_json, state_folder
from adaptive_moe.cli.progress import duration
from adaptive_moe.cli.safe_text import clean_line
from adaptive_moe.cli.training_view import outcome_parts, teacher_line, train_with_bar
from adaptive_moe.errors import ConfigurationError, DataError, GapError, TeacherError

if TYPE_CHECKING:
    from adaptive_moe.cli.conversation import Conversation
    from adaptive_moe.engine.orders import TrainingEstimate, TrainingOutcome
    from adaptive_moe.gaps.ledger import Gap

_CORRECTIONS = "corrections.jsonl"
_MEANWHILE = "It trains while you talk; /cancel stops it."


def keep_correction(prompt: str, correction: str) -> Path:
    """Write down the right answer as training material; an earlier one to the prompt goes."""
    from adaptive_moe.training.material import wording_key

    asked = wording_key(prompt)

    def is_earlier(record: Mapping[str, object]) -> bool:
        return wording_key(str(record.get("prompt"))) == asked

    file = state_folder() / _CORRECTIONS
    replace_json(file, {"prompt": prompt, "response": correction}, replaces=is_earlier)
    return file


def sources(talk: "Conversation") -> list[Path]:
    """Material that may fill gaps: the configured sources and the corrections taught in chat."""
    corrections = state_folder() / _CORRECTIONS
    taught = [corrections] if corrections.exists() else []
    return [*talk.terminal.settings.gaps.sources, *taught]


def train(talk: "Conversation", words: Sequence[str]) -> None:
    """`/train NAME PATH...` trains on files; `/train` alone fills the verified gap.

    Both go on in the background; with nobody at a terminal they are waited for.
    """
    if words:
        _train_named(talk, words[0], [Path(word).expanduser() for word in words[1:]])
        return
    from adaptive_moe.gaps.states import GapState

    ready = (GapState.VERIFIED, GapState.QUEUED)  # queued: by an earlier conversation
    verified = [gap for gap in talk.moe.gaps.list() if gap.state in ready]
    if not verified:
        raise GapError("no gap is verified; /gap shows what is missing, or /train NAME PATH")
    _fill(talk, verified[0])


def offer_to_fill(talk: "Conversation", gap: "Gap") -> None:
    """A gap was just declared: what `gaps.on_verified` says happens, or is proposed."""
    wish = talk.terminal.settings.gaps.on_verified
    if wish == "train":
        talk.terminal.note("A training is queued; the expert answers once the gate accepts it.")
        return
    if wish == "ask" and talk.interactive and sources(talk):
        try:
            _fill(talk, gap)
        except (DataError, GapError, TeacherError) as error:
            talk.terminal.note(f"Nothing was trained: {error}")
        else:
            return
    told = "/gap shows the evidence; /train NAME PATH teaches it."
    if wish == "ask" and sources(talk):
        told = "/gap shows the evidence; /train alone fills it from the material at hand."
    talk.terminal.note(told)


def _train_named(talk: "Conversation", name: str, paths: list[Path]) -> None:
    from adaptive_moe.experts.store import check_name

    check_name(name)
    if not paths:
        raise ConfigurationError("/train NAME PATH...: name the files or folders to learn from")
    talk.moe.gaps.check_free(name)
    if not _agreed(talk, paths, f"Train {name}", lambda: talk.moe.estimate_expert(paths)):
        return
    if talk.interactive:
        earlier = talk.moe.gaps.in_training
        talk.moe.start_expert(name, paths)
        waits = "" if earlier is None else f"It waits for {clean_line(earlier.expert)}. "
        talk.terminal.note(waits + _MEANWHILE)
    else:
        _finish(
            talk,
            train_with_bar(
                talk.terminal,
                lambda listener, stop: talk.moe.train_expert(
                    name, paths, listener=listener, cancelled=stop
                ),
            ),
        )


def _fill(talk: "Conversation", gap: "Gap") -> None:
    paths = sources(talk)
    if not paths:
        raise GapError(f"there is no material for gap {gap.id}; /train NAME PATH names some")
    what = f"Train an expert for gap {gap.id} ({gap.label})"
    if not _agreed(talk, paths, what, lambda: talk.moe.gaps.estimate(gap.id, paths)):
        return
    if talk.interactive:
        talk.moe.gaps.start(gap.id, paths)
        talk.terminal.note(_MEANWHILE)
    else:
        _finish(
            talk,
            train_with_bar(
                talk.terminal,
                lambda listener, stop: talk.moe.gaps.fill(
                    gap.id, paths, listener=listener, cancelled=stop
                ),
            ),
        )


def _agreed(
    talk: "Conversation",
    paths: Sequence[Path],
    what: str,
    measure: "Callable[[], TrainingEstimate]",
) -> bool:
    """Ask first, with an estimate of what it takes."""
    if not talk.interactive:
        return True
    with talk.terminal.working("estimating"):
        estimate = measure()
    where = ", ".join(str(path) for path in paths)
    talk.terminal.note(
        f"{what} on {where}: {estimate.examples:,} examples, at most {estimate.steps:,} steps, "
        f"about {duration(estimate.seconds)}, {estimate.peak_bytes / 2**20:,.0f} MiB."
        + teacher_line(estimate)
    )
    return talk.ask("Start?")


def _finish(talk: "Conversation", outcome: "TrainingOutcome") -> None:
    from adaptive_moe.engine.events import to_json

    talk.terminal.finish(to_json(outcome.to_dict()), *outcome_parts(outcome))
