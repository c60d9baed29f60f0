"""Tables of what is kept: experts, gaps, rank plans."""

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from adaptive_moe.cli.safe_text import clean_line

if TYPE_CHECKING:
    from adaptive_moe.experts.store import ExpertRecord
    from adaptive_moe.gaps.ledger import Gap

_STATUS_STYLES = {"active": "green", "quarantine": "yellow", "rejected": "red", "removed": "dim"}
_GAP_STYLES = {"VERIFIED": "bold yellow", "SUSPECTED": "yellow", "FILLED": "green"}
_SHADES = " ░▒▓█"


def experts_table(records: Sequence["ExpertRecord"], serving: Collection[str]) -> Table:
    """One row per version; the serving one is marked."""
    table = _table("", "name", "version", "status", "knows", "parameters", "bytes", "since")
    for record in records:
        table.add_row(
            "●" if record.expert_id in serving and record.status == "active" else " ",
            clean_line(record.name),
            str(record.version),
            Text(record.status, style=_STATUS_STYLES[record.status]),
            clean_line(record.manifest.label),
            f"{_parameters(record):,}",
            f"{_bytes(record):,}",
            clean_line(record.created[:10]),
        )
    return table


def expert_parts(record: "ExpertRecord") -> tuple[RenderableType, ...]:
    """Everything worth knowing about one version."""
    manifest = record.manifest
    facts = {
        "expert": f"{record.name} v{record.version} ({record.status})",
        "reason": record.reason,
        "knows": manifest.label,
        "id": record.expert_id,
        "base": manifest.base_id,
        "numerics": ", ".join(str(value) for value in manifest.numerics.values() if value),
        "acts on": "the answer" if manifest.activation == "answer" else "the whole prompt",
        "parameters": f"{_parameters(record):,}",
        "size": f"{_bytes(record):,} bytes",
        "since": record.created,
        "folder": str(record.folder),
    }
    ranks = {name: module.rank for name, module in manifest.modules.items()}
    return (
        facts_table(facts),
        *_section("Data", manifest.data),
        *_section("Gate", manifest.gate),
        *_section("Training", {**manifest.training, "settings": None}),
        Text("Ranks", style="bold"),
        rank_map(ranks),
    )


def record_values(record: "ExpertRecord", *, serving: bool | None = None) -> dict[str, object]:
    """The same as JSON values."""
    values: dict[str, object] = {
        "name": record.name,
        "version": record.version,
        "expert_id": record.expert_id,
        "status": record.status,
        "reason": record.reason,
        "created": record.created,
        "label": record.manifest.label,
        "activation": record.manifest.activation,
        "base_id": record.manifest.base_id,
        "parameters": _parameters(record),
        "bytes": _bytes(record),
        "folder": str(record.folder),
    }
    return values if serving is None else values | {"serving": serving}


def gaps_table(gaps: Sequence["Gap"]) -> Table:
    """One row per gap: how far it has come, on what evidence, and when it last moved."""
    table = _table(
        "id", "state", "about", "prompts", "wrong/checked", "at least", "expert", "changed"
    )
    for gap in gaps:
        table.add_row(
            str(gap.id),
            Text(str(gap.state), style=_GAP_STYLES.get(str(gap.state), "")),
            clean_line(gap.label),
            str(len(gap.prompts)),
            f"{gap.failures}/{gap.failures + gap.successes}",
            f"{gap.lower_bound:.0%} wrong",
            clean_line(gap.expert or ""),
            clean_line(gap.changed[:10]),
        )
    return table


def facts_table(facts: Mapping[str, object]) -> Table:
    """Names on the left, values on the right; empty values are left out."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in facts.items():
        told = clean_line(str(value))
        if told:
            table.add_row(clean_line(name), told)
    return table


def rank_map(ranks: Mapping[str, int]) -> Table:
    """Layers down, kinds of module across; the number is the rank, the shade its share."""
    cells: dict[str, dict[str, int]] = {}
    for name, rank in ranks.items():
        layer, module = split_module_name(name)
        cells.setdefault(layer, {})[module] = rank
    modules = list(dict.fromkeys(module for row in cells.values() for module in row))
    largest = max(ranks.values(), default=1)
    table = _table("layer", *_last_words(modules))
    for column in table.columns[1:]:
        column.justify = "right"
    for layer, row in cells.items():
        table.add_row(layer, *(_rank_cell(row.get(module), largest) for module in modules))
    return table


def split_module_name(name: str) -> tuple[str, str]:
    """The layer's number and the rest of a module's name: `model.layers.3.mlp.up_proj`."""
    words = clean_line(name).split(".")
    for position, word in enumerate(words):
        if word.isdigit():
            return word, ".".join(words[position + 1 :])
    return "-", ".".join(words)


def flatten(tree: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    """Nested JSON as dotted names; numbers rounded to four digits, lists in one line."""
    flat: dict[str, object] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        elif isinstance(value, float):
            flat[prefix + key] = f"{value:.4g}"
        elif isinstance(value, list | tuple):
            flat[prefix + key] = ", ".join(str(item) for item in value)
        elif value is not None:
            flat[prefix + key] = value
    return flat


def _last_words(names: Sequence[str]) -> Sequence[str]:
    """The last part of every dotted name, or the whole names where those would be ambiguous."""
    last = [name.rpartition(".")[2] for name in names]
    return last if len(set(last)) == len(last) else names


def _section(title: str, tree: Mapping[str, object]) -> tuple[RenderableType, ...]:
    return (Text(title, style="bold"), facts_table(flatten(tree))) if tree else ()


def _rank_cell(rank: int | None, largest: int) -> Text:
    if not rank:
        return Text("·", style="dim")
    shade = _SHADES[max(1, round((len(_SHADES) - 1) * rank / largest))]
    return Text(f"{rank} {shade}", style="cyan")


def _parameters(record: "ExpertRecord") -> int:
    modules = record.manifest.modules.values()
    return sum(module.rank * (module.in_features + module.out_features) for module in modules)


def _bytes(record: "ExpertRecord") -> int:
    return sum(file.bytes for file in record.manifest.files.values())


def _table(*headings: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        table.add_column(clean_line(heading), overflow="fold")
    return table
