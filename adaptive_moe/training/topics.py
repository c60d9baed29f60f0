"""What a set of documents calls its own field: the names it keeps mentioning."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence

from adaptive_moe.training.tables import Fact

_LEAST_MENTIONS = 2
_MOST_NAMES = 4


def topic_names(texts: Iterable[str], facts: Sequence[Fact]) -> tuple[str, ...]:
    """Up to four proper names that the texts mention at least twice, the most mentioned first.

    A name is capitalised inside a sentence. Words of a subject, a value or a relation are the
    facts' own and do not count.
    """
    own = {
        word
        for fact in facts
        for part in (fact.subject, fact.value, fact.relation)
        for word in re.findall(r"\w+", part)
    }
    prose = [text for text in texts if not text.startswith("|")]
    names = {name for text in prose for name in re.findall(r"(?<=[a-z,] )[A-Z]\w+", text)} - own
    mentions = Counter(word for text in prose for word in re.findall(r"\w+", text) if word in names)
    common = [(count, name) for name, count in mentions.items() if count >= _LEAST_MENTIONS]
    common.sort(key=lambda each: (-each[0], each[1]))
    return tuple(name for _, name in common[:_MOST_NAMES])
