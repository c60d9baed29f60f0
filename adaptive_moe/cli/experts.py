"""`experts`: what the store holds, whether it is sound, and what may serve."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from adaptive_moe.cli.command import command
from adaptive_moe.cli.group import group
from adaptive_moe.cli.options import ExpertArgument
from adaptive_moe.cli.safe_text import clean_line
from adaptive_moe.cli.stored import open_store
from adaptive_moe.cli.tables import expert_parts, experts_table, facts_table, record_values
from adaptive_moe.cli.terminal import Terminal
from adaptive_moe.errors import ConfigurationError, CorruptExpertError

if TYPE_CHECKING:
    from adaptive_moe.engine.merging import MergeChoices
    from adaptive_moe.experts.store import ExpertRecord, Store

app = group("The experts of the store: list, inspect, verify, move, remove, roll back.")

VersionOption = Annotated[
    int | None, typer.Option("--version", metavar="N", help="A version other than the active one.")
]


@command(app, "list", "store")
def list_experts(
    terminal: Terminal,
    everything: Annotated[
        bool, typer.Option("--all", help="Also older, rejected, quarantined, removed versions.")
    ] = False,
) -> int:
    """List the experts."""
    with open_store(terminal.settings) as store:
        records = store.list() if everything else store.active()
        serving = {record.expert_id for record in store.active()}
        root, is_there = str(store.root), store.exists
    values = [record_values(record, serving=record.expert_id in serving) for record in records]
    why = f"No experts in {root}" if is_there else f"There is no expert store in {root} yet"
    empty = f"{why}. Train one: adaptive-moe train NAME --data PATH"
    parts = (experts_table(records, serving),) if records else (empty,)
    terminal.finish({"store": root, "experts": values}, *parts)
    return 0


@command(app, "show", "store")
def show(terminal: Terminal, name: ExpertArgument, version: VersionOption = None) -> int:
    """Show one expert.

    What it knows, its ranks, its data and the gate's figures.
    """
    from dataclasses import asdict

    from adaptive_moe.cli.training_view import stage_facts
    from adaptive_moe.training.stages import read_stages

    with open_store(terminal.settings) as store:
        record = _find(store, name, version)
    stages = read_stages(record.folder)
    values = record_values(record) | {
        "manifest": record.manifest.model_dump(mode="json"),
        "material": [asdict(stage) for stage in stages],
    }
    parts = expert_parts(record)
    dropped = stage_facts(stages)
    terminal.finish(values, *parts, *((facts_table(dropped),) if dropped else ()))
    return 0


@command(app, "verify", "store")
def verify(
    terminal: Terminal,
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="One expert; absent: all of them.")
    ] = None,
) -> int:
    """Compare every byte with what was published.

    A corrupt expert goes to quarantine.
    """
    with open_store(terminal.settings) as store:
        known = store.list() if name is None else store.versions(name)
        chosen = [record for record in known if record.status != "removed"]
        found = {record.expert_id: _verify(store, record) for record in chosen}
    results = [
        {
            "name": record.name,
            "version": record.version,
            "expert_id": record.expert_id,
            "sound": not found[record.expert_id],
            "problem": found[record.expert_id],
        }
        for record in chosen
    ]
    is_sound = not any(found.values())
    told = [f"{item['name']} v{item['version']}: {item['problem'] or 'sound'}" for item in results]
    terminal.finish(
        {"sound": is_sound, "experts": results}, *(told or ("There is nothing to verify.",))
    )
    return 0 if is_sound else 1


@command(app, "evaluate", "base", "store", "seed")
def evaluate(
    terminal: Terminal,
    name: ExpertArgument,
    data: Annotated[
        list[Path],
        typer.Option(
            "--data", metavar="FILE", help="Questions with answers, as train reads; repeatable."
        ),
    ],
    version: VersionOption = None,
    against: Annotated[
        list[str] | None,
        typer.Option("--against", metavar="NAME", help="Other experts; absent: up to eight."),
    ] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, metavar="N", help="Ask at most N questions.")
    ] = None,
) -> int:
    """Measure an expert on questions with known answers.

    Beside it the base and other experts answer the same. Rows may hold choices and answer_idx. A
    version that does not serve can be looked at before `experts activate`.
    """
    from adaptive_moe.cli.engine import open_engine
    from adaptive_moe.cli.evaluation_view import evaluation_parts

    with open_engine(terminal) as moe, terminal.working("asking the questions"):
        found = moe.evaluate_expert(name, data, version=version, against=against, limit=limit)
    terminal.finish(found.to_dict(), *evaluation_parts(found))
    return 0


@command(app, "import", "base", "store", "force_uncalibrated")
def import_expert(
    terminal: Terminal,
    name: Annotated[str, typer.Argument(metavar="NAME", help="What to call it here.")],
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A PEFT adapter's folder.")],
    force: Annotated[
        bool, typer.Option("--force", help="Take it though its base is unknown or named otherwise.")
    ] = False,
) -> int:
    """Take in a PEFT adapter, quarantined.

    It serves after `experts activate`.
    """
    from adaptive_moe.cli.engine import open_engine

    with open_engine(terminal) as moe:
        record = moe.import_expert(name, path, force=force)
    told = (
        f"{record.name} v{record.version} is in {record.status}; try it, then let it serve: "
        f"adaptive-moe experts activate {record.name} --version {record.version}"
    )
    terminal.finish(record_values(record), told)
    return 0


@command(app, "merge", "base", "store", "force_uncalibrated")
def merge(
    terminal: Terminal,
    name: Annotated[str, typer.Argument(metavar="NEW", help="What to call the new expert.")],
    experts: Annotated[list[str], typer.Argument(metavar="NAME...", help="Two or more experts.")],
    method: Annotated[
        Literal["cat", "svd", "ties", "dare_ties", "dare_linear"],
        typer.Option("--method", help="cat: the exact sum; svd: the same at a smaller rank."),
    ] = "cat",
    weights: Annotated[
        list[float] | None,
        typer.Option("--weight", metavar="W", help="One for each expert; absent: all alike."),
    ] = None,
    rank: Annotated[
        int | None, typer.Option("--rank", help="Of the new expert; absent: the largest of theirs.")
    ] = None,
    density: Annotated[
        float, typer.Option("--density", help="Share of entries kept by ties and dare.")
    ] = 0.5,
    seed: Annotated[int, typer.Option("--seed", help="Of what dare drops.")] = 0,
) -> int:
    """Make one expert of several, quarantined.

    It serves after `experts activate`, to those who name it.
    """
    from adaptive_moe.cli.engine import open_engine

    how: MergeChoices = {
        "method": method,
        "weights": weights,
        "rank": rank,
        "density": density,
        "seed": seed,
    }
    with open_engine(terminal) as moe:
        record = moe.merge_experts(name, experts, **how)
    merged = record.manifest.training["merged"]
    assert isinstance(merged, dict)
    told = (
        f"{record.name} v{record.version} is merged of {', '.join(experts)} and in {record.status} "
        f"(relative error {merged['relative_error']:.2g}); try it, then let it serve: "
        f"adaptive-moe experts activate {record.name} --version {record.version}"
    )
    terminal.finish(record_values(record) | {"merged": merged}, told)
    return 0


@command(app, "activate", "store")
def activate(terminal: Terminal, name: ExpertArgument, version: VersionOption = None) -> int:
    """Verify a version and let it serve.

    The newest one when none is named.
    """
    with open_store(terminal.settings) as store:
        record = _newest(store, name) if version is None else store.get(name, version=version)
        record = store.activate(record.expert_id, name=name, version=record.version)
    terminal.finish(record_values(record), f"{record.name} v{record.version} serves.")
    return 0


@command(app, "export", "store")
def export(
    terminal: Terminal,
    name: ExpertArgument,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A new or empty folder.")],
    form: Annotated[
        Literal["peft", "vllm"],
        typer.Option("--format", help="peft: as it is; vllm: one rank, scaling folded in."),
    ] = "peft",
    version: VersionOption = None,
) -> int:
    """Write an expert as a PEFT or vLLM adapter."""
    from adaptive_moe.experts.adapter_files import export_adapter

    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigurationError(f"{folder}: exists and is not an empty folder; name another one")
    with open_store(terminal.settings) as store:
        record = _find(store, name, version)
        store.verify(record.expert_id)
        export_adapter(record, folder, format=form)
    values = {"name": record.name, "version": record.version, "folder": str(folder), "format": form}
    told = [f"{record.name} v{record.version} is written to {folder} ({form})."]
    if record.manifest.activation == "answer":
        told.append(
            "It acts from the generation header on (alora_invocation_tokens in its configuration); "
            "an engine that does not know this applies it to the prompt too and answers otherwise."
        )
    terminal.finish(values | {"activation": record.manifest.activation}, *told)
    return 0


@command(app, "remove", "store")
def remove(
    terminal: Terminal,
    name: ExpertArgument,
    is_sure: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> int:
    """Take an expert out of service.

    Its bytes are freed, its history stays.
    """
    with open_store(terminal.settings) as store:
        versions = store.versions(name)
        question = f"Remove {name} ({len(versions)} version(s)) from {store.root}?"
        if not (is_sure or terminal.as_json) and terminal.out.is_terminal:
            typer.confirm(clean_line(question), abort=True)
        store.remove(name)
        deleted = store.collect()
    terminal.finish({"name": name, "removed": True, "folders_deleted": deleted}, f"{name} is gone.")
    return 0


@command(app, "rollback", "store")
def rollback(terminal: Terminal, name: ExpertArgument) -> int:
    """Let the version that served before serve again.

    Never one that was rolled back from or is in quarantine.
    """
    with open_store(terminal.settings) as store:
        record = store.rollback(name)
    terminal.finish(record_values(record), f"{record.name} is back at version {record.version}.")
    return 0


def _find(store: "Store", name: str, version: int | None) -> "ExpertRecord":
    return store.get(name) if version is None else store.get(name, version=version)


def _newest(store: "Store", name: str) -> "ExpertRecord":
    """The newest version that may be activated, else the newest, which the store will refuse."""
    from adaptive_moe.experts.versions import ACTIVATABLE

    versions = store.versions(name)
    allowed = [record for record in versions if record.status in ACTIVATABLE]
    return (allowed or versions)[-1]


def _verify(store: "Store", record: "ExpertRecord") -> str:
    """What is wrong with an expert, "" when nothing is; a corrupt one is taken out of service."""
    try:
        store.verify(record.expert_id)
    except CorruptExpertError as error:
        if record.status != "quarantine":
            store.quarantine(record.expert_id, str(error))
        return str(error)
    return ""
