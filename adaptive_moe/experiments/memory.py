"""How much memory whole commands take, and whether a quantised base takes what we say it does."""

import multiprocessing
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import TypeVar

from adaptive_moe.errors import AdaptiveMoEError
from adaptive_moe.experiments import quantised_base
from adaptive_moe.experiments.figures import Figure, Findings, reason_of
from adaptive_moe.experiments.plan import POCKET, RANDOM_BILLION_NF4, Plan, Tell
from adaptive_moe.experiments.processes import peak_of_command, resident_of_chat

_GIB = 1 << 30
_TARGETS = {"linear_share": 0.29, "bank_error": 0.0, "total_error": 0.03}
_NAMES = {
    "linear_share": "linear layers, share of fp16",
    "bank_error": "bank, accounted against allocated",
    "total_error": "base and bank, accounted against taken",
}

Result = TypeVar("Result")


def run(plan: Plan, tell: Tell) -> Findings:
    """Demo and chat on the pocket model, and a billion parameters in nf4; quickly the chat only."""
    found: list[Figure] = []
    details: dict[str, object] = {}
    tell("a chat at rest")
    found.append(_process("chat at rest", 1.0, lambda: resident_of_chat(threads=plan.threads)))
    if not plan.quick:
        tell("a whole demo, about two minutes")
        found.append(
            _process("demo, peak", 1.5, lambda: peak_of_command(["demo"], threads=plan.threads))
        )
        tell("a billion parameters in nf4, about two minutes")
        found += _quantised(plan, details)
    return Findings(tuple(found), details)


def _process(name: str, target: float, measured: Callable[[], int]) -> Figure:
    try:
        size = measured() / _GIB
    except (AdaptiveMoEError, OSError) as error:
        return Figure.failed("process_memory", name, POCKET, reason_of(error))
    return Figure("process_memory", name, POCKET, size, unit="GiB", target=target, is_timed=False)


def _quantised(plan: Plan, details: dict[str, object]) -> Iterator[Figure]:
    try:
        with tempfile.TemporaryDirectory() as folder:
            _in_fresh_process(quantised_base.write_checkpoint, folder)
            found = _in_fresh_process(
                quantised_base.account, folder, device=plan.device, rank=plan.rank, seed=plan.seed
            )
    except (AdaptiveMoEError, OSError, MemoryError, RuntimeError) as error:
        yield Figure.failed("quantised_memory", "nf4", RANDOM_BILLION_NF4, reason_of(error))
        return
    details[RANDOM_BILLION_NF4] = found
    for key, name in _NAMES.items():
        yield Figure(
            "quantised_memory",
            name,
            RANDOM_BILLION_NF4,
            found[key],
            target=_TARGETS[key],
            is_timed=False,
        )


def _in_fresh_process(work: Callable[..., Result], *arguments: object, **options: object) -> Result:
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as pool:
        return pool.submit(work, *arguments, **options).result()
