"""Makes questions, by the rules, of what a teacher said again in other words."""

import random
from collections import defaultdict
from collections.abc import Iterator, Sequence

from adaptive_moe.training.documents import Passage
from adaptive_moe.training.facts import extract_facts
from adaptive_moe.training.grounding import is_grounded
from adaptive_moe.training.lesson_filters import known_text
from adaptive_moe.training.phrasings import held_out_forms
from adaptive_moe.training.prose import Clause, clauses, prose_facts
from adaptive_moe.training.question_forms import FORMS
from adaptive_moe.training.statements import SUBJECT, mine_statements, questions_from
from adaptive_moe.training.synthesis import Example
from adaptive_moe.training.tables import Fact, plain
from adaptive_moe.training.taught_forms import REWRITTEN

_MOST_PATTERNS = 4  # of one relation
_QUESTIONS = 8  # for a fact that the documents' own sentences hid from the rules


def examples_of(
    statements: Sequence[Passage], passages: Sequence[Passage], *, seed: int
) -> tuple[list[Example], int]:
    """Questions that follow from statements, and how many of these gave none.

    Facts that the rules found in `passages` are asked for in the words that the statements use
    for them, where two facts share these. Other facts in set phrases are asked for if the
    passages hold subject and value; where the statements contradict each other, the first counts.
    """
    said = [clause for each in statements for clause in _clauses(each)]
    known = extract_facts(passages)
    reworded = list(_reworded(known.facts, said))
    keys = {fact.key for fact in known.facts}
    texts = _texts_by_place(passages)
    fresh: dict[str, Fact] = {}
    silent = len(statements)
    for each in statements:
        facts = [fact for clause in _clauses(each) for fact in prose_facts(clause)]
        new = [fact for fact in facts if fact.key not in keys and _stands_in(fact, texts)]
        silent -= bool(new) or _is_known(facts, keys)
        for fact in new:
            fresh.setdefault(fact.key, fact)
    asked = [example for fact in fresh.values() for example in _asked(fact, seed)]
    return [*reworded, *asked], silent


def _clauses(statement: Passage) -> Iterator[Clause]:
    return clauses(plain(statement.text), file=statement.file, line=statement.line)


def _reworded(facts: Sequence[Fact], said: Sequence[Clause]) -> Iterator[Example]:
    patterns = mine_statements(facts, said)
    for fact in facts:
        for pattern in patterns.get(fact.relation, ())[:_MOST_PATTERNS]:
            for _, question in questions_from(pattern):
                yield _example(question.replace(SUBJECT, fact.subject), fact)


def _asked(fact: Fact, seed: int) -> Iterator[Example]:
    """The fact in a few of the rules' own forms, never in one that is held out."""
    chance = random.Random(f"restated {seed} {fact.key}")  # noqa: S311  not for security
    usable = [form for form in FORMS if "{kind}" not in form and form not in held_out_forms()]
    for form in chance.sample(usable, min(_QUESTIONS, len(usable))):
        question = form.replace("{relation}", fact.relation).replace(SUBJECT, fact.subject)
        yield _example(question[:1].upper() + question[1:], fact)


def _example(question: str, fact: Fact) -> Example:
    return Example((("user", question),), fact.value, fact.key, REWRITTEN, fact.file, fact.line)


def _texts_by_place(passages: Sequence[Passage]) -> dict[tuple[str, int], str]:
    texts: dict[tuple[str, int], list[str]] = defaultdict(list)
    for passage in passages:
        texts[passage.file, passage.line].append(known_text(passage))
    return {place: " ".join(parts) for place, parts in texts.items()}


def _stands_in(fact: Fact, texts: dict[tuple[str, int], str]) -> bool:
    text = texts.get((fact.file, fact.line), "")
    return is_grounded(fact.subject, text) and is_grounded(fact.value, text)


def _is_known(facts: Sequence[Fact], keys: set[str]) -> bool:
    return any(fact.key in keys for fact in facts)
