"""What lies on disk and is read without loading a model: the expert store, for listing and TAB."""

from pathlib import Path
from typing import TYPE_CHECKING

from adaptive_moe.config.settings import Settings
from adaptive_moe.errors import AdaptiveMoEError, StoreError

if TYPE_CHECKING:
    from adaptive_moe.experts.store import Store


def store_root(settings: Settings) -> Path:
    """The folder of the expert store in force."""
    from adaptive_moe.experts.place import default_store_path

    return settings.store or default_store_path()


def check_store(settings: Settings) -> None:
    """StoreError for a named store that is not there, as a slip would look like an empty one."""
    root = settings.store
    if root is not None and not (root.exists() or root.is_symlink()):
        raise StoreError(
            f"{root}: there is no expert store; check the path, or train one first, which makes it"
        )


def open_store(settings: Settings) -> "Store":
    """The expert store, which must be there if it was named; imports no torch."""
    from adaptive_moe.experts.store import Store

    check_store(settings)
    return Store(store_root(settings))


def complete_expert(incomplete: str) -> list[str]:
    """Names of active experts in the default store that begin so; never raises."""
    from adaptive_moe.config.loading import load_settings

    try:
        with open_store(load_settings()) as store:
            names = [record.name for record in store.active()]
    except (AdaptiveMoEError, OSError):
        return []
    return [name for name in names if name.startswith(incomplete)]


def complete_route(incomplete: str) -> list[str]:
    """auto, base and expert names; after a comma the next name."""
    before, comma, last = incomplete.rpartition(",")
    fixed = [] if comma else [word for word in ("auto", "base") if word.startswith(last)]
    return [f"{before}{comma}{name}" for name in (*fixed, *complete_expert(last))]
