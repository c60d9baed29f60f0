"""Questions about the known facts with their answers, for fitting and measuring routers."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from adaptive_moe.pocket.facts import KnownFact, further_questions, load_facts, questions
from adaptive_moe.pocket.paths import FACTS_FILE


@dataclass(frozen=True, slots=True)
class KnownQuestion:
    """A question about a known fact; `source` is the fact's id, `exposure` as in `KnownFact`."""

    prompt: str
    answer: str
    domain: str
    source: str
    exposure: int


def known_questions(
    splits: Sequence[str], *, wordings: int = 1, facts_file: Path = FACTS_FILE
) -> tuple[KnownQuestion, ...]:
    """Questions for every fact of the splits: `wordings` of each kind of phrasing.

    The kinds are the plain trained phrasings, the freer ones, and the held-out ones.
    """
    facts = [fact for fact in load_facts(facts_file) if fact.split in splits]
    return tuple(row for index, fact in enumerate(facts) for row in _rows(fact, index, wordings))


def write_known_questions(
    file: Path, *, splits: Sequence[str], wordings: int = 1, facts_file: Path = FACTS_FILE
) -> int:
    """Write `known_questions` as JSON lines; returns how many."""
    rows = known_questions(splits, wordings=wordings, facts_file=facts_file)
    file.write_text("".join(f"{json.dumps(asdict(row))}\n" for row in rows), encoding="utf-8")
    return len(rows)


def _rows(fact: KnownFact, index: int, wordings: int) -> Iterator[KnownQuestion]:
    kinds = (questions(fact), further_questions(fact), questions(fact, held_out=True))
    for phrasings in kinds:
        for place in range(min(wordings, len(phrasings))):
            prompt = phrasings[(index + place) % len(phrasings)]
            yield KnownQuestion(prompt, fact.object, fact.domain, fact.id, fact.exposure)
