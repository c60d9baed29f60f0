"""Makes text that we did not write ourselves harmless for a terminal.

Replies, prompts, file contents, names and error messages can carry escape sequences that move the
cursor, rewrite the title or the clipboard, or reorder what is read. rich passes them on, and reads
`[...]` as markup. Everything not written by us goes through `clean` or `safe` before it is shown.
"""

import re

from rich.markup import escape

_FORBIDDEN = re.compile(
    "["
    "\x00-\x08\x0b-\x1f\x7f"  # C0 without tab and newline, DEL
    "\x80-\x9f"  # C1
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\u206a-\u206f"  # reordering
    "\u00ad\u180e\u200b-\u200d\u2060-\u2065\ufeff\ufff9-\ufffb\U000e0000-\U000e007f"  # invisible
    "\u2028\u2029"  # line and paragraph separators
    "\ud800-\udfff"  # lone surrogates: they cannot be written as UTF-8
    "]"
)


def clean(text: str) -> str:
    """`text` without control, reordering and invisible characters; newline and tab stay.

    It works character by character, so a stream may be cleaned piece by piece, wherever it was
    cut: `clean(a) + clean(b) == clean(a + b)`. The visible rest of an escape sequence stays.
    """
    return _FORBIDDEN.sub("", text)


def clean_line(text: str) -> str:
    """`text` cleaned and on one line: newlines and tabs become single spaces."""
    return " ".join(clean(text).split())


def safe(text: str) -> str:
    """`text` cleaned, and escaped so that rich shows square brackets instead of obeying them.

    For whole strings that become markup; text that goes into a `rich.text.Text` needs `clean`.
    """
    return escape(clean(text))
