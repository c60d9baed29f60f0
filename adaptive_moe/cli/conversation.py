"""One conversation: its turns, the reply as it streams in, and what is kept of it."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, final

from rich.text import Text

from adaptive_moe.cli.background import BackgroundNotes
from adaptive_moe.cli.chat_log import SessionLog, Turn, last_base, messages_of
from adaptive_moe.cli.failures import describe
from adaptive_moe.cli.interrupts import stopping_on_interrupt
from adaptive_moe.cli.line_editor import LineReader
from adaptive_moe.cli.options import parse_route
from adaptive_moe.cli.program import show_failure
from adaptive_moe.cli.render import confidence_line, who
from adaptive_moe.cli.safe_text import clean, clean_line
from adaptive_moe.cli.terminal import Terminal
from adaptive_moe.errors import AdaptiveMoEError, GapError, PromptTooLongError

_LEFT_OUT_AT_ONCE = 0.25  # of the turns; one at a time would have every later reply leave one out

if TYPE_CHECKING:
    from adaptive_moe.engine.events import Answer
    from adaptive_moe.engine.gap_worker import InTraining
    from adaptive_moe.engine.runtime import AdaptiveMoE
    from adaptive_moe.gaps.ledger import Gap


@final
class Conversation:
    """What `chat` knows. `last` is the latest answer, `gap_id` the gap noticed last."""

    def __init__(
        self,
        terminal: Terminal,
        moe: "AdaptiveMoE",
        folder: Path,
        *,
        route: str,
        interactive: bool,
    ) -> None:
        self.terminal = terminal
        self.moe = moe
        self.route = route
        self.interactive = interactive
        self.turns: list[Turn] = []
        self._left_out = 0  # of the turns, the oldest, which no longer fit into the context
        self._told_left_out = False
        self.last: Answer | None = None
        self.gap_id: int | None = None
        self.tokens = 0
        self.reader: LineReader | None = None
        self._notes = BackgroundNotes()
        self._offered: set[int] = set()
        self._folder = folder
        self.log = self._new_log()

    def greet(self) -> None:
        """Say what one talks to."""
        if self.interactive:
            base, count = clean_line(self.terminal.settings.base.id), len(self.moe.experts)
            self.terminal.note(f"{base} with {count} expert(s). /help for commands, Ctrl-D leaves.")

    def farewell(self) -> None:
        """Say how to come back."""
        if self.interactive and self.turns:
            self.terminal.note("Kept. adaptive-moe chat --continue goes on from here.")

    def resume(self) -> None:
        """Take up this base's conversation that was written to last."""
        found = SessionLog.resume(self._folder, base=self.terminal.settings.base.id)
        if found is None:
            self.terminal.note(_nothing_to_resume(last_base(self._folder)))
            return
        self.log, self.turns = found
        self._left_out, self._told_left_out = 0, False
        self.terminal.note(f"Going on after {len(self.turns)} turn(s).")
        if self.turns and self.interactive:
            last = self.turns[-1]
            self.terminal.note(f"> {clean_line(last.prompt)}\n{clean(last.answer)}")

    def start_anew(self) -> None:
        """Forget the turns; the old conversation stays on disk."""
        self.turns, self.last, self.log = [], None, self._new_log()
        self._left_out, self._told_left_out = 0, False

    def undo(self) -> bool:
        """Take the last turn back; false when there is none."""
        if not self.turns:
            return False
        self.turns.pop()
        self._left_out = 0  # older turns may fit again
        self.log.undo()
        self.last = None
        return True

    def reply(self, prompt: str) -> None:
        """Answer one message, piece by piece; Ctrl-C ends the reply and keeps what there is."""
        pieces: list[str] = []
        answer, gap = None, None
        with stopping_on_interrupt() as stop:
            try:
                answer, gap = self._stream_what_fits(prompt, pieces, stop)
            finally:
                if pieces and not self.terminal.as_json:
                    self._write("\n")
                self._keep(prompt, pieces, answer)
        if answer is not None:
            self._tell(answer)
        self._notes.tell(self.terminal, steps=self.interactive)
        if gap is not None:
            self._tell_gap(gap)

    def tell_news(self) -> None:
        """What a training in the background did since the last reply, in a line."""
        self._notes.tell(self.terminal, self.moe.gaps.events(), steps=self.interactive)

    def status(self) -> str:
        """How far a training in the background is; for beside the prompt, asked every second."""
        self._take_news()
        return self._notes.status()

    def cancel_training(self) -> "InTraining":
        """Stop the training in the background. Raises GapError when none runs."""
        stopped = self.moe.gaps.cancel()
        if stopped is None:
            raise GapError("no training runs in the background")
        self._take_news()  # steps that it told before
        self._notes.forget()
        return stopped

    def _take_news(self) -> None:
        for event in self.moe.gaps.events():
            self._notes.take(event)

    def offer(self, gap: "Gap") -> None:
        """Once for each gap that evidence has just verified: say what can be done, or ask."""
        from adaptive_moe.cli.chat_training import offer_to_fill
        from adaptive_moe.gaps.states import GapState

        if gap.state is GapState.VERIFIED and gap.id not in self._offered:
            self._offered.add(gap.id)
            offer_to_fill(self, gap)

    @contextmanager
    def surviving(self) -> Iterator[None]:
        """Errors and Ctrl-C inside are told; the conversation goes on."""
        try:
            yield
        except KeyboardInterrupt:
            if not self.interactive:
                raise
            self.terminal.note("stopped")
        except AdaptiveMoEError as error:
            failure = describe(error)
            show_failure(failure)
            if self.terminal.as_json:
                self.terminal.emit(failure.to_dict())

    def ask(self, question: str) -> bool:
        """A yes or no; yes when nobody is there to ask, because the command was explicit."""
        if not self.interactive or self.reader is None:
            return True
        try:
            return self.reader(f"{question} [y/N] ").strip().lower() in ("y", "yes")
        except (EOFError, KeyboardInterrupt):
            return False

    def _stream_what_fits(
        self, prompt: str, pieces: list[str], stop: Callable[[], bool]
    ) -> "tuple[Answer | None, Gap | None]":
        """Stream the reply to what fits of the conversation: the oldest turns are left out.

        That is told once; on disk they all stay. Raises PromptTooLongError for a message that does
        not fit alone.
        """
        start = min(self._left_out, len(self.turns))
        while True:
            kept = self.turns[start:]
            messages = [*messages_of(kept), {"role": "user", "content": prompt}]
            try:
                reply = self._stream(messages, pieces, stop)
            except PromptTooLongError:
                if not kept:
                    raise
                start += math.ceil(_LEFT_OUT_AT_ONCE * len(kept))
                continue
            self._left_out = start
            if start and not self._told_left_out:
                self._told_left_out = True
                self.terminal.note(
                    f"The first turns, {start} by now, no longer fit and are left out; "
                    "/new begins afresh."
                )
            return reply

    def _stream(
        self, messages: list[dict[str, str]], pieces: list[str], stop: Callable[[], bool]
    ) -> "tuple[Answer | None, Gap | None]":
        from adaptive_moe.engine.events import Finished, GapFound, Token

        answer, gap = None, None
        experts = parse_route(self.route)
        for event in self.moe.stream(messages, experts=experts, stop=stop):
            if isinstance(event, Token):
                pieces.append(event.text)
                if not self.terminal.as_json:
                    self._write(clean(event.text))
            elif isinstance(event, GapFound):
                gap = event.gap
            elif isinstance(event, Finished):
                answer = event.answer
            else:
                self._notes.take(event)
        return answer, gap

    def _keep(self, prompt: str, pieces: list[str], answer: "Answer | None") -> None:
        text = answer.text if answer is not None else "".join(pieces)
        if not text and (answer is None or answer.finish_reason == "interrupted"):
            return
        facts: dict[str, object] = {"finish_reason": "interrupted"}
        if answer is not None:
            self.last = answer
            self.tokens += answer.usage.completion_tokens
            self.gap_id = answer.gap.id if answer.gap is not None else None
            facts = {
                "by": who(answer),
                "p_correct": answer.confidence.p_correct,
                "low_confidence": answer.low_confidence,
                "finish_reason": answer.finish_reason,
            }
        self.turns.append(Turn(prompt, text))
        self.log.add(self.turns[-1], facts)

    def _tell(self, answer: "Answer") -> None:
        if self.terminal.as_json:
            self.terminal.emit(answer.to_dict())
        elif self.interactive:
            self.terminal.show(confidence_line(answer))
        elif answer.low_confidence:
            self.terminal.note("? low confidence")

    def _tell_gap(self, gap: "Gap") -> None:
        self.gap_id = gap.id
        state = str(gap.state).lower()
        self.terminal.err.print(
            Text(f"Gap {gap.id} ({clean_line(gap.label)}) is now {state}.", style="yellow")
        )
        self.offer(gap)

    def _new_log(self) -> SessionLog:
        return SessionLog(self._folder, base=self.terminal.settings.base.id)

    def _write(self, text: str) -> None:
        """Straight to stdout: the cost of a reply grows with its length, nothing is redrawn."""
        file = self.terminal.out.file
        file.write(text)
        file.flush()


def _nothing_to_resume(other_base: str | None) -> str:
    if other_base is None:
        return "There is no earlier conversation; this is a new one."
    return (
        f"The last conversation was with {clean_line(other_base) or 'an unknown base'}; --base and "
        "its name go on with that. This is a new one."
    )
