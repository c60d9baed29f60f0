"""What a router learned from: what its labels stand for, and which prompts they came with."""

import hashlib
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from jaxtyping import Bool, UInt64

from adaptive_moe.router.evidence import RouterRow

Target = Literal["answers", "agreement"]

_DIGEST_BYTES = 8
_OUTER_MARKS = " .,:;!?¡¿\"'"


@dataclass(frozen=True, slots=True)
class FittedOn:
    """What a router's labels stand for, and which prompts they came with.

    With the target "answers" somebody knew the answers, and a label says whether the base's was
    right. With "agreement" nobody did: a label, 0 to 1, says how far `samples` answers drawn at
    temperature 1 agree with the base's own. That stands in for being right, and takes a repeated
    error for an answer (compare the semantic entropy of Kossen et al. 2024, whose probes carried
    over to other domains better than those of graded answers). Of `repeated` prompts another one
    was kept, `left_out` ones could not be asked. `prompts` and `sources` are rising digests: they
    recognise a prompt, and do not tell what it says.
    """

    target: Target
    samples: int
    repeated: int
    left_out: int
    prompts: UInt64[np.ndarray, " prompt"]
    sources: UInt64[np.ndarray, " source"]

    @classmethod
    def of(
        cls,
        rows: Sequence[RouterRow],
        *,
        target: Target = "answers",
        samples: int = 0,
        repeated: int = 0,
        left_out: int = 0,
    ) -> "FittedOn":
        """The record of these rows."""
        prompts = _digests([prompt_key(row.evidence.text) for row in rows])
        sources = _digests([row.source for row in rows])
        return cls(target, samples, repeated, left_out, np.unique(prompts), np.unique(sources))

    def joined(self, calibrated_on: "FittedOn") -> "FittedOn":
        """The record once other labels have calibrated it: theirs is what probabilities mean."""
        prompts = np.union1d(self.prompts, calibrated_on.prompts)
        sources = np.union1d(self.sources, calibrated_on.sources)
        return replace(self, target=calibrated_on.target, prompts=prompts, sources=sources)

    def holds(
        self, prompts: Sequence[str], sources: Sequence[str]
    ) -> Bool[np.ndarray, " question"]:
        """For each question whether it, or another one of its source, was learned from."""
        keys = [prompt_key(prompt) for prompt in prompts]
        found: np.ndarray = np.isin(_digests(keys), self.prompts)
        found |= np.isin(_digests(sources), self.sources)
        return found


def prompt_key(text: str) -> str:
    """What two prompts share that are one: case, white space and outer marks do not count."""
    folded = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    return folded.strip(_OUTER_MARKS) or folded


def _digests(texts: Sequence[str]) -> UInt64[np.ndarray, " text"]:
    return np.array([_digest(text) for text in texts], dtype=np.uint64)


def _digest(text: str) -> int:
    content = text.encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(content, digest_size=_DIGEST_BYTES).digest(), "big")
