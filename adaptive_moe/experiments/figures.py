"""One measured figure beside what it has to reach, and the rows of the table it belongs to."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Literal

LEAST_ROUNDS = 10
NARROW = 0.01
"""A median is as good as exact when its interval reaches no further on either side."""

Verdict = Literal["met", "missed", "undecided", "failed", "contended", "too few rounds", ""]


@dataclass(frozen=True, slots=True)
class Row:
    """A row of a table: what is measured, and what has to be reached."""

    what: str
    reach: str


RUNTIME_ROWS: Mapping[str, Row] = {
    "base_logits": Row(
        "base logits with the runtime attached and no expert active", "bit-identical"
    ),
    "peft_logits": Row(
        "logits against plain PEFT (aLoRA / LoRA)",
        "float64 <= 1e-10; fp32 <= 2e-6 x max abs logit (mixtures 4e-6 x), no further from "
        "float64 than 2 x PEFT; greedy tokens equal where the top-2 margin exceeds 1e-3",
    ),
    "no_expert": Row(
        "generate, runtime attached, no expert", "<= 1.02 x bare (batch 1 on pocket <= 1.05)"
    ),
    "one_expert": Row("one expert, batch 8 / batch 1", "<= 1.10 / 1.25 x bare"),
    "eight_experts": Row("8 experts in a batch of 8", "<= 1.15 x bare"),
    "four_mixed": Row("4 experts mixed in every row", "<= 1.30 x bare"),
    "scores": Row("all single-pass scores together", "<= 1.03 x decoding without them"),
    "routed": Row(
        "whole routed answer: by the base / by one expert at batch 8 / at batch 1",
        "<= 1.05 / 1.15 / 1.30 x bare",
    ),
    "loading": Row("expert from RAM into the bank; same with 1,000 experts known", "<= 1 ms; flat"),
    "choosing": Row("choosing among 1,000 / 10,000 experts", "<= 1 / 5 ms"),
    "process_memory": Row(
        "memory: demo, peak of the process / chat on pocket at rest", "<= 1.5 / 1.0 GiB"
    ),
    "quantised_memory": Row(
        "memory of a quantised base (>= 1 B)",
        "linear layers <= .29 x their fp16 bytes; bank accounted = allocated; total within 3 %",
    ),
    "attribution": Row(
        "attribution of one expert / four, against the generate it explains", "<= .20 / 1.0 x"
    ),
    "batches": Row(
        "any batch size, any padding: scores and greedy tokens",
        "equal to 1e-4; identical where the top-2 margin exceeds 1e-3 (bf16: agreement)",
    ),
}
"""The Runtime table, in its order."""

DECISION_ROWS: Mapping[str, Row] = {
    "answer_right": Row(
        "after decoding: is this answer right? on facts seen 1, 4 or 16 times, and on all",
        "accuracy > .90, AUROC >= .95 on the former",
    ),
    "will_be_right": Row("before decoding: will the base answer right?", "AUROC >= .90"),
    "against_polygraph": Row(
        "1 - AUROC after decoding, over that of lm-polygraph's best single-pass estimator",
        "<= .70, its interval below 1 (from an AUROC of .99 on the peer is saturated)",
    ),
    "left_out": Row(
        "a domain that the router never saw: AUROC less that of mean entropy", ">= -.01"
    ),
    "polygraph_scores": Row(
        "msp, perplexity, mean entropy and self-certainty of the same answers as lm-polygraph's",
        "<= 1e-5 apart",
    ),
    "calibration": Row(
        "ECE after calibration on 200 labels, in domain / in a left-out domain", "<= .05 / .10"
    ),
    "stated_risk": Row(
        "a stated risk of .1, .2, .3 (delta .1) over 200 draws of 400 labels",
        "honoured in >= 90 % of the certified draws; certified at .2 and .3 in >= 95 %; coverage "
        ">= .75 of the oracle threshold's",
    ),
    "domain": Row("the domain of a prompt", "right in >= .95"),
    "gaps": Row(
        "planted gaps found within 20 distinct prompts / false gaps per 1,000 known prompts",
        ">= .9 / <= 1",
    ),
    "routed_world": Row(
        "right answers of the routed system on a mixed test set, over those of an oracle that "
        "always picks the right expert",
        ">= .95",
    ),
    "shares": Row(
        "attribution: the sum of shares against what decoding recorded and a bare pass / shares "
        "against a loop over subsets / an expert with B = 0 / two identical experts",
        "<= 1e-4 / <= 1e-5 / exactly 0 / equal",
    ),
}
"""The Decisions table, in its order."""

TRAINING_ROWS: Mapping[str, Row] = {
    "identical_maths": Row(
        "whole-prompt training against Trainer and PEFT, the same steps to rounding",
        "losses <= 1e-6 apart; <= .625 x its seconds (1.6 times as fast)",
    ),
    "cached_prompts": Row(
        "answer-activated training with cached prompts against Trainer and PEFT's aLoRA, four "
        "prompt tokens to one of the answer",
        "losses <= 1e-6 apart; <= .40 x its seconds (2.5 times as fast)",
    ),
    "upper_blocks": Row(
        "experts of twice the rank in the upper half of the blocks, cached prompts, against "
        "Trainer and PEFT's aLoRA in all of them; their quality beside that of ours in all",
        "<= .333 x its seconds (3 times as fast) at equal quality",
    ),
    "pack_seconds": Row(
        "a knowledge pack of about 100 facts: from its documents to a live, gated expert", "<= 60 s"
    ),
    "pack_answers": Row(
        "blind questions about it answered exactly, before / after", "<= .05 / >= .95"
    ),
    "guard": Row("the rest: questions known before and lost, routed, upper 95 % limit", "<= .01"),
    "forgetting": Row(
        "forgetting: what the base says unprompted, by how much less likely as routed", "no limit"
    ),
    "packed_sweep": Row(
        "five ranks on three seeds as one job on a GPU, against as many runs of Trainer and PEFT",
        "losses <= 1e-6 apart; <= .333 x their seconds (3 times as fast)",
    ),
    "budgets": Row(
        "the parameters of every strategy against its plan, read back; every one finishes finite",
        "equal",
    ),
    "dry_run": Row("what `train --dry-run` foretells", "seconds within 25 %, memory within 20 %"),
}
"""The Training table, in its order."""

ROWS: Mapping[str, Row] = {**RUNTIME_ROWS, **DECISION_ROWS, **TRAINING_ROWS}


@dataclass(frozen=True, slots=True)
class Figure:
    """What was measured, in which unit, and the value that is just good enough.

    `target` is the largest such value, with `at_least` the smallest. `row` is a key of ROWS;
    `name` says which case of it or which peer this is; without `value` it could not be measured,
    and `note` says why. `low` and `high` bound the 95 % interval, `rounds` is the number of
    repetitions of a timing. A figure that is no timing holds on a busy machine as well, and is
    judged by its value alone.
    """

    row: str
    name: str
    model: str
    value: float | None
    unit: str = ""
    batch: int | None = None
    low: float | None = None
    high: float | None = None
    rounds: int | None = None
    target: float | None = None
    at_least: bool = False
    is_timed: bool = True
    is_peer: bool = False
    note: str = ""

    def verdict(self, *, contended: bool) -> Verdict:
        """Met or missed, or why neither can be said; nothing where nothing was to be reached."""
        if self.value is None:
            return "failed"
        if self.target is None:
            return ""
        if self.is_timed and contended:
            return "contended"
        if self.is_timed and self.rounds is not None and self.rounds < LEAST_ROUNDS:
            return "too few rounds"
        if self.is_timed and self._is_open:
            return "undecided"
        is_enough = self.value >= self.target if self.at_least else self.value <= self.target
        return "met" if is_enough else "missed"

    @property
    def _is_open(self) -> bool:
        """Whether the target lies within an interval that is not narrow."""
        if self.value is None or self.target is None or self.low is None or self.high is None:
            return False
        is_narrow = max(self.high - self.value, self.value - self.low) <= NARROW
        return not is_narrow and self.low <= self.target < self.high

    def to_dict(self, *, contended: bool) -> dict[str, object]:
        """The figure and its verdict as JSON values."""
        return {**asdict(self), "verdict": self.verdict(contended=contended)}

    @classmethod
    def failed(
        cls,
        row: str,
        name: str,
        model: str,
        reason: str,
        *,
        batch: int | None = None,
        is_peer: bool = False,
    ) -> "Figure":
        """A figure that could not be measured, with the reason."""
        return cls(row, name, model, None, batch=batch, is_peer=is_peer, note=reason)


@dataclass(frozen=True, slots=True)
class Findings:
    """What one benchmark brings home: figures for the table, and details as JSON values."""

    figures: tuple[Figure, ...]
    details: Mapping[str, object]


def reason_of(error: BaseException) -> str:
    """The first line of an error, with its kind, short enough for a table."""
    first = (str(error).strip().splitlines() or [""])[0][:160]
    return f"{type(error).__name__}: {first}" if first else type(error).__name__
