"""Writes a router's report as SVG files; needs matplotlib, the extra `plots`."""

import importlib.util
from pathlib import Path

from adaptive_moe.errors import ConfigurationError
from adaptive_moe.router.evaluation import RouterReport

PLOTS = ("reliability.svg", "risk_coverage.svg", "confidence_histogram.svg")
_METADATA = {"Date": None, "Creator": "adaptive_moe"}


def check_plots(folder: Path) -> None:
    """Raises ConfigurationError, before anything takes time, where no plot could be written."""
    if importlib.util.find_spec("matplotlib") is None:
        raise ConfigurationError(
            "plots need matplotlib; install adaptive_moe[plots], or measure without plots"
        )
    if folder.exists() and not folder.is_dir():
        raise ConfigurationError(f"{folder} is a file; name a folder for the plots")


def write_plots(report: RouterReport, folder: Path) -> tuple[Path, ...]:
    """Write `PLOTS` into the folder, making it where it is not there; the same bytes every time.

    Raises ConfigurationError without matplotlib, and for a folder that cannot be written.
    """
    check_plots(folder)
    import matplotlib

    from adaptive_moe.router.drawings import DRAWINGS

    paths = tuple(folder / name for name in PLOTS)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Text stays text, which can be read out and searched; ids are the same every time.
        with matplotlib.rc_context({"svg.hashsalt": "adaptive_moe", "svg.fonttype": "none"}):
            for path in paths:
                DRAWINGS[path.stem](report).savefig(path, format="svg", metadata=_METADATA)
    except OSError as error:
        raise ConfigurationError(
            f"{folder}: the plots cannot be written there ({error}); name another folder"
        ) from error
    return paths
