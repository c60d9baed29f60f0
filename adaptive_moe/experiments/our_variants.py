"""The parts of our runtime, and the whole of it, as variants to be timed beside bare generate."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from adaptive_moe.engine.runtime import AdaptiveMoE
from adaptive_moe.experiments.compiled_variants import compiled_comparisons
from adaptive_moe.experiments.interleaved import Comparison, Variant
from adaptive_moe.experiments.plan import POCKET, Plan
from adaptive_moe.experiments.workload import (
    FOUR,
    NAMES,
    NO_END_ID,
    ONE,
    answered,
    bank_with,
    one_each,
    prompts_of,
)
from adaptive_moe.experts.pool import Mixture
from adaptive_moe.experts.weights import LoraWeights
from adaptive_moe.integration.attribution import attribute
from adaptive_moe.models import decoding
from adaptive_moe.models.compiled import can_compile
from adaptive_moe.models.decoding import Completion, Prefill
from adaptive_moe.models.language_model import EncodedPrompt, LanguageModel
from adaptive_moe.models.token_trace import TokenTrace, TraceRecorder
from adaptive_moe.router.scores import answer_scores, prefill_scores_by_row, token_scores


class Ours:
    """What we do, on one model, with eight random experts in a bank and one in a store."""

    def __init__(
        self,
        language_model: LanguageModel,
        moe: AdaptiveMoE,
        plan: Plan,
        experts: dict[str, LoraWeights],
        *,
        title: str,
    ) -> None:
        self._language_model, self._moe, self._plan = language_model, moe, plan
        self._is_pocket = title == POCKET
        self._bank = bank_with(language_model, experts)

    def comparisons(self, batch: int, bare: Variant) -> list[Comparison]:
        """Everything of ours at one batch size, with the ratios to reach."""
        is_one = batch == 1
        base: list[Mixture] = [()] * batch
        one = self._decoding("one expert", [ONE] * batch)
        four = self._decoding("four experts mixed", [FOUR] * batch)
        idle = self._decoding("no expert", base)
        routed = self._routed("routed answer, base", batch, "auto")
        routed_one = self._routed("routed answer, one expert", batch, [NAMES[0]])
        idle_target = 1.05 if is_one and self._is_pocket else 1.02
        found = [
            Comparison("no_expert", idle, bare, idle_target),
            Comparison("one_expert", one, bare, 1.25 if is_one else 1.10),
            Comparison("four_mixed", four, bare, 1.30),
            self._scores(batch),
            Comparison("routed", routed, bare, 1.05),
            Comparison("routed", routed_one, bare, 1.30 if is_one else 1.15),
        ]
        if is_one:
            explained = self._attribution("attribution of one expert", ONE)
            found.append(Comparison("attribution", explained, one, 0.20))
            explained = self._attribution("attribution of four experts", FOUR)
            found.append(Comparison("attribution", explained, four, 1.0))
        else:
            eight = self._decoding("eight experts", one_each(batch))
            found.append(Comparison("eight_experts", eight, bare, 1.15))
        if self._plan.compiles and can_compile(self._language_model):
            found += compiled_comparisons(self._language_model, self._bank, self._plan, batch)
        return found

    def _decoding(self, name: str, rows: Sequence[Mixture]) -> Variant:
        prompts = self._prompts(len(rows))

        def run() -> int:
            return len(self._answer(prompts, rows)[1][0].token_ids)

        return Variant(name, len(rows), run)

    def _scores(self, batch: int) -> Comparison:
        """Every score of prompt and answer, against the same decoding with nothing recorded."""
        prompts = self._prompts(batch)
        rows: list[Mixture] = [()] * batch

        def scored() -> int:
            filled, completions = self._answer(prompts, rows)
            prefill_scores_by_row(filled.first_logits)
            for completion in completions:
                answer_scores(completion.trace)
                token_scores(completion.trace)
            return len(completions[0].token_ids)

        def unscored() -> int:
            with _nothing_recorded():
                completion = self._answer(prompts, rows)[1][0]
            assert not len(completion.trace), "decoding has another recorder by now"
            return len(completion.token_ids)

        with_them = Variant("all scores", batch, scored)
        return Comparison("scores", with_them, Variant("no scores", batch, unscored), 1.03)

    def _answer(
        self, prompts: Sequence[EncodedPrompt], rows: Sequence[Mixture]
    ) -> tuple[Prefill, tuple[Completion, ...]]:
        tokens = self._plan.new_tokens
        return answered(self._language_model, self._bank, prompts, rows, new_tokens=tokens)

    def _routed(self, name: str, batch: int, experts: str | list[str]) -> Variant:
        texts = [prompt.text for prompt in self._prompts(batch)]
        kind = "base" if experts == "auto" else "experts"

        def run() -> int:
            answers = self._moe.generate(
                texts,
                experts=experts,
                attribution=False,
                max_new_tokens=self._plan.new_tokens,
                eos_token_id=NO_END_ID,
            )
            assert isinstance(answers, list)
            assert all(answer.route.kind == kind for answer in answers)
            return answers[0].usage.completion_tokens

        return Variant(name, batch, run)

    def _attribution(self, name: str, mixture: Mixture) -> Variant:
        filled, completions = self._answer(self._prompts(1), [mixture])
        answer = completions[0].token_ids

        def run() -> int:
            found = attribute(self._language_model, self._bank, filled, answer, mixture)
            return len(found.shares)

        return Variant(name, 1, run)

    def _prompts(self, batch: int) -> list[EncodedPrompt]:
        return prompts_of(self._language_model, self._plan.prompt_tokens, batch)


class _BlankRecorder(TraceRecorder):
    """Records nothing: decoding as it would be if nobody asked how sure the model was."""

    def add(self, logits: object, tokens: object) -> None:
        """Look away."""

    def traces(self, lengths: Sequence[int]) -> tuple[TokenTrace, ...]:
        """An empty trace for every row."""
        return (TokenTrace.empty(),) * len(lengths)


@contextmanager
def _nothing_recorded() -> Iterator[None]:
    """Decoding without the recorder, which in the product has no switch, for the comparison."""
    setattr(decoding, "TraceRecorder", _BlankRecorder)  # noqa: B010 - a class, to mypy a constant
    try:
        yield
    finally:
        setattr(decoding, "TraceRecorder", TraceRecorder)  # noqa: B010
