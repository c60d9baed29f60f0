"""`doctor`: is everything here that is needed, and what is here that helps."""

import importlib.metadata
import platform
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import typer
from rich.table import Table
from rich.text import Text

from adaptive_moe import __version__
from adaptive_moe.cli.command import command
from adaptive_moe.cli.safe_text import clean_line
from adaptive_moe.cli.stored import store_root
from adaptive_moe.cli.terminal import Terminal
from adaptive_moe.config.settings import Settings
from adaptive_moe.errors import AdaptiveMoEError, RouterError

if TYPE_CHECKING:
    from adaptive_moe.experts.store import Store
    from adaptive_moe.models.language_model import LanguageModel
    from adaptive_moe.router.thresholds import Threshold

_ESSENTIAL = ("torch", "transformers", "peft", "safetensors", "scikit-learn", "cachetools")
_OPTIONAL = {
    "prompt_toolkit": "history, completion and multi-line input in chat",
    "bm25s": "the retrieval figure beside the gate",
    "datasketch": "near-duplicate removal in training material",
    "matplotlib": "plots of `router evaluate`",
    "pypdf": "PDF files as training material",
}


@dataclass(frozen=True, slots=True)
class Check:
    """One thing looked at. `is_essential`: without it nothing works, and doctor exits with 1."""

    name: str
    is_well: bool
    told: str
    is_essential: bool = True


def register(app: typer.Typer) -> None:
    """Add `doctor` to the program."""
    command(app, "doctor", "base", "store")(doctor)


def doctor(terminal: Terminal) -> int:
    """Check versions, device, base model, store and optional packages."""
    with terminal.working("looking"):
        checks = [*_versions(), *_device(terminal.settings), _base(terminal.settings)]
        checks += [_bitsandbytes(), _store(terminal.settings), _ledger()]
        checks += [*_threshold(terminal.settings), *_optional()]
    is_well = all(check.is_well for check in checks if check.is_essential)
    told = "Everything needed is here." if is_well else "Something needed is missing; see above."
    values = {"well": is_well, "checks": [asdict(check) for check in checks]}
    terminal.finish(values, _table(checks), Text(told, style="green" if is_well else "red"))
    return 0 if is_well else 1


def _versions() -> Iterator[Check]:
    yield Check("adaptive_moe", is_well=True, told=__version__)
    yield Check("python", is_well=True, told=f"{platform.python_version()}, {platform.platform()}")
    for name in _ESSENTIAL:
        version = _installed(name)
        yield Check(name, is_well=version is not None, told=version or f"pip install {name}")


def _device(settings: Settings) -> Iterator[Check]:
    def look() -> str:
        from adaptive_moe.models.loading import choose_device

        return _describe(str(choose_device(settings.base.device)))

    yield _tried("device", look)


def _describe(device: str) -> str:
    import torch

    if device.startswith("cuda"):
        properties = torch.cuda.get_device_properties(device)
        return f"{device}: {properties.name}, {properties.total_memory / 2**30:.0f} GiB"
    return f"{device}, {torch.get_num_threads()} threads"


def _base(settings: Settings) -> Check:
    def look() -> str:
        from adaptive_moe.models.loading import load_base

        return _describe_model(load_base(settings.base))

    return _tried(f"base {settings.base.id}", look)


def _describe_model(model: "LanguageModel") -> str:
    numbers = sum(parameter.numel() for parameter in model.model.parameters())
    return (
        f"loads: {numbers:,} parameters in {str(model.dtype).removeprefix('torch.')}, "
        f"{len(model.layers)} adaptable layers, context {model.context_length:,}"
    )


def _bitsandbytes() -> Check:
    version = _installed("bitsandbytes")
    told = f"{version}: int8 and nf4" if version else "absent: no int8 and nf4"
    return Check("bitsandbytes", version is not None, told, is_essential=False)


def _store(settings: Settings) -> Check:
    def look() -> str:
        from adaptive_moe.experts.store import Store

        with Store(store_root(settings)) as store:
            if not store.exists:
                return f"{store.root} is not there yet; the first training makes it"
            return _try_store(store)

    return _tried("store", look)


def _try_store(store: "Store") -> str:
    with store.stage() as folder:
        (folder / "trial").write_text("trial")
    return f"{store.root} is writable, {len(store.active())} active experts"


def _ledger() -> Check:
    def look() -> str:
        from adaptive_moe.gaps.ledger import GapLedger

        with GapLedger(":memory:"):
            return "opens"

    return _tried("gap ledger (SQLite)", look)


def _threshold(settings: Settings) -> Iterator[Check]:
    """Where a risk is set: whether it is certified, and no evidence took that back."""
    if settings.router.target_risk is None:
        return
    name = f"risk {settings.router.target_risk:g}"
    try:
        found = _found_threshold(settings)
    except (AdaptiveMoEError, ImportError, OSError) as error:
        yield Check(name, is_well=False, told=str(error), is_essential=False)
    else:
        yield Check(name, found.certified, found.explanation, is_essential=False)


def _found_threshold(settings: Settings) -> "Threshold":
    from adaptive_moe.engine.risk_watch import stored_threshold
    from adaptive_moe.engine.router_desk import ROUTER_FOLDER
    from adaptive_moe.engine.runtime import LEDGER_FILE
    from adaptive_moe.experts.store import Store
    from adaptive_moe.gaps.ledger import GapLedger
    from adaptive_moe.pocket import model_path

    folder = settings.router.folder
    if folder is None and settings.base.id == "pocket":
        folder = model_path() / ROUTER_FOLDER
    if folder is None:
        raise RouterError("no router is fitted: run `router train`, then set router.folder")
    with Store(store_root(settings)) as store:
        file = settings.gaps.ledger or store.root / LEDGER_FILE
        with GapLedger(file, before_creating=store.create) as ledger:
            return stored_threshold(folder, settings.router, ledger)


def _optional() -> Iterator[Check]:
    for name, use in _OPTIONAL.items():
        version = _installed(name)
        told = f"{version}: {use}" if version else f"absent; pip install {name} for {use}"
        yield Check(name, version is not None, told, is_essential=False)


def _tried(name: str, look: Callable[[], str]) -> Check:
    """The check that stands for a look that may fail on purpose or for want of a package."""
    try:
        return Check(name, is_well=True, told=look())
    except (AdaptiveMoEError, ImportError, OSError, RuntimeError) as error:
        return Check(name, is_well=False, told=str(error))


def _installed(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _table(checks: list[Check]) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for check in checks:
        mark, style = ("✓", "green") if check.is_well else ("✗", "red")
        if not (check.is_well or check.is_essential):
            mark, style = "-", "yellow"
        table.add_row(Text(mark, style=style), clean_line(check.name), clean_line(check.told))
    return table
