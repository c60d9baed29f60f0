"""Does attribution add up, and is it Shapley's? Against plain passes and a loop over subsets."""

from collections.abc import Iterator, Sequence
from itertools import combinations
from math import factorial

import numpy as np
import torch
from jaxtyping import Float

from adaptive_moe.experiments import bases
from adaptive_moe.experiments.figures import Figure, Findings
from adaptive_moe.experiments.plan import POCKET, Plan, Tell
from adaptive_moe.experiments.workload import answered, bank_with, prompts_of, random_experts
from adaptive_moe.experts.bank import LoraBank
from adaptive_moe.experts.pool import Mixture
from adaptive_moe.experts.weights import LoraPair, LoraWeights
from adaptive_moe.integration.attribution import Attribution, attribute
from adaptive_moe.models.decoding import take_rows
from adaptive_moe.models.language_model import LanguageModel
from adaptive_moe.models.prefilling import Prefill, run_header

_PROMPTS = 8
_NEW_TOKENS = 24
_FOUR: Mixture = (("e0", 0.4), ("e1", 0.3), ("e2", 0.2), ("e3", 0.1))
_WITH_IDLE: Mixture = (("e0", 0.5), ("idle", 0.3), ("e1", 0.2))
_WITH_TWIN: Mixture = (("e0", 0.25), ("twin", 0.25), ("e1", 0.5))

_LogProbabilities = Float[np.ndarray, " time"]


def run(plan: Plan, tell: Tell) -> Findings:
    """Random experts on the pocket model, one that does nothing and one that is a copy."""
    tell("explaining answers")
    language_model = bases.load(POCKET, plan.device)
    drawn = random_experts(language_model, rank=plan.rank, seed=plan.seed)
    experts = {name: drawn[name] for name in ("e0", "e1", "e2", "e3")}
    experts |= {"idle": _idle(experts["e0"]), "twin": experts["e0"]}
    bank = bank_with(language_model, experts)
    try:
        rows = range(1 if plan.quick else _PROMPTS)
        four = [_Explained(language_model, bank, plan, _FOUR, row) for row in rows]
        idle = _Explained(language_model, bank, plan, _WITH_IDLE, 0).found
        twin = _Explained(language_model, bank, plan, _WITH_TWIN, 0).found
        return Findings(tuple(_told(four, idle, twin)), {})
    finally:
        bank.close()


class _Explained:
    """One answer of a mixture with its attribution, and what slower ways say of it."""

    def __init__(
        self,
        language_model: LanguageModel,
        bank: LoraBank,
        plan: Plan,
        mixture: Mixture,
        row: int,
    ) -> None:
        self._model, self._bank, self._mixture = language_model, bank, mixture
        prompts = prompts_of(language_model, plan.prompt_tokens, row + 1)[row:]
        filled, (completion,) = answered(
            language_model, bank, prompts, [mixture], new_tokens=_NEW_TOKENS
        )
        self._filled: Prefill = take_rows(filled, [0])
        self._ids = completion.token_ids
        self._recorded = completion.trace.log_probability.astype(np.float64)
        self.found: Attribution = attribute(language_model, bank, self._filled, self._ids, mixture)

    def unexplained(self) -> float:
        """The sum of shares, against what decoding recorded less a bare pass over the text."""
        total = self.found.shares.sum(axis=1)
        return float(np.abs(total - (self._recorded - self._bare())).max())

    def off_the_loop(self) -> float:
        """Shares against those from a loop that decodes under every subset."""
        count = len(self._mixture)
        values = {
            members: self._under(members)
            for size in range(count + 1)
            for members in combinations(range(count), size)
        }
        expected = np.stack([_shapley(player, count, values) for player in range(count)], axis=1)
        return float(np.abs(expected - self.found.shares).max())

    @torch.inference_mode()
    def _bare(self) -> _LogProbabilities:
        (prompt,) = self._filled.prompts
        before = [*prompt.prompt_ids, *prompt.header_ids]
        ids = torch.tensor([[*before, *self._ids]], device=self._model.device)
        logits = self._model.model(ids).logits[0, len(before) - 1 : -1]
        return _picked(logits, self._ids)

    @torch.inference_mode()
    def _under(self, members: Sequence[int]) -> _LogProbabilities:
        """Token by token with these gates alone."""
        with self._bank.activate([tuple(self._mixture[member] for member in members)]):
            cache, logits = run_header(self._model, self._filled)
            steps = [logits]
            for token in self._ids[:-1]:
                ids = torch.tensor([[token]], device=self._model.device)
                steps.append(self._model.model(ids, past_key_values=cache).logits[:, -1])
        return _picked(torch.cat(steps), self._ids)


def _told(four: Sequence[_Explained], idle: Attribution, twin: Attribution) -> Iterator[Figure]:
    place = _WITH_IDLE.index(("idle", 0.3))
    figures = (
        ("sum of four shares", max(each.unexplained() for each in four), 1e-4, "nats"),
        ("four shares, loop over subsets", max(each.off_the_loop() for each in four), 1e-5, "nats"),
        (
            "largest share of an expert with B = 0",
            float(np.abs(idle.shares[:, place]).max()),
            0.0,
            "nats",
        ),
        (
            "two identical experts, difference",
            float(np.abs(twin.shares[:, 0] - twin.shares[:, 1]).max()),
            0.0,
            "nats",
        ),
    )
    note = f"{len(four)} answers of {_NEW_TOKENS} tokens"
    for name, value, target, unit in figures:
        yield Figure(
            "shares", name, POCKET, value, unit=unit, target=target, is_timed=False, note=note
        )


def _shapley(
    player: int, count: int, values: dict[tuple[int, ...], _LogProbabilities]
) -> _LogProbabilities:
    """Shapley's sum over the subsets without the player."""
    share = np.zeros_like(values[()])
    others = [each for each in range(count) if each != player]
    for size in range(count):
        weight = factorial(size) * factorial(count - size - 1) / factorial(count)
        for members in combinations(others, size):
            joined = tuple(sorted((*members, player)))
            share += weight * (values[joined] - values[members])
    return share


def _picked(logits: torch.Tensor, ids: Sequence[int]) -> _LogProbabilities:
    found = logits.double().log_softmax(dim=-1).cpu().numpy()
    picked: np.ndarray = found[np.arange(len(ids)), list(ids)]
    return picked


def _idle(weights: LoraWeights) -> LoraWeights:
    return {name: LoraPair(pair.a, torch.zeros_like(pair.b)) for name, pair in weights.items()}
