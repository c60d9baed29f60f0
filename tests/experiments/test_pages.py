"""The pages say what was measured, what was missed, and nothing that was not."""

import json

import pytest

from adaptive_moe.experiments.decisions_page import DECISIONS
from adaptive_moe.experiments.figures import DECISION_ROWS, ROWS
from adaptive_moe.experiments.performance_page import PERFORMANCE
from adaptive_moe.experiments.table import text_table
from tests.experiments import canned


@pytest.mark.golden
def test_the_page_of_a_small_run(golden):
    profile = "## Where the time goes\n\nThere."
    golden("performance.md", PERFORMANCE.render(canned.found(), profile=profile))


@pytest.mark.golden
def test_the_table_of_a_small_run(golden):
    golden("runtime_table.txt", text_table(canned.found()) + "\n")


def test_a_contended_run_judges_no_timing():
    page = PERFORMANCE.render(canned.found(contended=True))
    assert "**The machine was contended: no timing on this page is judged.**" in page
    assert "* contended: 1,000 experts, pocket: 4.200 ms where <= 1 was wanted" in page
    assert "| largest change, pocket | 0 | | | <= 0 | met |" in page


def test_a_page_without_shortcomings_says_so():
    found = canned.found()
    found["figures"] = [each for each in found["figures"] if each["verdict"] in {"met", ""}]
    assert "## Missed, failed, not judged\n\nNothing.\n" in PERFORMANCE.render(found)


def test_what_belongs_to_no_row_is_shown_after_the_rows():
    found = canned.found()
    found["figures"] += [{**found["figures"][0], "row": "activation", "name": "packs"}]
    page = PERFORMANCE.render(found)
    assert page.index("### Activation") > page.index(ROWS["choosing"].what)


def test_a_later_run_takes_the_place_of_the_earlier_by_benchmark_and_model():
    first, later = canned.found(), canned.found()
    later["figures"] = [{**first["figures"][0], "value": 1.06}]
    later["figures"] += [{**first["figures"][0], "model": "other", "value": 1.07}]
    page = PERFORMANCE.render(first, later)
    assert "1.080 x bare" not in page
    assert "4.200 ms" not in page
    assert "| one expert, pocket, batch 8 | 1.060 x bare" in page
    assert "| one expert, other, batch 8 | 1.070 x bare" in page
    assert "| run 2 | generate on pocket, other; at most 200 rounds" in page


def test_each_figure_is_judged_by_the_load_of_its_own_run():
    calm, busy = canned.found(), canned.found(contended=True)
    busy["figures"] = [{**each, "model": "other"} for each in busy["figures"]]
    page = PERFORMANCE.render(calm, busy)
    assert "**The machine was contended in run 2: no timing of it is judged.**" in page
    assert "* missed: 1,000 experts, pocket: 4.200 ms where <= 1 was wanted" in page
    assert "* contended: 1,000 experts, other: 4.200 ms where <= 1 was wanted" in page


def test_the_page_is_written_from_the_file_with_the_profile_beside_it(tmp_path):
    source, page = tmp_path / "bench.json", tmp_path / "performance.md"
    source.write_text(json.dumps(canned.found()))
    assert PERFORMANCE.main([str(source), str(page)]) == 0
    assert page.read_text() == PERFORMANCE.render(canned.found())
    (tmp_path / PERFORMANCE.profile).write_text("## By hand\n")
    PERFORMANCE.main([str(source), str(page)])
    assert page.read_text().endswith("\n\n## By hand\n")
    assert PERFORMANCE.main([str(source)]) == 2


def test_the_page_of_decisions_says_what_is_to_be_reached_and_how_it_is_measured():
    found = canned.found()
    found["figures"] = [
        {
            **found["figures"][0],
            "benchmark": "routed-world", "row": "routed_world", "name": "our router",
            "value": 0.96, "low": None, "high": None, "rounds": None, "target": 0.95,
            "at_least": True, "is_timed": False, "verdict": "met",
        }
    ]  # fmt: skip
    page = DECISIONS.render(found)
    assert "| our router, pocket, batch 8 | 0.960 x bare | | | >= 0.95 | met |" in page
    assert "| run | routed-world on pocket; load average" in page
    assert DECISION_ROWS["routed_world"].reach in page
