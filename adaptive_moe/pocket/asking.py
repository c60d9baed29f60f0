"""Questions about the known facts with their answers, for fitting and measuring routers."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from adaptive_moe.pocket.facts import KnownFact, further_questions, load_facts, questions
from adaptive_moe.pocket.paths import FACTS_FILE


def write_known_questions(
    file: Path, *, splits: Sequence[str], wordings: int = 1, facts_file: Path = FACTS_FILE
) -> int:
    """Questions for every fact of the splits: `wordings` of each kind of phrasing.

    The kinds are the plain trained phrasings, the freer ones, and the held-out ones. Writes JSON
    lines {prompt, answer, domain, source, exposure}; returns how many.
    """
    facts = [fact for fact in load_facts(facts_file) if fact.split in splits]
    rows = [row for index, fact in enumerate(facts) for row in _rows(fact, index, wordings)]
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return len(rows)


def _rows(fact: KnownFact, index: int, wordings: int) -> Iterator[dict[str, object]]:
    kinds = (questions(fact), further_questions(fact), questions(fact, held_out=True))
    for phrasings in kinds:
        for place in range(min(wordings, len(phrasings))):
            yield {
                "prompt": phrasings[(index + place) % len(phrasings)],
                "answer": fact.object,
                "domain": fact.domain,
                "source": fact.id,
                "exposure": fact.exposure,
            }
