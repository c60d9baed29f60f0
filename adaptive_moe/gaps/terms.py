"""Reads prompts as words: when two are the same, what one is about, what tells groups apart."""

import hashlib
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence

_WORD = re.compile(r"\w+", re.UNICODE)
_CONTRACTION = re.compile(r"(?<=\w)['\N{RIGHT SINGLE QUOTATION MARK}](s|t|re|ve|ll|d|m)\b")
_JOINT = re.compile(r"[ \-]+")  # between the words of one name

# Words that carry no topic: function words and the politeness around a question.
_STOP_WORDS = frozenset(
    _WORD.findall(
        """a about after again also am an and are as at be because been before being between
        but by can could did do does doing don else ever few for from get give had
        has have having he her here hers him his how i if in into is it its just
        know let many may me might more most much must my no nor not now of off on
        once only or other our out over own please say shall she should show so some
        such tell than thank thanks that the their them then there these they this
        those through to too under until up us very was we were what when where
        which while who whom whose why will with would yes you your"""
    )
)


def words(text: str) -> tuple[str, ...]:
    """The words of a text in order: compatibility forms unified, case folded, no punctuation."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return tuple(_WORD.findall(_CONTRACTION.sub("", folded)))


def prompt_hash(prompt: str) -> str:
    """Equal for prompts that differ only in case, spacing or punctuation; sha256 hex."""
    known = " ".join(words(prompt)) or prompt.strip()
    return hashlib.sha256(known.encode("utf-8", "surrogatepass")).hexdigest()


def content_words(prompt: str) -> frozenset[str]:
    """The words that can carry a topic; empty for "and what about it?"."""
    return frozenset(word for word in words(prompt) if word not in _STOP_WORDS)


def asks_the_same(one: str, other: str) -> bool:
    """Whether one prompt brings no topic word that the other does not have as well.

    Templates ("the symbol of iron", "the symbol of gold") lie close together in hidden space but
    are different questions; a paraphrase around the same topic words is not.
    """
    first, second = content_words(one), content_words(other)
    return first <= second or second <= first


def telling_terms(
    groups: Mapping[int, Sequence[str]], group: int, *, limit: int = 4
) -> tuple[str, ...]:
    """The terms that set the prompts of `group` apart from those of the other groups.

    Class-based TF-IDF (Grootendorst 2022, BERTopic, Eq. 2): tf * log(1 + A / f), with tf the
    number of the group's prompts that hold the term, f that of all prompts and A the mean number
    of term occurrences in a group. Best first; ties in alphabetical order.
    """
    counts = {key: Counter(_occurrences(prompts)) for key, prompts in groups.items()}
    total: Counter[str] = sum(counts.values(), Counter())
    mean = total.total() / max(len(counts), 1)
    weights = {
        term: count * math.log1p(mean / total[term])
        for term, count in counts.get(group, Counter()).items()
    }
    return tuple(sorted(weights, key=lambda term: (-weights[term], term))[:limit])


def _occurrences(prompts: Iterable[str]) -> Iterable[str]:
    for prompt in prompts:
        yield from (word for word in content_words(prompt) if not word.isdigit())


def subjects(prompts: Sequence[str], *, limit: int = 12) -> tuple[str, ...]:
    """What the prompts ask about beside what they have in common: "Bell Rock", not "keeper".

    Runs of topic words, spelt as in the prompts, that at most half of the prompts share (a single
    prompt shares nothing). Those of the most prompts first, else in the order of their appearance.
    """
    holding = Counter(word for prompt in prompts for word in content_words(prompt))
    common = {word for word, count in holding.items() if count > max(1, len(prompts) / 2)}
    spelt: dict[str, str] = {}
    asked: Counter[str] = Counter()
    for prompt in prompts:
        runs = {" ".join(words(run)): run for run in _runs(prompt, common)}
        spelt = runs | spelt
        asked.update(runs.keys())
    return tuple(spelt[run] for run, _ in asked.most_common(limit))


def _runs(prompt: str, common: Collection[str]) -> Iterable[str]:
    """Neighbouring topic words that are not common, with what stands between them."""
    text = _CONTRACTION.sub("", prompt)
    start = end = 0
    for found in _WORD.finditer(text):
        word = "".join(words(found.group()))
        if word in _STOP_WORDS or word in common:
            continue
        if end and _JOINT.fullmatch(text, end, found.start()):
            end = found.end()
            continue
        if end:
            yield text[start:end]
        start, end = found.span()
    if end:
        yield text[start:end]
