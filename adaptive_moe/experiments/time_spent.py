"""Where the time of an answer goes, and what no way of decoding could do without.

torch's profiler gives the time inside of operations, by kind. What it leaves of the seconds
without a profiler is the interpreter's: Python, dispatch, bookkeeping. The floor is measured: the
matrix products of the base alone, with the shapes of the same answer, on tensors that lie ready.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from torch.nn.functional import linear
from torch.profiler import ProfilerActivity, profile

from adaptive_moe.experiments import bases
from adaptive_moe.experiments.figures import Findings
from adaptive_moe.experiments.interleaved import stopwatch
from adaptive_moe.experiments.plan import Plan, Tell
from adaptive_moe.experiments.workload import (
    FOUR,
    NAMES,
    ONE,
    answered,
    bank_with,
    generated,
    one_each,
    prompts_of,
    random_experts,
    token_ids,
)
from adaptive_moe.experts.bank import LoraBank
from adaptive_moe.experts.pool import Mixture
from adaptive_moe.models.language_model import EncodedPrompt, LanguageModel

_REPEATS = 7
# The first kind whose mark is part of an operation's name takes it.
_KINDS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("attention", ("scaled_dot_product", "_flash", "_efficient")),
    ("matrix products", ("mm", "linear", "matmul", "gemm", "mkldnn")),
    ("moving", ("copy_", "cat", "clone", "index", "gather", "to_copy", "fill_", "slice_scatter")),
)
_REST = "elementwise and sums"


def run(plan: Plan, tell: Tell) -> Findings:
    """The times of several ways to answer, on all models of the plan; nothing to be reached."""
    details: dict[str, object] = {}
    for title in plan.bases:
        tell(f"{title}: loading")
        language_model = bases.load(title, plan.device)
        experts = random_experts(language_model, rank=plan.rank, seed=plan.seed)
        bank = bank_with(language_model, experts)
        details[title] = {
            str(batch): _at_batch(language_model, bank, plan, batch, tell=tell)
            for batch in plan.batches
        }
        bank.close()
    return Findings((), details)


def _at_batch(
    language_model: LanguageModel, bank: LoraBank, plan: Plan, batch: int, *, tell: Tell
) -> dict[str, object]:
    prompts = prompts_of(language_model, plan.prompt_tokens, batch)
    ways: dict[str, Callable[[], object]] = {
        "bare generate": partial(_bare, language_model, prompts, plan.new_tokens)
    }
    rows: Mapping[str, Sequence[Mixture]] = {
        "no expert": [()] * batch,
        "one expert": [ONE] * batch,
        "four experts mixed": [FOUR] * batch,
    }
    if batch > 1:
        rows = {**rows, f"{min(batch, len(NAMES))} experts": one_each(batch)}
    for name, mixtures in rows.items():
        ways[name] = partial(
            answered, language_model, bank, prompts, mixtures, new_tokens=plan.new_tokens
        )
    found: dict[str, object] = {}
    for name, work in ways.items():
        tell(f"batch {batch}: {name}")
        found[name] = _spent(work, language_model, plan.new_tokens)
    return {"ways": found, "floor": _floor(language_model, plan, prompts)}


def _bare(language_model: LanguageModel, prompts: Sequence[EncodedPrompt], new_tokens: int) -> None:
    ids = token_ids(language_model, prompts)
    generated(language_model.model, ids, new_tokens, pad_id=language_model.pad_id)


def _spent(
    work: Callable[[], object], language_model: LanguageModel, tokens: int
) -> dict[str, object]:
    """Milliseconds per new token by kind, and the number of operations it launches."""
    work()
    seconds = _best(work, language_model.device)
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        work()
    kinds: dict[str, float] = defaultdict(float)
    launches = 0
    for event in profiler.key_averages():
        if event.key.startswith("aten::"):
            kinds[_kind(event.key)] += event.self_cpu_time_total / 1e6
            launches += event.count if _is_work(event.key) else 0
    threads = torch.get_num_threads() if language_model.device.type == "cpu" else 1
    inside = sum(kinds.values())
    return {
        "milliseconds_per_token": 1e3 * seconds / tokens,
        "share": {name: part / max(inside, seconds) for name, part in sorted(kinds.items())},
        "interpreter_share": max(0.0, 1 - inside / seconds),
        "operations_per_token": launches / tokens,
        "threads": threads,
    }


def _floor(
    language_model: LanguageModel, plan: Plan, prompts: Sequence[EncodedPrompt]
) -> dict[str, object]:
    """The products of the base with its dense layers, for one prefill and every new token."""
    weights = [
        module.weight
        for module in language_model.model.modules()
        if isinstance(module, torch.nn.Linear) and module.weight.is_floating_point()
    ]
    batch = len(prompts)

    def inputs(tokens: int) -> list[torch.Tensor]:
        widths = {weight.shape[1] for weight in weights}
        drawn = {
            width: torch.randn(tokens, width, dtype=weights[0].dtype, device=weights[0].device)
            for width in widths
        }
        return [drawn[weight.shape[1]] for weight in weights]

    @torch.inference_mode()
    def products(states: Sequence[torch.Tensor], times: int) -> None:
        for _ in range(times):
            for state, weight in zip(states, weights, strict=True):
                linear(state, weight)

    step, prefill = inputs(batch), inputs(batch * prompts[0].length)

    def answer() -> None:
        products(prefill, 1)
        products(step, plan.new_tokens - 1)

    answer()
    seconds = _best(answer, language_model.device)
    parameters = sum(weight.numel() for weight in weights)
    tokens = batch * (prompts[0].length + plan.new_tokens - 1)
    layers = language_model.layers
    low_rank = plan.rank * sum(layer.cost for layer in layers)
    dense = sum(layer.in_features * layer.out_features for layer in layers)
    return {
        "milliseconds_per_token": 1e3 * seconds / plan.new_tokens,
        "gigaflops": 2 * parameters * tokens / 1e9,
        "gigaflops_per_second": 2 * parameters * tokens / seconds / 1e9,
        "weight_megabytes_per_step": parameters * weights[0].element_size() / 1e6,
        "low_rank_over_dense": low_rank / dense,
    }


def _best(work: Callable[[], object], device: torch.device) -> float:
    """The least of several runs' seconds, as the clock of the benchmarks counts them."""
    clock = stopwatch(device)

    def once() -> int:
        work()
        return 0

    return min(clock(once) for _ in range(_REPEATS))


def _kind(name: str) -> str:
    return next((kind for kind, marks in _KINDS if any(mark in name for mark in marks)), _REST)


def _is_work(name: str) -> bool:
    """Whether an operation computes something, rather than looking at memory another way."""
    views = ("view", "slice", "select", "transpose", "expand", "unsqueeze", "as_strided", "detach")
    return not any(mark in name for mark in views)
