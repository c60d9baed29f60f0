"""Our decoding through torch.compile, beside bare `generate` through torch.compile."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from transformers.generation.configuration_utils import CompileConfig

from adaptive_moe.experiments.interleaved import Comparison, Variant
from adaptive_moe.experiments.plan import Plan
from adaptive_moe.experiments.workload import (
    FOUR,
    ONE,
    answered,
    generated,
    one_each,
    prompts_of,
    token_ids,
)
from adaptive_moe.experts.bank import LoraBank
from adaptive_moe.experts.pool import Mixture
from adaptive_moe.models.compiled import CompiledSteps
from adaptive_moe.models.language_model import LanguageModel

_NOTE = "both through torch.compile with a static cache; compiled before the first round"


def compiled_comparisons(
    language_model: LanguageModel, bank: LoraBank, plan: Plan, batch: int
) -> list[Comparison]:
    """The base, one expert, four mixed and one per row, all against compiled bare generate."""
    steps = CompiledSteps(language_model)
    prompts = prompts_of(language_model, plan.prompt_tokens, batch)
    ids = token_ids(language_model, prompts)
    on_any_device: Any = CompileConfig()
    on_any_device._compile_all_devices = True  # else `generate` compiles on CUDA only
    generate = partial(
        generated,
        language_model.model,
        ids,
        plan.new_tokens,
        pad_id=language_model.pad_id,
        cache_implementation="static",
        compile_config=on_any_device,
    )
    bare = Variant("bare, compiled", batch, generate)

    def run(rows: Sequence[Mixture]) -> int:
        _, completions = answered(
            language_model, bank, prompts, rows, new_tokens=plan.new_tokens, compiled=steps
        )
        return len(completions[0].token_ids)

    ways: Mapping[str, tuple[str, Sequence[Mixture]]] = {
        "no_expert": ("no expert, compiled", [()] * batch),
        "one_expert": ("one expert, compiled", [ONE] * batch),
        "four_mixed": ("four experts mixed, compiled", [FOUR] * batch),
    }
    if batch > 1:
        ways = {**ways, "eight_experts": ("eight experts, compiled", one_each(batch))}
    return [
        Comparison(row, Variant(name, batch, partial(run, rows)), bare, note=_NOTE)
        for row, (name, rows) in ways.items()
    ]
