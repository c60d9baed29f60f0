"""From documents to questions with short answers, by rules alone and offline."""

import random
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from adaptive_moe.training.documents import Passage
from adaptive_moe.training.facts import FactBase, extract_facts
from adaptive_moe.training.material import Material
from adaptive_moe.training.phrasings import (
    CODE_MARKS,
    MARKS,
    dress,
    fill_gaps,
    held_out_forms,
    place,
    selection_forms,
)
from adaptive_moe.training.prose import clauses
from adaptive_moe.training.question_forms import (
    ASSOCIATED_FORMS,
    BARE_FORMS,
    DEFINITION_FORMS,
    FORMS,
)
from adaptive_moe.training.rows import Turn
from adaptive_moe.training.stages import Stage, content_hash
from adaptive_moe.training.statements import questions_from
from adaptive_moe.training.tables import Fact, as_phrase, plain
from adaptive_moe.training.topics import topic_names

_MAX_STATEMENTS = 12  # patterns of one relation that are turned into questions
_OWN_NAME = 0.5  # share of questions that use the relation's own name where it has others
_STATED = 0.3  # share of questions made from the documents' sentences where there are any
_WITH_KIND = 0.2  # share of questions that say what the subject is
_MARKED, _AS_CODE = 0.1, 0.2  # shares of the others that set the subject off, by quotes or as code
_PLACED = 0.2  # share of questions that name the field where the documents do
_BY_WORDS = 0.2  # share of questions in words that the documents use around the relation alone
_FEWEST_WORDS = 4  # such words, for that to be worth it
_BARE = 0.25  # share of questions that name the subject only, where that is enough
_MIN_CLOZE_WORDS = 6


AS_WRITTEN = "as-written"
"""The form of an example that stands in a file as it is taught."""


@dataclass(frozen=True, slots=True)
class Example:
    """A question and its answer, with the fact it teaches and the form it is asked in.

    For rows of example files `fact` is the group that must stay on one side of a split.
    """

    prompt: tuple[Turn, ...]
    answer: str
    fact: str
    form: str
    file: str
    line: int


def synthesise(
    passages: Sequence[Passage], *, seed: int, forms_per_fact: int = 40
) -> tuple[Example, ...]:
    """Questions for every fact: about `forms_per_fact` to learn, two more in held-out forms.

    Forms of `held_out_forms()` appear in those two only, one of `selection_forms()` and one of
    the others. Text without any fact becomes
    sentences to complete. The same passages and seed give the same examples.
    """
    base = extract_facts(passages)
    if not base.facts:
        return tuple(_completions(passages))
    topics = topic_names((plain(passage.text) for passage in passages), base.facts)
    writer = _Writer(base, passages, topics, seed=seed)
    return tuple(
        example for fact in base.facts for example in writer.examples(fact, count=forms_per_fact)
    )


def synthesis_stage(material: Material, examples: Sequence[Example]) -> Stage:
    """The record of this stage."""
    entered, left = {"passages": len(material.passages)}, {"examples": len(examples)}
    return Stage("synthesis", entered, left, examples_hash(examples))


def examples_hash(examples: Sequence[Example]) -> str:
    """SHA-256, in hex, of what is asked and answered, in order."""
    return content_hash([[each.prompt, each.answer] for each in examples])


class _Writer:
    """Asks for facts in many ways; holds what all facts of a document set have in common."""

    def __init__(
        self, base: FactBase, passages: Sequence[Passage], topics: Sequence[str], *, seed: int
    ) -> None:
        self._topics = topics
        self._title_words = _title_words(passages)
        self._code = {name for part in passages for name in re.findall(r"`([^`]+)`", part.text)}
        self._names = base.names
        self._stated = {
            relation: tuple(
                question
                for pattern in patterns[:_MAX_STATEMENTS]
                for question in questions_from(pattern)
            )
            for relation, patterns in base.statements.items()
        }
        self._relations_of = Counter(fact.subject for fact in base.facts)
        self._associated = base.associated
        self._held_out = held_out_forms()
        self._selecting = selection_forms()
        self._seed = seed

    def examples(self, fact: Fact, *, count: int) -> Iterator[Example]:
        chance = random.Random(f"{self._seed} {fact.key}")  # noqa: S311  not for security
        forms = FORMS if fact.relation else DEFINITION_FORMS
        usable = _usable(forms, fact)
        trained = [form for form in usable if form not in self._held_out]
        tested = set(usable) & self._held_out
        halves = (sorted(tested & self._selecting), sorted(tested - self._selecting))
        seen: set[str] = set()
        for form in (chance.choice(half) for half in halves if half):
            question = self._fill(form, fact, chance)
            seen.add(_key(question))
            yield _example(question, fact, form)
        for form, text in self._draw_forms(trained, fact, count, chance):
            keep = f"{fact.subject} {' '.join(self._names.get(fact.relation, ()))}"
            asked = self._fill(text, fact, chance)
            if self._topics and chance.random() < _PLACED:
                topic = chance.choice(self._topics)
                asked = place(asked, topic, subject=fact.subject, chance=chance)
            question = dress(asked, keep=keep, chance=chance)
            if _key(question) not in seen:
                seen.add(_key(question))
                yield _example(question, fact, form)

    def _draw_forms(
        self,
        trained: Sequence[str],
        fact: Fact,
        count: int,
        chance: random.Random,
    ) -> Iterator[tuple[str, str]]:
        """`count` (form, text) pairs: every kind of question before any comes twice."""
        stated = list(self._stated.get(fact.relation, ()))
        chance.shuffle(stated)
        from_text = min(len(stated), round(count * _STATED))
        yield from stated[:from_text]
        words = self._associated.get(fact.relation, ())
        if len(words) >= _FEWEST_WORDS:
            by_words = min(len(ASSOCIATED_FORMS), round(count * _BY_WORDS))
            for form in chance.sample(ASSOCIATED_FORMS, by_words):
                from_text += 1
                yield form, fill_gaps(form, words, chance)
        if self._relations_of[fact.subject] == 1 and fact.relation:
            bare = _usable(BARE_FORMS, fact)
            for form in chance.sample(bare, min(len(bare), round(count * _BARE))):
                from_text += 1
                yield form, fill_gaps(form, (), chance)
        order: list[str] = []
        while len(order) < count - from_text:
            order += chance.sample(list(trained), len(trained))
        for form in order[: count - from_text]:
            yield form, form

    def _fill(self, text: str, fact: Fact, chance: random.Random) -> str:
        names = self._names.get(fact.relation, (fact.relation,))
        own = len(names) == 1 or chance.random() < _OWN_NAME
        subject = fact.subject
        said = "{kind}" in text or _says_kind(text, fact.kind)
        if fact.kind and not said and chance.random() < _WITH_KIND:
            subject = f"{self._kind(fact, chance)} {subject}"
        elif chance.random() < (_AS_CODE if fact.subject in self._code else _MARKED):
            marks = CODE_MARKS if fact.subject in self._code else MARKS
            subject = fill_gaps(chance.choice(marks), (), chance).format(subject)
        question = text.replace("{relation}", names[0] if own else chance.choice(names[1:]))
        question = question.replace("{kind}", self._kind(fact, chance))
        return question.replace("{subject}", subject)

    def _kind(self, fact: Fact, chance: random.Random) -> str:
        """The column's header, its last word, or the header behind the title's name for it."""
        words = fact.kind.split()
        choices = [fact.kind, fact.kind, words[-1] if words else ""]
        title = self._title_words.get(fact.kind)
        if title:
            choices.append(f"{title} {fact.kind}")
        return chance.choice(choices)


def _example(question: str, fact: Fact, form: str) -> Example:
    turn = ("user", question)
    return Example((turn,), fact.value, fact.key, form, fact.file, fact.line)


def _usable(forms: Sequence[str], fact: Fact) -> list[str]:
    """The forms that need no kind, or all where the documents say what the subject is."""
    return [form for form in forms if fact.kind or "{kind}" not in form]


def _says_kind(text: str, kind: str) -> bool:
    """Whether the words in front of the subject already name what it is."""
    before = text.partition("{subject}")[0].casefold().split()
    return bool(before) and before[-1] in kind.casefold().split()


def _key(question: str) -> str:
    return " ".join(re.findall(r"\w+", question.casefold()))


def _title_words(passages: Sequence[Passage]) -> dict[str, str]:
    """The abbreviation or name that a title puts in front of a kind ("ABC widgets": ABC)."""
    found: dict[str, str] = {}
    for title in {title for passage in passages for title in passage.heading}:
        words = plain(title).split()
        for start in range(len(words) - 1):
            name = words[start]
            if name.isupper() or (start > 0 and name.istitle()):
                rest = as_phrase(" ".join(words[start + 1 :]))
                found.setdefault(rest.removesuffix("s"), name)
                found.setdefault(rest, name)
    return found


def _completions(passages: Sequence[Passage]) -> Iterator[Example]:
    """First half of every longer clause as the question, the second half as the answer."""
    for passage in passages:
        for clause in clauses(plain(passage.text), file=passage.file, line=passage.line):
            words = clause.text.split()
            if len(words) < _MIN_CLOZE_WORDS:
                continue
            middle = (len(words) + 1) // 2
            prompt = (("user", f"Complete: {' '.join(words[:middle])} ..."),)
            answer = " ".join(words[middle:])
            yield Example(prompt, answer, clause.text, "completion", clause.file, clause.line)
