"""What a line that begins with / does in a conversation."""

import difflib
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from adaptive_moe.cli import chat_training
from adaptive_moe.cli.chat_log import save_conversation
from adaptive_moe.cli.options import parse_route
from adaptive_moe.cli.render import why_parts
from adaptive_moe.cli.tables import facts_table
from adaptive_moe.errors import ConfigurationError

if TYPE_CHECKING:
    from adaptive_moe.cli.conversation import Conversation

Action = Callable[["Conversation", Sequence[str]], None]


@dataclass(frozen=True, slots=True)
class ChatCommand:
    """How a command is written, what it is for, and what it does."""

    usage: str
    purpose: str
    action: Action


def obey(talk: "Conversation", text: str) -> bool:
    """Do what the line says; false when it says to leave."""
    word, _, rest = text.partition(" ")
    name = {"/quit": "/exit", "/?": "/help"}.get(word, word)
    if name == "/exit":
        return False
    chosen = COMMANDS.get(name)
    if chosen is None:
        nearest = difflib.get_close_matches(name, COMMANDS, n=1, cutoff=0.4)
        meant = f"did you mean {nearest[0]}?" if nearest else "/help lists the commands."
        raise ConfigurationError(
            f"there is no command {name}; {meant} (A space before / sends it as a message.)"
        )
    chosen.action(talk, _split(rest))
    return True


def complete(talk: "Conversation", words: Sequence[str]) -> Iterable[str]:
    """Commands, and expert names where a command takes one."""
    if len(words) == 1:
        return [name for name in (*COMMANDS, "/exit") if name.startswith(words[0])]
    if words[0] not in ("/route", "/train", "/experts"):
        return []
    known = [*talk.moe.experts, *(("auto", "base") if words[0] == "/route" else ())]
    return [name for name in sorted(known) if name.startswith(words[-1])]


def _split(text: str) -> Sequence[str]:
    try:
        return shlex.split(text)
    except ValueError:
        return text.split()


def _help(talk: "Conversation", words: Sequence[str]) -> None:
    asked = {f"/{word.lstrip('/')}" for word in words}
    chosen = [item for name, item in COMMANDS.items() if not asked or name in asked]
    facts = {item.usage: item.purpose for item in chosen}
    hint = 'End a line with \\ to go on in the next, or put """ around several lines.'
    talk.terminal.show(facts_table(facts | {"/exit": "leave; Ctrl-D does the same"}), hint)


def _experts(talk: "Conversation", _words: Sequence[str]) -> None:
    experts = talk.moe.experts
    if not experts:
        talk.terminal.show("No experts yet. /train NAME PATH makes one.")
        return
    facts = {
        f"{name} v{expert.version}": f"{expert.label}: {expert.parameters:,} parameters, "
        f"{expert.bytes:,} bytes"
        for name, expert in experts.items()
    }
    talk.terminal.show(facts_table(facts))


def _why(talk: "Conversation", _words: Sequence[str]) -> None:
    if talk.last is None:
        raise ConfigurationError("there is no answer to explain yet; ask something first")
    talk.terminal.show(*why_parts(talk.last))


def _gap(talk: "Conversation", words: Sequence[str]) -> None:
    from adaptive_moe.cli.gap_view import gap_parts
    from adaptive_moe.cli.tables import gaps_table

    gap_id = int(words[0]) if words and words[0].isdigit() else talk.gap_id
    if gap_id is not None:
        gap = talk.moe.gaps.show(gap_id)
        talk.terminal.show(*gap_parts(gap, talk.moe.gaps.explain(gap_id)))
        return
    found = talk.moe.gaps.list()
    told = "The last answer was no evidence for a gap."
    talk.terminal.show(told, *([gaps_table(found)] if found else []))


def _cancel(talk: "Conversation", _words: Sequence[str]) -> None:
    stopped = talk.cancel_training()
    if stopped.gap is None:
        what = f"of {stopped.expert}"
        how = " ".join(("/train", stopped.expert, *map(str, stopped.files)))
    else:
        what = f"for gap {stopped.gap.id} ({stopped.gap.label})"
        how = f"`gaps fill {stopped.gap.id}`"
    talk.terminal.show(
        f"The training {what} stops at its next step; {how} goes on from its checkpoint."
    )


def _route(talk: "Conversation", words: Sequence[str]) -> None:
    if words:
        chosen = ",".join(words)
        names = parse_route(chosen)
        for name in names if isinstance(names, tuple) else ():
            talk.moe.experts[name]
        talk.route = chosen
    talk.terminal.show(f"route: {talk.route}")


def _good(talk: "Conversation", _words: Sequence[str]) -> None:
    _judge(talk, correct=True)


def _bad(talk: "Conversation", words: Sequence[str]) -> None:
    _judge(talk, correct=False)
    if words:
        file = chat_training.keep_correction(talk.turns[-1].prompt, " ".join(words))
        talk.terminal.show(f"The right answer is noted in {file}; a training can use it.")


def _judge(talk: "Conversation", *, correct: bool) -> None:
    if talk.last is None or not talk.turns:
        raise ConfigurationError("there is no answer to judge yet; ask something first")
    gap = talk.moe.gaps.feedback(talk.last, correct=correct)
    told = "Noted." if gap is None else f"Noted; gap {gap.id} is {str(gap.state).lower()}."
    talk.terminal.show(told)
    if gap is not None:
        talk.offer(gap)


def _new(talk: "Conversation", _words: Sequence[str]) -> None:
    talk.start_anew()
    talk.terminal.show("A new conversation.")


def _undo(talk: "Conversation", _words: Sequence[str]) -> None:
    talk.terminal.show("Taken back." if talk.undo() else "There is nothing to take back.")


def _save(talk: "Conversation", words: Sequence[str]) -> None:
    if len(words) != 1:
        raise ConfigurationError("/save PATH: name one file, e.g. /save talk.jsonl")
    if not talk.turns:
        raise ConfigurationError("there is nothing to save yet; ask something first")
    save_conversation(Path(words[0]).expanduser(), talk.turns)
    talk.terminal.show(f"{len(talk.turns)} turn(s) added to {words[0]}; `train` can read it.")


def _stats(talk: "Conversation", _words: Sequence[str]) -> None:
    cache = talk.moe.cache_statistics()
    memory = {
        name.replace("_", " ").removesuffix(" bytes"): f"{value / 2**20:,.1f} MiB"
        for name, value in talk.moe.memory().items()
    }
    facts = {
        "turns": len(talk.turns),
        "tokens written": f"{talk.tokens:,}",
        "experts on the device": cache.device_experts,
        "cache": f"{cache.hits} hits, {cache.misses} misses, {cache.evictions} evictions, "
        f"{cache.prefetched} read ahead",
    }
    talk.terminal.show(facts_table(facts | memory))


COMMANDS: Mapping[str, ChatCommand] = {
    "/help": ChatCommand("/help [COMMAND]", "this list", _help),
    "/experts": ChatCommand("/experts", "who else can answer", _experts),
    "/why": ChatCommand("/why", "the last answer's route, scores, shares and sources", _why),
    "/gap": ChatCommand("/gap [ID]", "what it was found not to know, and what is missing", _gap),
    "/train": ChatCommand(
        "/train [NAME PATH...]",
        "teach an expert; alone: fill the verified gap",
        chat_training.train,
    ),
    "/cancel": ChatCommand("/cancel", "stop the training in the background", _cancel),
    "/route": ChatCommand("/route [auto|base|NAME,...]", "who answers from now on", _route),
    "/good": ChatCommand("/good", "the last answer was right", _good),
    "/bad": ChatCommand("/bad [ANSWER]", "the last answer was wrong; this is the right one", _bad),
    "/new": ChatCommand("/new", "a new conversation", _new),
    "/undo": ChatCommand("/undo", "take the last turn back", _undo),
    "/save": ChatCommand("/save PATH", "add the conversation to a file", _save),
    "/stats": ChatCommand("/stats", "memory, cache, tokens", _stats),
}
