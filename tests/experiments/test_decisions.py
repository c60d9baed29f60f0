"""The parts of the Decisions table measure what they say, on numbers worked out by hand."""

import sys

import numpy as np
import pytest

from adaptive_moe.errors import AdaptiveMoEError
from adaptive_moe.experiments import against_polygraph, gap_streams, shares, stated_risk
from adaptive_moe.experiments.benchmarks import BENCHMARKS, DECISIONS
from adaptive_moe.experiments.figures import DECISION_ROWS
from adaptive_moe.experiments.known_world import draw_labels
from adaptive_moe.experiments.plan import Plan
from adaptive_moe.models.token_trace import TokenTrace
from adaptive_moe.router.evidence import Evidence, RouterRow


def tell(_):
    """Nobody listens."""


def rows(sources):
    nothing = Evidence({}, np.zeros(1, np.float32), "")
    return [RouterRow(nothing, TokenTrace.empty(), True, None, source) for source in sources]


def test_labels_are_of_different_sources_and_tested_on_all_others():
    given = rows("aabbbcddee")
    chosen, rest = draw_labels(given, 3, np.random.default_rng(0))
    names = [given[place].source for place in chosen]
    assert len(set(names)) == len(names) == 3
    others = {place for place, row in enumerate(given) if row.source not in names}
    assert set(rest.tolist()) == others


def test_every_row_of_a_source_may_be_drawn():
    given = rows("aaa")
    places = {int(draw_labels(given, 1, np.random.default_rng(seed))[0][0]) for seed in range(30)}
    assert places == {0, 1, 2}


def test_a_threshold_is_tested_on_what_did_not_choose_it():
    p = np.concatenate([np.linspace(0.9, 1.0, 60), [0.95, 0.85, 0.97]])
    correct = np.concatenate([np.ones(60), [1.0, 0.0, 0.0]])
    draw = stated_risk._draw(p, correct, np.arange(60), np.arange(60, 63), risk=0.2)
    assert draw.certified
    assert draw.risk == pytest.approx(1 / 2)  # of .95 and .97, both trusted, one is wrong
    assert draw.coverage == pytest.approx(2 / 3)
    assert draw.oracle == 0.0  # the surest of the three is wrong


def test_risks_are_honoured_when_they_are_met_exactly():
    draws = [stated_risk.Draw(True, 0.2, 0.6, 0.8)] * 3 + [stated_risk.Draw(False, 0.9, 0.1, 0.8)]
    told = {figure.name: figure.value for figure in stated_risk._told(draws, 0.2)}
    assert told == {
        "certified at 0.2": 0.75,
        "honoured at 0.2": 1.0,
        "coverage at 0.2": pytest.approx(0.75),
    }


def test_a_stream_holds_twenty_distinct_planted_prompts_in_a_tenth_of_its_traffic():
    known = [f"known {number}" for number in range(50)]
    lengths = []
    for seed in range(40):
        stream = list(gap_streams._traffic(known, "http", np.random.default_rng(seed)))
        planted = [prompt for prompt, is_planted in stream if is_planted]
        assert len(set(planted)) == len(planted) == 20
        assert stream[-1][1]
        lengths.append(len(stream))
    assert 170 < np.mean(lengths) < 230


def test_attribution_adds_up_to_the_passes_it_explains():
    found = shares.run(Plan(quick=True), tell)
    assert [figure.verdict(contended=True) for figure in found.figures] == ["met"] * 4


def test_without_the_peer_the_run_says_how_to_bring_it():
    found = against_polygraph.run(Plan(), tell)
    assert {figure.row for figure in found.figures} == {"against_polygraph", "polygraph_scores"}
    assert all("--polygraph" in figure.note for figure in found.figures)


def test_an_interpreter_without_the_peer_is_told():
    with pytest.raises(AdaptiveMoEError, match="lm_polygraph"):
        against_polygraph._peer_answers(sys.executable, [])


def test_every_row_of_the_table_belongs_to_a_benchmark():
    assert set(DECISIONS) <= set(BENCHMARKS)
    assert len(DECISION_ROWS) == 11
