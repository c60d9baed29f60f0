"""What holds for the house as a whole: imports, names, file sizes, links."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import adaptive_moe

ROOT = Path(__file__).parents[2]
CODE = sorted(ROOT.glob("adaptive_moe/**/*.py"))
PAGES = [*sorted(ROOT.glob("*.md")), *sorted(ROOT.glob("docs/*.md"))]


def run_python(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_importing_the_package_imports_no_torch():
    result = run_python("import adaptive_moe, sys; print('torch' in sys.modules)")
    assert result.stdout.strip() == "False", result.stderr


def test_the_public_names_are_these():
    assert adaptive_moe.__all__ == ["AdaptiveMoE", "Answer", "__version__"]
    for name in adaptive_moe.__all__:
        assert getattr(adaptive_moe, name) is not None


def test_layers_and_borders_are_kept():
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize("file", CODE, ids=lambda file: file.relative_to(ROOT).as_posix())
def test_no_file_passes_four_hundred_lines(file):
    assert len(file.read_text().splitlines()) <= 400


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_between_pages_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"
