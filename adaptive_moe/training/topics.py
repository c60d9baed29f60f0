"""What a set of documents calls its own field: the names it keeps mentioning."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence

from adaptive_moe.training.tables import Fact

_LEAST_MENTIONS = 2
_MOST_NAMES = 4
_INSIDE = re.compile(r"(?<=[a-z,] )[A-Z]\w+")
# "the gates of Norlund", "Norlund's gates"; not "the gates of Norlund Bay".
_OWNING = re.compile(r"\bof ([A-Z]\w+)\b(?! [A-Z])|\b([A-Z]\w+)'s\b")


def topic_names(texts: Iterable[str], facts: Sequence[Fact]) -> tuple[str, ...]:
    """Up to four proper names that the texts give to their field, the most mentioned first.

    A field's name is capitalised inside a sentence and mentioned at least twice; the first text
    names it, as that is where documents say what they are about; and somewhere things are said to
    be its own ("the gates of Norlund"). That keeps out languages and values that are only quoted.
    Words of a subject, a value or a relation are the facts' own and do not count.
    """
    prose = [text for text in texts if not text.startswith("|")]
    opening = set(re.findall(r"\w+", prose[0])) if prose else set()
    inside = {name for text in prose for name in _INSIDE.findall(text)}
    owning = {first or second for text in prose for first, second in _OWNING.findall(text)}
    names = (inside & owning & opening) - _words_of(facts)
    mentions = Counter(word for text in prose for word in re.findall(r"\w+", text) if word in names)
    common = [(count, name) for name, count in mentions.items() if count >= _LEAST_MENTIONS]
    common.sort(key=lambda each: (-each[0], each[1]))
    return tuple(name for _, name in common[:_MOST_NAMES])


def _words_of(facts: Sequence[Fact]) -> set[str]:
    return {
        word
        for fact in facts
        for part in (fact.subject, fact.value, fact.relation)
        for word in re.findall(r"\w+", part)
    }
