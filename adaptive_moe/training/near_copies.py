"""Finds texts that nearly repeat each other, by MinHash (Broder 1997)."""

import functools
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, final

from adaptive_moe.training.grounding import folded_words

if TYPE_CHECKING:
    from datasketch import MinHash

_PERMUTATIONS = 64
_MANY, _COMMON = 200, 0.05  # texts from which on it is known what is common, and their share
_SLACK = 0.75  # the index is asked for less than is wanted, so that it misses little
# A question with one of these exchanged, added or left out still asks for the same thing.
_SMALL_WORDS_OF_ENGLISH = (
    "a an the this that these those is are was were be been do does did has have had can could "
    "will would shall should may might must of in on at by for from to with as and or so what "
    "which who whom whose when where why how it its s i me my you your we our us there please "
    "tell give name say know like exactly just"
)
_SMALL_WORDS = frozenset(_SMALL_WORDS_OF_ENGLISH.split())


@final
class NearCopies:
    """Texts by name, and which of them another text nearly repeats.

    Near means a Jaccard similarity of at least `threshold` between the sets of `shingle` words in
    a row; MinHash finds the candidates and the sets decide. What many texts of `among` have in
    common, an instruction in front of every row, says nothing and is left out. Without datasketch
    only texts with equal sets are found.
    """

    def __init__(self, *, threshold: float, shingle: int, among: Sequence[str] = ()) -> None:
        self._threshold = threshold
        self._width = shingle
        self._common: frozenset[str] = frozenset()
        if len(among) >= _MANY:
            counts = Counter(piece for text in among for piece in self._shingles(text))
            self._common = frozenset(
                piece for piece, count in counts.items() if count > _COMMON * len(among)
            )
        self._sets: dict[str, frozenset[str]] = {}
        self._equal: dict[frozenset[str], list[str]] = {}
        self._sketches: _Sketches | None = None

    def add(self, name: str, text: str) -> None:
        """Keep a text; names must differ."""
        if not self._sets:  # an index takes a while to lay out; many materials need none
            self._sketches = _sketches(self._threshold)
        pieces = self._shingles(text)
        self._sets[name] = pieces
        known = self._equal.setdefault(pieces, [])
        known.append(name)
        if self._sketches is not None and len(known) == 1:
            self._sketches.insert(name, pieces)

    def find(self, text: str) -> list[str]:
        """The names of the kept texts that this one nearly repeats, in the order of their names."""
        pieces = self._shingles(text)
        found = set(self._equal.get(pieces, ()))
        if self._sketches is not None:
            for name in self._sketches.query(pieces):
                if _jaccard(pieces, self._sets[name]) >= self._threshold:
                    found.update(self._equal[self._sets[name]])
        return sorted(found)

    def _shingles(self, text: str) -> frozenset[str]:
        words = folded_words(text)
        count = max(1, len(words) - self._width + 1)
        pieces = frozenset(" ".join(words[start : start + self._width]) for start in range(count))
        return pieces - self._common or pieces


def asks_the_same(first: str, second: str) -> bool:
    """Whether no word of content is exchanged for another: then it is another question.

    Words may be added, left out or moved ("the symbol of iron" and, please, "of iron the symbol"),
    but "iron" for "tin", or 404 for 405, makes all the difference however long the rest is.
    """
    words, others = _content(first), _content(second)
    return words <= others or others <= words


@functools.lru_cache(maxsize=1 << 16)
def _content(text: str) -> frozenset[str]:
    return frozenset(folded_words(text)) - _SMALL_WORDS


class _Sketches:
    """An LSH index over MinHash sketches of sets."""

    def __init__(self, threshold: float) -> None:
        from datasketch import MinHash, MinHashLSH

        self._index = MinHashLSH(threshold=_SLACK * threshold, num_perm=_PERMUTATIONS)
        self._empty = MinHash(num_perm=_PERMUTATIONS, seed=1)

    def insert(self, name: str, pieces: Iterable[str]) -> None:
        self._index.insert(name, self._sketch(pieces))

    def query(self, pieces: Iterable[str]) -> list[str]:
        return list(self._index.query(self._sketch(pieces)))

    def _sketch(self, pieces: Iterable[str]) -> "MinHash":
        sketch = self._empty.copy()
        sketch.update_batch([piece.encode() for piece in pieces])
        return sketch


def _sketches(threshold: float) -> _Sketches | None:
    try:
        return _Sketches(threshold)
    except ImportError:
        return None


def _jaccard(first: frozenset[str], second: frozenset[str]) -> float:
    return len(first & second) / len(first | second)
