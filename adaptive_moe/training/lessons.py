"""Lets a teacher write training examples from documents, and keeps those that can be trusted."""

import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import final

from pydantic import JsonValue

from adaptive_moe.measures.graders import normalise
from adaptive_moe.models.chat_format import Messages
from adaptive_moe.training.documents import Passage
from adaptive_moe.training.interruption import stop_if_cancelled
from adaptive_moe.training.lesson_filters import agrees, cleaned, objection
from adaptive_moe.training.lesson_prompts import (
    asked_again,
    implications,
    pieces,
    questions_in,
    rewrites,
)
from adaptive_moe.training.material import question_key
from adaptive_moe.training.replies import Pair, read_pairs, read_statements
from adaptive_moe.training.restating import examples_of
from adaptive_moe.training.rows import RowError, clean_text
from adaptive_moe.training.stages import Stage
from adaptive_moe.training.synthesis import Example, examples_hash
from adaptive_moe.training.taught_forms import IMPLIED, TAUGHT_FORMS, held_out_taught_form
from adaptive_moe.training.teacher import Teacher

_TOGETHER = 8  # passages; between such batches a training can be stopped
_UNREADABLE = "no readable text"
_NO_ROOM = "requests that do not fit into the teacher's context"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Lessons:
    """What a teacher wrote and what was kept of it.

    `written` counts pairs and statements, `kept` the examples, which a statement may give several
    of; `dropped` holds how many were not used, by reason. `contradictions` are (file, line,
    reason) of answers that differ from what the material says itself; they are among the dropped.
    """

    teacher: str
    passages: int
    written: int
    examples: tuple[Example, ...]
    dropped: Mapping[str, int]
    contradictions: tuple[tuple[str, int, str], ...] = ()

    @property
    def kept(self) -> int:
        """How many examples there are."""
        return len(self.examples)

    def stage(self) -> Stage:
        """The record of this stage; dropped are pairs, statements and requests."""
        entered, left = {"passages": self.passages}, {"examples": self.kept}
        return Stage("teacher", entered, left, examples_hash(self.examples), dict(self.dropped))

    def record(self) -> dict[str, JsonValue]:
        """What a manifest tells of them."""
        return {
            "name": self.teacher,
            "passages": self.passages,
            "written": self.written,
            "kept": self.kept,
            "dropped": dict(self.dropped),
        }


@dataclass(frozen=True, slots=True)
class Known:
    """What stands before a teacher is asked: questions with their answers, and reserved ones.

    `reserved` holds the `question_key` of questions that nothing may train on.
    """

    examples: Sequence[Example]
    reserved: Collection[str]


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A pair that a passage gave, and the form it was asked for in."""

    pair: Pair
    piece: Passage
    form: str
    fact: str

    @property
    def key(self) -> str:
        return question_key(self.pair.question)

    @property
    def example(self) -> Example:
        turn = ("user", self.pair.question)
        place = self.piece.file, self.piece.line
        return Example((turn,), self.pair.answer, self.fact, self.form, *place)


def write_lessons(
    teacher: Teacher,
    passages: Sequence[Passage],
    known: Known,
    *,
    seed: int,
    round_trip: bool,
    tell: Callable[[int, int], None] = lambda _done, _all: None,
) -> Lessons:
    """Have every passage asked about, restated and thought further; filter what comes back.

    A direct answer must stand in the passage (`is_grounded`), an implied one must be made of its
    words; with `round_trip` the teacher, asked again with the passage, must answer alike. Of the
    three taught forms one is held out and kept only for what another form teaches.
    Restated facts become questions by the rules. `tell` gets how many passages of how many are
    done, at first none. The same replies give the same examples. Raises TeacherError, and
    TrainingInterruptedError between two batches.
    """
    writer = _Writer(teacher, known, seed=seed, round_trip=round_trip)
    parts = pieces(passages)
    tell(0, len(parts))
    for start in range(0, len(parts), _TOGETHER):
        stop_if_cancelled()
        writer.take(parts[start : start + _TOGETHER])
        tell(min(start + _TOGETHER, len(parts)), len(parts))
    return writer.lessons(passages, parts)


@final
class _Writer:
    """Collects over all batches."""

    def __init__(self, teacher: Teacher, known: Known, *, seed: int, round_trip: bool) -> None:
        self._teacher = teacher
        self._answers = {question_key(each.prompt[-1][1]): each for each in known.examples}
        self._facts: dict[tuple[str, str], set[str]] = defaultdict(set)
        for each in known.examples:
            self._facts[each.file, normalise(each.answer)].add(each.fact)
        self._reserved = known.reserved
        self._seed = seed
        self._round_trip = round_trip
        self._written = 0
        self._candidates: list[_Candidate] = []
        self._statements: list[Passage] = []
        self._dropped: Counter[str] = Counter()
        self._contradictions: list[tuple[str, int, str]] = []

    def take(self, parts: Sequence[Passage]) -> None:
        """Ask about some passages; every form, then restated, then what follows."""
        asked: list[tuple[str, Passage, Messages]] = [
            (form, part, questions_in(form, part)) for part in parts for form in TAUGHT_FORMS
        ]
        asked += [(IMPLIED, part, implications(part)) for part in parts]
        restating = [rewrites(part) for part in parts]
        replies = self._teacher.answer([*(each for _, _, each in asked), *restating])
        found = [
            candidate
            for (form, part, _), reply in zip(asked, replies, strict=False)
            for candidate in self._read(reply, part, form)
        ]
        self._candidates += self._confirmed(found) if self._round_trip else found
        for part, reply in zip(parts, replies[len(asked) :], strict=True):
            self._restate(reply, part)

    def lessons(self, passages: Sequence[Passage], parts: Sequence[Passage]) -> Lessons:
        """Everything that is left when all candidates are known."""
        direct = list(self._taught(self._unequivocal()))
        seen = {*self._answers, *(question_key(each.prompt[-1][1]) for each in direct)}
        restated, silent = examples_of(self._statements, passages, seed=self._seed)
        if silent:
            self._dropped["statements in which the rules find no fact"] = silent
        examples = (*direct, *self._new(restated, seen))
        if not examples:
            _log.warning(
                "%s wrote nothing about %d passages that can be used: %s",
                self._teacher.name,
                len(parts),
                dict(self._dropped) or "it wrote nothing at all",
            )
        return Lessons(
            teacher=self._teacher.name,
            passages=len(parts),
            written=self._written,
            examples=examples,
            dropped=dict(self._dropped.most_common()),
            contradictions=tuple(self._contradictions),
        )

    def _read(self, reply: str | None, piece: Passage, form: str) -> Iterator[_Candidate]:
        if reply is None:
            self._dropped[_NO_ROOM] += 1
            return
        read = read_pairs(reply)
        self._dropped.update(read.unreadable)
        for raw in read.pairs:
            self._written += 1
            pair = cleaned(raw)
            reason = (
                _UNREADABLE
                if pair is None
                else objection(pair, piece, implied=form == IMPLIED)
                or self._objection_of_material(pair, piece)
            )
            if pair is None or reason:
                self._dropped[reason or ""] += 1
            else:
                yield _Candidate(pair, piece, form, self._fact(pair, piece))

    def _fact(self, pair: Pair, piece: Passage) -> str:
        """The only fact of the file with this answer; else equal where a passage answers alike."""
        answer = normalise(pair.answer)
        facts = self._facts.get((piece.file, answer), set())
        return next(iter(facts)) if len(facts) == 1 else f"{piece.file}:{piece.line} {answer}"

    def _objection_of_material(self, pair: Pair, piece: Passage) -> str | None:
        key = question_key(pair.question)
        if key in self._reserved:
            return "the question is held out for measuring"
        known = self._answers.get(key)
        if known is None:
            return None
        if normalise(known.answer) == normalise(pair.answer):
            return "the question is asked already"
        said = (
            f"the teacher answers {pair.question!r} with {pair.answer!r}, "
            f"{known.file}:{known.line} with {known.answer!r}"
        )
        _log.warning("%s:%d: %s", piece.file, piece.line, said)
        self._contradictions.append((piece.file, piece.line, said))
        return "the answer contradicts the material's own"

    def _confirmed(self, found: Sequence[_Candidate]) -> list[_Candidate]:
        """Those that the teacher answers alike when it is asked with the passage at hand."""
        if not found:
            return []
        stop_if_cancelled()
        replies = self._teacher.answer([asked_again(c.pair.question, c.piece) for c in found])
        kept = []
        for candidate, reply in zip(found, replies, strict=True):
            if reply is not None and agrees(reply, candidate.pair.answer):
                kept.append(candidate)
            else:
                self._dropped["asked again, the teacher answers otherwise"] += 1
        return kept

    def _restate(self, reply: str | None, piece: Passage) -> None:
        if reply is None:
            self._dropped[_NO_ROOM] += 1
            return
        for statement in read_statements(reply):
            self._written += 1
            try:
                text = clean_text(statement, "statement")
            except RowError:
                self._dropped[_UNREADABLE] += 1
            else:
                self._statements.append(replace(piece, text=" ".join(text.split())))

    def _unequivocal(self) -> list[_Candidate]:
        """Each question once, and none that was answered in two ways."""
        alike: dict[str, list[_Candidate]] = defaultdict(list)
        for candidate in self._candidates:
            alike[candidate.key].append(candidate)
        kept = []
        for group in alike.values():
            if len({normalise(each.pair.answer) for each in group}) > 1:
                self._dropped["the question has several answers"] += len(group)
                continue
            kept.append(group[0])
            if len(group) > 1:
                self._dropped["the question is asked already"] += len(group) - 1
        return kept

    def _taught(self, candidates: Sequence[_Candidate]) -> Iterator[Example]:
        """Examples; in the held-out form only for facts that another form teaches."""
        held_out = held_out_taught_form()
        taught = {each.fact for each in candidates if each.form not in (held_out, IMPLIED)}
        for candidate in candidates:
            if candidate.form != held_out or candidate.fact in taught:
                yield candidate.example
            else:
                self._dropped["only the held-out form asks for it"] += 1

    def _new(self, examples: Sequence[Example], seen: set[str]) -> Iterator[Example]:
        for example in examples:
            key = question_key(example.prompt[-1][1])
            if key not in seen and key not in self._reserved:
                seen.add(key)
                yield example
