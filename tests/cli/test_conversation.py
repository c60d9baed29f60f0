"""What a reply does while it streams, with an engine whose words are chosen here."""

import io
import os
import signal
from dataclasses import replace

import pytest
from rich.console import Console

from adaptive_moe.cli.chat_log import read_turns
from adaptive_moe.cli.conversation import Conversation
from adaptive_moe.cli.terminal import Terminal
from adaptive_moe.config.settings import Settings
from adaptive_moe.engine.events import Finished, Token
from adaptive_moe.errors import PromptTooLongError
from tests.cli.answers import answer
from tests.cli.hostile import leaks, strings


class Screen(io.StringIO):
    written = 0

    def write(self, text: str) -> int:
        self.written += len(text)
        return super().write(text)


class Speaker:
    """Streams given pieces; after `interrupt_at` of them Ctrl-C is pressed once."""

    def __init__(self, pieces, *, interrupt_at=None, presses=1, obeys=True):
        self.pieces, self.interrupt_at = pieces, interrupt_at
        self.presses, self.obeys = presses, obeys
        self.asked = []

    def stream(self, messages, *, experts, stop):
        self.asked.append((messages, experts))
        said = []
        for number, piece in enumerate(self.pieces):
            if number == self.interrupt_at:
                for _ in range(self.presses):
                    os.kill(os.getpid(), signal.SIGINT)
            if self.obeys and stop():
                break
            said.append(piece)
            yield Token(piece)
        whole = len(said) == len(self.pieces)
        done = replace(answer(experts=(), low=False), text="".join(said))
        yield Finished(replace(done, finish_reason="stop" if whole else "interrupted"))


@pytest.fixture
def converse(tmp_path):
    def start(speaker):
        screen = Screen()
        console = Console(file=screen, markup=False, emoji=False, highlight=False, width=80)
        terminal = Terminal(Settings(), as_json=False, debug=False, out=console, err=console)
        talk = Conversation(terminal, speaker, tmp_path, route="auto", interactive=True)
        return talk, screen

    return start


def test_hostile_pieces_are_cleaned_as_they_come(converse):
    texts = strings(1000)
    talk, screen = converse(Speaker(texts))
    talk.reply("hello")
    assert leaks(screen.getvalue()) == []
    assert talk.turns[0].answer == "".join(texts)


def test_a_reply_costs_in_proportion_to_its_length(converse):
    costs = []
    for length in (500, 1000, 2000):
        talk, screen = converse(Speaker(["word "] * length))
        talk.reply("hello")
        costs.append(screen.written - 5 * length)
    assert max(costs) - min(costs) == 0  # beyond the words themselves: one line at the end


@pytest.mark.parametrize("at", [1, 7, 99])
def test_ctrl_c_keeps_the_partial_reply_and_the_next_turn_works(converse, at):
    speaker = Speaker(["word "] * 100, interrupt_at=at)
    talk, screen = converse(speaker)
    with talk.surviving():
        talk.reply("hello")
    assert talk.turns[0].answer == "word " * at
    assert "interrupted" in screen.getvalue()
    assert read_turns(talk.log.path) == talk.turns
    speaker.interrupt_at = None
    talk.reply("again")
    assert len(talk.turns) == 2
    assert speaker.asked[1][0][1] == {"role": "assistant", "content": "word " * at}


def test_a_reply_interrupted_before_its_first_word_leaves_no_turn(converse):
    talk, _ = converse(Speaker(["word "] * 3, interrupt_at=0))
    talk.reply("hello")
    assert talk.turns == []


def test_a_second_ctrl_c_breaks_off_an_engine_that_does_not_listen(converse):
    talk, _ = converse(Speaker(["word "] * 10, interrupt_at=4, presses=2, obeys=False))
    with talk.surviving():
        talk.reply("hello")
    assert talk.turns[0].answer == "word " * 4
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


class Forgetful(Speaker):
    """Refuses conversations of more than `most` messages, as a small context does."""

    def __init__(self, pieces, *, most):
        super().__init__(pieces)
        self.most = most

    def stream(self, messages, **more):
        if len(messages) > self.most:
            raise PromptTooLongError("the prompt takes too many tokens")
        yield from super().stream(messages, **more)


def test_a_long_conversation_goes_on_without_its_oldest_turns(converse):
    speaker = Forgetful(["Yes."], most=9)
    talk, screen = converse(speaker)
    for number in range(30):
        talk.reply(f"question {number}")
    asked = [messages for messages, _ in speaker.asked]
    assert len(asked) == len(talk.turns) == len(read_turns(talk.log.path)) == 30
    assert all(messages[-1]["content"] == f"question {n}" for n, messages in enumerate(asked))
    assert all(messages[0]["role"] == "user" for messages in asked)
    assert len(asked[-1]) >= 7
    assert screen.getvalue().count("no longer fit") == 1
    talk.start_anew()
    talk.reply("another matter")
    assert len(speaker.asked[-1][0]) == 1


def test_what_was_left_out_is_sent_again_when_later_turns_are_taken_back(converse):
    speaker = Forgetful(["Yes."], most=9)
    talk, _ = converse(speaker)
    for number in range(9):
        talk.reply(f"question {number}")
    for _ in range(6):
        talk.undo()
    talk.reply("again")
    assert speaker.asked[-1][0][0]["content"] == "question 0"


def test_a_message_that_fits_nowhere_is_an_error(converse):
    talk, _ = converse(Forgetful(["Yes."], most=0))
    with pytest.raises(PromptTooLongError):
        talk.reply("a very long message")
    assert talk.turns == []
