"""Finds what must not be learned by heart: keys, tokens and passwords."""

import math
import re
from collections import Counter
from itertools import pairwise

_KNOWN_FORMS = {
    "a private key": r"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY(?: BLOCK)?-----",
    "a cloud access key": r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b",
    "a cloud API key": r"\bAIza[0-9A-Za-z_-]{35}",
    "a repository token": r"\b(?:gh[pousr]_[0-9A-Za-z]{36}|github_pat_\w{50,}|glpat-[\w-]{20,})",
    "a chat token": r"\bxox[abeprs]-[0-9A-Za-z-]{10,}",
    "a model service's key": r"\b(?:sk-(?:ant-|proj-)?[\w-]{32,}|hf_[A-Za-z]{30,})",
    "a payment key": r"\b[rs]k_live_[0-9A-Za-z]{16,}",
    "a registry token": r"\b(?:npm_[0-9A-Za-z]{36}|pypi-[\w-]{50,})",
    "a mail service's key": r"\bSG\.[\w-]{16,}\.[\w-]{16,}",
    "a signed web token": r"\beyJ[\w-]{8,}\.eyJ[\w-]{8,}\.[\w-]{8,}",
}
_FORMS = {name: re.compile(form) for name, form in _KNOWN_FORMS.items()}
_IN_ADDRESS = re.compile(r"\b[a-z][a-z0-9+.-]{1,20}://[^\s/:@]{1,100}:([^\s/@]{3,100})@")
_ASSIGNED = re.compile(
    r"(?:pass(?:word|wd|phrase)|secret|api[_-]?key|(?<=[?&])key|token)[\w-]{0,40}[\"']?"
    r"\s*([:=])\s*[\"']?([^\s\"',;&]{8,200})",
    re.IGNORECASE,
)
_LONG_TOKEN = re.compile(r"(?<![\w/.=&?-])[\w+-]{32,200}={0,2}(?![\w/.])")
_STANDS_FOR = re.compile(
    r"example|your|placeholder|changeme|dummy|pass(?:word|wd)?|secret|[<>{}\[\]()]|^\$|\*\*|x{4}"
    r"|\.\.\.",
    re.IGNORECASE,
)
_LONG = 20  # characters of a value that no prose has behind such a word
_FEWEST_BITS = 4.0  # a character; random letters and digits have 4.5 in 32, identifiers below 4
_FEWEST_CHANGES = 0.35  # of kind from one character to the next; random ones have 0.6


def secret_in(text: str) -> str | None:
    """What kind of secret the text holds, in words; None where none was found.

    Known forms, passwords inside addresses or after an equals sign, and long tokens of random
    letters and digits. What is a placeholder ({{password}}, EXAMPLE) is none, nor is a hash.
    """
    for name, form in _FORMS.items():
        if any(not _stands_for(match.group()) for match in form.finditer(text)):
            return name
    if any(not _stands_for(match.group(1)) for match in _IN_ADDRESS.finditer(text)):
        return "a password in an address"
    if any(_is_password(*match.groups()) for match in _ASSIGNED.finditer(text)):
        return "a password"
    if any(_is_random(match.group()) for match in _LONG_TOKEN.finditer(text)):
        return "a random token, as keys are"
    return None


def _stands_for(value: str) -> bool:
    return _STANDS_FOR.search(value) is not None


def _is_password(sign: str, value: str) -> bool:
    """Letters and digits mixed, as no word of prose and no name of a variable has them.

    Behind a colon, as in prose, other signs or capitals must be among them, unless it is long.
    """
    kinds = {_kind(each) for each in value}
    mixed = "digit" in kinds and bool(kinds & {"lower", "upper"})
    enough = sign == "=" or len(kinds) > 2 or len(value) >= _LONG  # noqa: PLR2004
    return mixed and enough and not _stands_for(value)


def _is_random(token: str) -> bool:
    kinds = [_kind(sign) for sign in token.rstrip("=")]
    if not {"lower", "upper", "digit"} <= set(kinds):
        return False
    changes = sum(one != next_one for one, next_one in pairwise(kinds))
    return changes >= _FEWEST_CHANGES * len(kinds) and _bits(token) >= _FEWEST_BITS


def _kind(sign: str) -> str:
    if sign.isdigit():
        return "digit"
    if sign.isalpha():
        return "upper" if sign.isupper() else "lower"
    return "mark"


def _bits(token: str) -> float:
    """Shannon entropy of the token's characters, in bits a character."""
    total = len(token)
    return -sum(n / total * math.log2(n / total) for n in Counter(token).values())
