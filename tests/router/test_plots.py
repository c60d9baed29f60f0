"""A report is drawn the same way every time, and leaves matplotlib as it was."""

import sys
from pathlib import Path
from xml.etree import ElementTree  # what is read is our own

import pytest

from adaptive_moe.errors import ConfigurationError
from adaptive_moe.measures.calibration import ReliabilityBin
from adaptive_moe.router.controls import Controls
from adaptive_moe.router.evaluation import PointReport, RouterReport
from adaptive_moe.router.plots import PLOTS, check_plots, write_plots

BINS = (ReliabilityBin(40, 0.2, 0.25), ReliabilityBin(40, 0.6, 0.5), ReliabilityBin(40, 0.9, 0.95))
POINT = PointReport(
    figures={},
    reliability=BINS,
    curve=((1 / 3, 0.05), (2 / 3, 0.2), (1.0, 0.4)),
    entropy_curve=((1 / 3, 0.1), (2 / 3, 0.3), (1.0, 0.4)),
    histogram=tuple((step, 20 - step) for step in range(20)),
)
REPORT = RouterReport(
    items=120,
    sources=60,
    base_accuracy=0.6,
    majority=0.6,
    calibrated=True,
    prefill=POINT,
    answer=POINT,
    length_only_auroc=0.5,
    milliseconds_per_prompt=0.1,
    controls=Controls(None, (), None, ()),
)


def texts(file: Path) -> set[str]:
    """Everything written in a drawing."""
    tree = ElementTree.parse(file)  # noqa: S314
    return {"".join(each.itertext()).strip() for each in tree.iter() if each.tag.endswith("}text")}


def settings(matplotlib):
    """All but the backend, which to ask for is to choose one."""
    return {key: matplotlib.rcParams[key] for key in matplotlib.rcParams if key != "backend"}


@pytest.fixture
def matplotlib():
    return pytest.importorskip("matplotlib", reason="needs the extra `plots`")


@pytest.fixture
def drawn(matplotlib, tmp_path):
    folder = tmp_path / "new" / "plots"
    assert write_plots(REPORT, folder) == tuple(folder / name for name in PLOTS)
    return folder


def test_the_drawings_name_their_axes_and_both_decision_points(drawn):
    reliability, curves, histogram = (texts(drawn / name) for name in PLOTS)
    assert "probability of being right, as said (0 to 1)" in reliability
    assert "answers in a bin" in reliability
    assert {"before decoding", "after decoding", "as often right as said"} <= reliability
    assert "risk: share of errors among them (0 to 1)" in curves
    assert {"mean entropy", "first-token entropy", "router, after decoding"} <= curves
    assert {"right", "wrong", "answers", "before decoding", "after decoding"} <= histogram
    for found in (reliability, curves, histogram):
        assert "120 answers of the base, 60% of them right" in found


def test_the_same_report_is_the_same_to_the_byte(drawn, tmp_path):
    again = write_plots(REPORT, tmp_path / "again")
    assert [file.read_bytes() for file in again] == [(drawn / name).read_bytes() for name in PLOTS]
    assert b"<dc:date>" not in again[0].read_bytes()


def test_drawing_leaves_no_state_behind(matplotlib, tmp_path, monkeypatch):
    monkeypatch.setitem(matplotlib.rcParams, "svg.fonttype", "path")
    before = settings(matplotlib)
    write_plots(REPORT, tmp_path)
    assert settings(matplotlib) == before
    assert "matplotlib.pyplot" not in sys.modules


def test_without_matplotlib_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ConfigurationError, match=r"install adaptive_moe\[plots\]"):
        write_plots(REPORT, tmp_path / "plots")
    assert not (tmp_path / "plots").exists()


def test_a_folder_that_is_none_is_told_before_anything_is_measured(matplotlib, tmp_path):
    file = tmp_path / "taken"
    file.write_text("mine")
    with pytest.raises(ConfigurationError, match="taken is a file; name a folder"):
        check_plots(file)
    with pytest.raises(ConfigurationError, match="name another folder"):
        write_plots(REPORT, file / "below")
    assert file.read_text() == "mine"
