"""How far our logits and greedy tokens are from plain PEFT's with the same adapters.

In float64 both must agree to rounding; in float32 ours may be no further from that truth than
twice what PEFT is.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from adaptive_moe.experiments import peers
from adaptive_moe.experiments.bases import in_float64
from adaptive_moe.experiments.figures import Figure
from adaptive_moe.experiments.plan import Plan
from adaptive_moe.experiments.workload import (
    FOUR,
    NAMES,
    ONE,
    bank_with,
    full_length,
    one_each,
    prompts_of,
    random_experts,
    token_ids,
)
from adaptive_moe.experts.pool import Mixture
from adaptive_moe.experts.weights import LoraWeights
from adaptive_moe.models.decoding import decode, fork, prefill, prefill_whole, run_header
from adaptive_moe.models.language_model import LanguageModel

LEAST_MARGIN = 1e-3  # of the two largest logits; below it rounding may choose

_FROM_HEADER = "one expert from the header on (aLoRA)"
_MIXED = "four experts mixed"
_SINGLE_TOLERANCE, _MIXED_TOLERANCE = 2e-6, 4e-6  # x the largest logit
_ANSWER_TOKENS = 16  # read after the header where logits are compared


def figures(language_model: LanguageModel, plan: Plan, *, title: str) -> Iterator[Figure]:
    """The comparison on a float32 model, in float64 and in float32."""
    experts = random_experts(language_model, rank=plan.rank, seed=plan.seed)
    single = _World(language_model, experts, plan)
    double = _World(in_float64(language_model), experts, plan)
    exact = {name: double.theirs(name) for name in single.modes}
    apart = [_farthest(double.ours(name), truth) for name, truth in exact.items()]
    moved = min(_farthest(double.bare(name), truth) for name, truth in exact.items())
    note = f"the experts themselves move logits by {moved:.2g} and more"
    yield _figure("float64, largest difference", title, max(apart), 1e-10, note=note)
    ratios = []
    for name, truth in exact.items():
        ours, theirs = single.ours(name), single.theirs(name)
        limit = _MIXED_TOLERANCE if name == _MIXED else _SINGLE_TOLERANCE
        relative = _farthest(ours, theirs) / float(theirs.abs().max())
        yield _figure(f"float32, {name}", title, relative, limit, unit="x max abs logit")
        ratios.append(float((ours - truth).norm() / (theirs - truth).norm()))
    yield _figure("distance from float64", title, max(ratios), 2.0, unit="x PEFT's")
    differing, compared = 0, 0
    for name in single.modes:
        counts = single.differing_tokens(name)
        differing, compared = differing + counts[0], compared + counts[1]
    yield _figure(
        "greedy tokens that differ", title, differing, 0, unit=f"of {compared}, margin > 1e-3"
    )


@dataclass(frozen=True, slots=True)
class _Mode:
    """What is active in every row, with us and in PEFT."""

    rows: Sequence[Mixture]
    adapters: Sequence[str]


class _World:
    """One base in one precision, with the same experts in our bank and in PEFT."""

    def __init__(
        self, language_model: LanguageModel, experts: dict[str, LoraWeights], plan: Plan
    ) -> None:
        batch = max(plan.batches)
        self._language_model, self._new_tokens = language_model, plan.new_tokens
        self._bank = bank_with(language_model, experts)
        self._peft = peers.in_peft(peers.twin(language_model.model), experts)
        mixture = peers.add_mixture(self._peft, dict(FOUR))
        self._alora = peers.in_peft(
            peers.twin(language_model.model),
            {NAMES[0]: experts[NAMES[0]]},
            header_ids=language_model.header_ids,
        )
        self._prompts = prompts_of(language_model, plan.prompt_tokens, batch)
        several = [NAMES[row % len(NAMES)] for row in range(batch)]
        self.modes = {
            "one expert": _Mode([ONE] * batch, [NAMES[0]] * batch),
            "an expert per row": _Mode(one_each(batch), several),
            _MIXED: _Mode([FOUR] * batch, [mixture] * batch),
            _FROM_HEADER: _Mode([ONE] * batch, ()),
        }

    @torch.inference_mode()
    def ours(self, mode: str) -> torch.Tensor:
        """Our logits for every token, or, from the header on, for those that it acts on."""
        model = self._language_model.model
        if mode == _FROM_HEADER:
            cache = fork(prefill(self._language_model, self._prompts).cache)
            with self._bank.activate(self.modes[mode].rows):
                found = model(self._ids[:, cache.get_seq_length() :], past_key_values=cache)
        else:
            with self._bank.activate(self.modes[mode].rows):
                found = model(self._ids)
        return _wide(found)

    @torch.inference_mode()
    def bare(self, mode: str) -> torch.Tensor:
        """The base's logits for those tokens."""
        logits = _wide(self._language_model.model(self._ids))
        return logits[:, self._read_before(mode) :]

    @torch.inference_mode()
    def theirs(self, mode: str) -> torch.Tensor:
        """PEFT's logits for the same tokens."""
        if mode == _FROM_HEADER:
            return _wide(self._alora(input_ids=self._ids))[:, self._read_before(mode) :]
        return _wide(self._peft(input_ids=self._ids, adapter_names=self.modes[mode].adapters))

    @torch.inference_mode()
    def differing_tokens(self, mode: str) -> tuple[int, int]:
        """Rows whose greedy answer leaves PEFT's where that was clear, and tokens compared.

        A row is followed to its first difference: what comes after answers another text.
        """
        ours = self._greedy(mode)
        ids = token_ids(self._language_model, self._prompts)
        model = self._alora if mode == _FROM_HEADER else self._peft
        names = {} if mode == _FROM_HEADER else {"adapter_names": self.modes[mode].adapters}
        theirs = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            generation_config=full_length(self._new_tokens, pad_id=self._language_model.pad_id),
            output_logits=True,
            return_dict_in_generate=True,
            **names,
        )
        steps = torch.stack(theirs.logits, dim=1)
        best = steps.topk(2, dim=-1).values
        return count_differing(
            ours,
            theirs.sequences[:, ids.shape[1] :].tolist(),
            (best[..., 0] - best[..., 1]).tolist(),
        )

    def _greedy(self, mode: str) -> list[tuple[int, ...]]:
        language_model = self._language_model
        filled = prefill(language_model, self._prompts)
        with self._bank.activate(self.modes[mode].rows):
            if mode == _FROM_HEADER:
                cache, logits = run_header(language_model, filled)
            else:
                cache, _, logits = prefill_whole(language_model, self._prompts)
            *_, last = decode(
                language_model,
                cache,
                logits,
                attention_mask=filled.attention_mask,
                prompts=self._prompts,
                generation=full_length(self._new_tokens),
            )
        assert last.completions is not None
        return [completion.token_ids for completion in last.completions]

    def _read_before(self, mode: str) -> int:
        """How many tokens no expert acts on."""
        return len(self._prompts[0].prompt_ids) if mode == _FROM_HEADER else 0

    @property
    def _ids(self) -> torch.Tensor:
        """The prompts with their headers, and some answer tokens behind them."""
        ids = token_ids(self._language_model, self._prompts)
        return torch.cat([ids, ids[:, 1 : 1 + _ANSWER_TOKENS]], dim=1)


def count_differing(
    ours: Sequence[Sequence[int]],
    theirs: Sequence[Sequence[int]],
    margins: Sequence[Sequence[float]],
) -> tuple[int, int]:
    """Rows of answers that part where the margin was clear, and the tokens compared till then."""
    differing = compared = 0
    for own, other, clear_by in zip(ours, theirs, margins, strict=True):
        for left, right, margin in zip(own, other, clear_by, strict=True):
            compared += 1
            if left != right:
                differing += margin > LEAST_MARGIN
                break
    return differing, compared


def _figure(
    name: str, title: str, value: float, target: float, *, unit: str = "", note: str = ""
) -> Figure:
    return Figure(
        "peft_logits", name, title, value, unit=unit, target=target, is_timed=False, note=note
    )


def _wide(output: Any) -> torch.Tensor:  # noqa: ANN401 - transformers' output
    logits: torch.Tensor = output.logits
    return logits.double()


def _farthest(left: torch.Tensor, right: torch.Tensor) -> float:
    return float((left - right).abs().max())
