"""Which scripts a text is written in, by the shares of its letters."""

import unicodedata
from collections import Counter
from collections.abc import Iterable
from functools import lru_cache

_ONE_SCRIPT = {"HIRAGANA": "CJK", "KATAKANA": "CJK", "FULLWIDTH": "LATIN"}
_FEWEST_LETTERS = 10  # a name or a formula is no language
_HOME_SHARE = 0.1  # of the texts; rarer scripts are not what the material is written in


def main_script(text: str) -> str | None:
    """The script of most of its letters; None where they are few, or no script has half."""
    if text.isascii():
        return "LATIN" if sum(map(str.isalpha, text)) >= _FEWEST_LETTERS else None
    shares: Counter[str] = Counter()
    for letter, count in Counter(filter(str.isalpha, text)).items():
        shares[_script(letter)] += count
    letters = shares.total()
    if letters < _FEWEST_LETTERS:
        return None
    script, count = shares.most_common(1)[0]
    return script if 2 * count >= letters else None


def home_scripts(texts: Iterable[str]) -> frozenset[str]:
    """The commonest script of the texts, and every other that a tenth of them is written in."""
    counts = Counter(script for text in texts if (script := main_script(text)) is not None)
    least = _HOME_SHARE * counts.total()
    common = [script for script, _ in counts.most_common(1)]
    return frozenset(common) | {script for script, count in counts.items() if count >= least}


@lru_cache(maxsize=4096)
def _script(letter: str) -> str:
    first = unicodedata.name(letter, "UNKNOWN").partition(" ")[0]
    return _ONE_SCRIPT.get(first, first)
