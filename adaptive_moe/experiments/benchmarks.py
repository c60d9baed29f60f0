"""The benchmarks by name, and how they are run: conditions set, others watched, figures judged.

Nothing heavy is imported before one is run.
"""

import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

from adaptive_moe.errors import ConfigurationError
from adaptive_moe.experiments.figures import Figure, Findings
from adaptive_moe.experiments.plan import Plan, Tell, under


@dataclass(frozen=True, slots=True)
class Benchmark:
    """What it measures, in one line, and the function that does."""

    summary: str
    run: Callable[[Plan, Tell], Findings]


def _generate(plan: Plan, tell: Tell) -> Findings:
    from adaptive_moe.experiments import generate

    return generate.run(plan, tell)


def _parity(plan: Plan, tell: Tell) -> Findings:
    from adaptive_moe.experiments import parity

    return parity.run(plan, tell)


def _many_experts(plan: Plan, tell: Tell) -> Findings:
    from adaptive_moe.experiments import many_experts

    return many_experts.run(plan, tell)


def _memory(plan: Plan, tell: Tell) -> Findings:
    from adaptive_moe.experiments import memory

    return memory.run(plan, tell)


def _activation(plan: Plan, tell: Tell) -> Findings:
    from adaptive_moe.experiments import activation

    return activation.run(plan, tell)


def _confidence(plan: Plan, tell: Tell) -> Findings:
    from adaptive_moe.experiments import confidence

    return confidence.run(plan, tell)


def _polygraph(plan: Plan, tell: Tell) -> Findings:
    from adaptive_moe.experiments import against_polygraph

    return against_polygraph.run(plan, tell)


def _stated_risk(plan: Plan, tell: Tell) -> Findings:
    from adaptive_moe.experiments import stated_risk

    return stated_risk.run(plan, tell)


def _gap_streams(plan: Plan, tell: Tell) -> Findings:
    from adaptive_moe.experiments import gap_streams

    return gap_streams.run(plan, tell)


def _routed_world(plan: Plan, tell: Tell) -> Findings:
    from adaptive_moe.experiments import routed_world

    return routed_world.run(plan, tell)


def _foreign_world(plan: Plan, tell: Tell) -> Findings:
    from adaptive_moe.experiments import foreign_world

    return foreign_world.run(plan, tell)


def _shares(plan: Plan, tell: Tell) -> Findings:
    from adaptive_moe.experiments import shares

    return shares.run(plan, tell)


def _training_speed(plan: Plan, tell: Tell) -> Findings:
    from adaptive_moe.experiments import training_speed

    return training_speed.run(plan, tell)


def _trained_packs(plan: Plan, tell: Tell) -> Findings:
    from adaptive_moe.experiments import trained_packs

    return trained_packs.run(plan, tell)


def _upper_blocks(plan: Plan, tell: Tell) -> Findings:
    from adaptive_moe.experiments import upper_blocks

    return upper_blocks.run(plan, tell)


def _rank_budgets(plan: Plan, tell: Tell) -> Findings:
    from adaptive_moe.experiments import rank_budgets

    return rank_budgets.run(plan, tell)


def _packed_sweep(plan: Plan, tell: Tell) -> Findings:
    from adaptive_moe.experiments import packed_sweep

    return packed_sweep.run(plan, tell)


def _time_spent(plan: Plan, tell: Tell) -> Findings:
    from adaptive_moe.experiments import time_spent

    return time_spent.run(plan, tell)


BENCHMARKS: Mapping[str, Benchmark] = {
    "generate": Benchmark("what an answer costs over bare generate, beside PEFT's ways", _generate),
    "parity": Benchmark("the base's logits to the bit, PEFT's to rounding, any batch", _parity),
    "many-experts": Benchmark("to load an expert, and to choose among thousands", _many_experts),
    "memory": Benchmark("of a demo, of a chat, and of a quantised base", _memory),
    "time-spent": Benchmark("where an answer's time goes, and the floor under it", _time_spent),
    "activation": Benchmark("answer-activated against whole-prompt experts", _activation),
    "confidence": Benchmark("does the router know when the base is right?", _confidence),
    "polygraph": Benchmark("the router beside lm-polygraph, on the same answers", _polygraph),
    "stated-risk": Benchmark("whether a stated risk is honoured", _stated_risk),
    "gap-streams": Benchmark("planted gaps found, and false ones, in mixed traffic", _gap_streams),
    "routed-world": Benchmark("the whole system with four experts beside an oracle", _routed_world),
    "foreign-world": Benchmark("experts on a model and texts of others", _foreign_world),
    "shares": Benchmark("whether attribution adds up, and is Shapley's", _shares),
    "training-speed": Benchmark("our training steps beside Trainer and PEFT", _training_speed),
    "upper-blocks": Benchmark("experts in the upper half of the blocks", _upper_blocks),
    "trained-packs": Benchmark(
        "from documents to a live expert, and what it knows", _trained_packs
    ),
    "rank-budgets": Benchmark("whether ranks cost exactly what was planned", _rank_budgets),
    "packed-sweep": Benchmark("trainings side by side beside one after another", _packed_sweep),
}
RUNTIME = ("generate", "parity", "many-experts", "memory")
"""Those that fill the Runtime table."""
DECISIONS = (
    "confidence",
    "polygraph",
    "stated-risk",
    "gap-streams",
    "routed-world",
    "foreign-world",
    "shares",
)
"""Those that fill the Decisions table."""
TRAINING = ("training-speed", "upper-blocks", "trained-packs", "rank-budgets", "packed-sweep")
"""Those that fill the Training table."""


def conduct(names: Sequence[str], plan: Plan, tell: Tell) -> dict[str, object]:
    """Run benchmarks by name; see `conduct_all`. Raises ConfigurationError for an unknown one."""
    return conduct_all({name: find(name) for name in names}, plan, tell)


def conduct_all(benchmarks: Mapping[str, Benchmark], plan: Plan, tell: Tell) -> dict[str, object]:
    """Run benchmarks one after another: plan, machine, figures with verdicts, details, as JSON.

    Timings are judged only if others kept less than .3 processors busy meanwhile.
    Raises ConfigurationError for an unknown device before anything is measured.
    """
    from adaptive_moe.experiments.machine import (
        Bystanders,
        describe,
        is_contended,
        working_conditions,
    )
    from adaptive_moe.models.loading import choose_device

    device = choose_device(plan.device)
    plan = replace(plan, device=str(device))
    figures: list[tuple[str, Figure]] = []
    details: dict[str, object] = {}
    with working_conditions(plan.threads):
        before, machine, started = os.getloadavg()[0], describe(device), time.perf_counter()
        others = Bystanders()
        for name, benchmark in benchmarks.items():
            found = benchmark.run(plan, under(name, tell))
            figures += [(name, figure) for figure in found.figures]
            details[name] = found.details
        meanwhile, seconds = others.load(), time.perf_counter() - started
    load = {"before": round(before, 2), "of_others_meanwhile": meanwhile}
    contended = is_contended(load)
    result = {
        "plan": {**asdict(plan), "models": plan.bases, "rounds": plan.most_rounds},
        "machine": machine,
        "load": load,
        "contended": contended,
        "seconds": round(seconds, 1),
        "figures": [
            {"benchmark": name, **figure.to_dict(contended=contended)} for name, figure in figures
        ],
        "details": details,
    }
    return {key: _plain(value) for key, value in result.items()}


def find(name: str) -> Benchmark:
    """The benchmark of this name. Raises ConfigurationError listing what there is."""
    if name not in BENCHMARKS:
        raise ConfigurationError(
            f"there is no benchmark {name!r}; choose one of {', '.join(BENCHMARKS)}"
        )
    return BENCHMARKS[name]


def _plain(value: object) -> object:
    """JSON's own values: tuples as lists, numbers that are not finite as null."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
