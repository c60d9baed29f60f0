"""What a prompt is worded with: its words and the words' parts, hashed into a fixed space.

States tell what kind of question a prompt is; its words tell whom or what it asks about. Parts of
words let inflected forms, slips of the keyboard and scripts without spaces match as well (character
n-grams of words as in Bojanowski et al. 2017, hashed as in Weinberger et al. 2009).
"""

import math
import re
import zlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Int

if TYPE_CHECKING:
    from scipy.sparse import csr_array

COLUMNS = 1 << 14
_PART_LENGTHS = (3, 4, 5)  # characters, a word's borders counted as one each
_LONGEST = 64  # characters of a word that are looked at
_WORD = re.compile(r"\w+")
_PART_OF_WORD = zlib.crc32(b"#")  # where hashes of parts go on from, apart from those of words


def wording(text: str) -> Int[np.ndarray, " column"]:
    """The distinct columns that a text's words and parts of words fall into, rising."""
    found = set()
    for word in set(_WORD.findall(text.lower())):
        found.add(zlib.crc32(word.encode()) % COLUMNS)
        bounded = f"<{word[:_LONGEST]}>"
        for length in _PART_LENGTHS:
            for at in range(len(bounded) - length + 1):
                part = bounded[at : at + length]
                found.add(zlib.crc32(part.encode(), _PART_OF_WORD) % COLUMNS)
    columns = np.fromiter(found, dtype=np.int64, count=len(found))
    columns.sort()
    return columns


def wording_matrix(texts: Sequence[str]) -> "csr_array":
    """The texts as rows of unit length [text COLUMNS], for fitting."""
    from scipy.sparse import csr_array

    rows = [wording(text) for text in texts]
    ends = np.cumsum([0, *(len(row) for row in rows)])
    values = np.concatenate([np.full(len(row), unit(row)) for row in rows])
    return csr_array((values, np.concatenate(rows), ends), shape=(len(rows), COLUMNS))


def unit(columns: Int[np.ndarray, " column"]) -> float:
    """The value of each column in a row of unit length; 0 for a text without a word."""
    return 1 / math.sqrt(len(columns)) if len(columns) else 0.0
