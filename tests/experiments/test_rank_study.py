"""The study of rank strategies goes on where it was stopped, and says no more than it measured."""

import io
import json
from dataclasses import asdict, replace

import pytest
import torch

from adaptive_moe.errors import AdaptiveMoEError, DataError
from adaptive_moe.experiments.rank_findings import compare, set_findings
from adaptive_moe.experiments.rank_floor import chosen_rates, noise_floor
from adaptive_moe.experiments.rank_runs import (
    RankPlan,
    RankRun,
    RunFile,
    outcomes,
    read_records,
)
from adaptive_moe.experiments.rank_sets import load_set
from adaptive_moe.experiments.rank_study import begin, conduct
from adaptive_moe.experiments.rank_workers import Workers
from adaptive_moe.experiments.ranks_page import main, render
from adaptive_moe.training.material import question_key
from tests.experiments.rank_records import PLAN, SETS, Bench, record, start

FLOOR, SWEEP, FINAL = 6, 9, 15  # runs of one set with three arms


def study(path, bench, plan=PLAN, sets=SETS):
    told = []
    with RunFile(path) as file:
        file.append(start(plan))
        conduct(plan, sets, file, bench.perform, told.append)
    return told


def page(path, bench, plan=PLAN):
    study(path, bench, plan)
    return render(read_records(path))


def test_a_set_is_complete_before_the_next_begins(tmp_path):
    bench = Bench()
    study(tmp_path / "runs", bench)
    one = FLOOR + SWEEP + FINAL
    assert [run.material for run in bench.asked] == ["packs"] * one + ["unshown"] * one


def test_a_study_that_was_killed_goes_on_where_it_stopped(tmp_path):
    killed, later, whole = Bench(patience=20), Bench(), Bench()
    with pytest.raises(KeyboardInterrupt):
        study(tmp_path / "runs", killed)
    study(tmp_path / "runs", later)
    study(tmp_path / "whole", whole)
    assert killed.asked + later.asked == whole.asked


def test_a_line_that_was_torn_by_a_kill_is_run_again(tmp_path):
    path, bench = tmp_path / "runs", Bench()
    study(path, Bench())
    path.write_bytes(path.read_bytes()[:-9])
    study(path, bench)
    assert len(bench.asked) == 1
    assert [each["kind"] for each in read_records(path)].count("start") == 2
    assert len(outcomes(read_records(path))) == 2 * (FLOOR + SWEEP + FINAL)


def test_a_run_that_fails_is_kept_with_its_reason_and_not_tried_again(tmp_path):
    path, again = tmp_path / "runs", Bench()
    text = page(path, Bench(broken="gradient"))
    assert (
        "* failed: packs, gradient, rank 4, rate 0.003, seed 100: DivergedError: not / finite"
        in text
    )
    study(path, again)
    assert not again.asked


def test_two_studies_cannot_write_one_file(tmp_path):
    with RunFile(tmp_path / "runs"), pytest.raises(DataError, match="another study writes"):
        RunFile(tmp_path / "runs")


def test_other_steps_are_other_runs():
    run = PLAN.floor_runs("packs", "a1")[0]
    assert run.key == replace(run).key
    assert run.key != replace(run, steps=3).key
    assert run.key != replace(run, digest="other").key


def test_the_seed_that_chooses_rates_scores_nothing():
    assert PLAN.sweep_seed not in {*PLAN.seeds, *PLAN.floor_seeds}
    assert not any(run.is_scored for run in PLAN.sweep_runs("packs", "a1"))


def test_the_noise_floor_of_two_ranks_by_hand():
    runs = PLAN.floor_runs("packs", "a1")  # ranks 2 and 16 in turn, three seeds
    right = (4, 13, 6, 15, 5, 14)
    done = {run.key: record(run, count)["outcome"] for run, count in zip(runs, right, strict=True)}
    floor = noise_floor(PLAN, "packs", "a1", done)
    assert floor.difference == pytest.approx(9 / 20)
    assert floor.deviation == pytest.approx(1 / 20)  # 1 fact within either rank
    assert floor.limit == pytest.approx(2.776445 * 2**0.5 / 20)  # t of 4 degrees of freedom
    assert floor.is_exceeded


def test_a_set_on_which_ranks_look_alike_is_left_out(tmp_path):
    bench = Bench(great=5)
    told = study(tmp_path / "runs", bench)
    assert len(bench.asked) == 2 * FLOOR
    assert "packs: rank 2 and 16 look alike" in told
    text = render(read_records(tmp_path / "runs"))
    assert "left out: not larger than the noise" in text
    assert "no set tells uniform rank 2 from 16" in text
    assert text.endswith("## Missing and failed runs\n\nNone.\n")


def test_a_rate_is_chosen_by_answers_then_by_loss_on_the_selection_side():
    runs = [run for run in PLAN.sweep_runs("packs", "a1") if run.strategy == "gradient"]
    done = {
        runs[0].key: record(runs[0], 12, selection_loss=0.9)["outcome"],
        runs[1].key: record(runs[1], 12, selection_loss=0.8)["outcome"],
        runs[2].key: record(runs[2], 11, selection_loss=0.1)["outcome"],
    }
    rates = chosen_rates(PLAN, "packs", "a1", done, ())
    assert list(rates) == ["gradient"]
    assert (rates["gradient"].rate, rates["gradient"].is_edge) == (PLAN.rates[1], False)
    missing = {key: found for key, found in done.items() if key != runs[2].key}
    assert not chosen_rates(PLAN, "packs", "a1", missing, ())
    rates = chosen_rates(PLAN, "packs", "a1", missing, {runs[2].key})
    assert rates["gradient"].rate == PLAN.rates[1]


def test_a_rate_that_is_added_later_is_tried_before_anything_is_compared(tmp_path):
    path, later = tmp_path / "runs", Bench()
    study(path, Bench())
    more = replace(PLAN, rates=(*PLAN.rates, 9e-3))
    with RunFile(path) as file:
        file.append(start(more))
    assert "Preliminary: 36 runs are missing" in render(read_records(path))
    study(path, later, more)
    assert {run.learning_rate for run in later.asked} == {9e-3}
    assert "missing" not in render(read_records(path))


def test_ten_pairs_on_one_side_are_a_win_after_holm_by_hand(tmp_path):
    study(tmp_path / "runs", Bench({"gradient": 3, "random": -1}))
    records = read_records(tmp_path / "runs")
    sets = [set_findings(PLAN, name, about, records) for name, about in records[0]["sets"].items()]
    gradient, control = compare(sets, PLAN.arms, "fixed")
    assert (gradient.pairs, gradient.verdict, control.verdict) == (10, "win", "loss")
    assert gradient.p_value == 2 / 1024
    assert gradient.adjusted == 4 / 1024
    assert gradient.exact.mean == pytest.approx(3 / 20)
    assert gradient.loss.mean == pytest.approx(-3 / 20)
    assert gradient.by_fact.mean == pytest.approx(3 / 20)


def test_the_page_names_the_winner_as_the_next_default(tmp_path):
    text = page(tmp_path / "runs", Bench({"gradient": 3, "random": -1}))
    assert "Better than `fixed`: `gradient` (+0.150, 95 % +0.150 to +0.150)." in text
    assert "The default should be `gradient`. Worse: `random`" in text
    assert "Better than `random`, the control: `fixed`, `gradient`." in text
    assert "missing" not in text


def test_arms_that_are_alike_are_called_not_distinguishable(tmp_path):
    text = page(tmp_path / "runs", Bench())
    assert "No arm wins against `fixed`, which stays the default." in text
    assert "Not distinguishable from it: `gradient`, `random`." in text
    assert "None beats `random`, the control" in text
    assert "| gradient | 10 | +0.0000 |" in text


def test_five_pairs_decide_nothing_whatever_they_score(tmp_path):
    path = tmp_path / "runs"
    study(path, Bench({"gradient": 3}), sets={"packs": "a1"})
    text = render(read_records(path))
    assert "**Preliminary: 30 runs are missing, so no verdict below is final.**" in text
    assert "Not decided: `gradient`, `random`: with 5 pairs no p among 2 arms can be less" in text
    assert "than 0.125 after Holm" in text
    assert "Nor is it decided whether any arm beats `random`, the control." in text
    assert "None beats" not in text
    assert "* missing: unshown, fixed, rank 2, rate 0.006, seed 11" in text
    assert "| unshown | 20 | 200 | 20 | 20 | | | | | not measured yet |" in text


def test_a_page_of_a_study_that_has_just_begun(tmp_path):
    path = tmp_path / "runs"
    with RunFile(path) as file:
        file.append(start())
    assert main([str(path), str(tmp_path / "ranks.md")]) == 0
    assert "`fixed` stays the default" in (tmp_path / "ranks.md").read_text()
    assert main([str(path)]) == 2


def test_no_page_is_made_of_nothing(tmp_path):
    with pytest.raises(DataError, match="no start of a study"):
        render(())


def test_every_unshown_fact_is_taught_in_words_that_test_nothing():
    found = load_set("unshown")
    taught = {question_key(each.prompt[-1][1]) for each in found.train}
    asked = [question_key(each.prompt[-1][1]) for each in (*found.selection, *found.test)]
    assert len(found.test) == len({each.fact for each in found.test}) == 720
    assert {each.fact for each in found.test} == {each.fact for each in found.train}
    assert not taught & set(asked)
    assert len(set(asked)) == len(asked)


def test_rows_of_an_external_folder_are_taught_as_they_stand_and_asked_in_other_words(tmp_path):
    rows = [{"prompt": f"Name the port of ship {n}.", "response": f"port {n}"} for n in range(40)]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = load_set(f"ports={tmp_path}")
    assert found.name == "ports"
    assert [each.prompt[0][1] for each in found.train] == [row["prompt"] for row in rows]
    assert len({each.fact for each in (*found.selection, *found.test)}) == 40
    assert not {each.fact for each in found.selection} & {each.fact for each in found.test}
    assert "I would like to know this. name the port of ship" in found.test[0].prompt[0][1]


@pytest.mark.slow
def test_every_fact_of_the_packs_is_taught_and_tested():
    found = load_set("packs")
    assert {each.fact for each in found.test} == {each.fact for each in found.train}
    assert not {each.prompt for each in found.train} & {each.prompt for each in found.test}


@pytest.mark.slow
def test_real_runs_of_two_steps_have_the_budget_and_repeat_themselves():
    from adaptive_moe.experiments.rank_trial import answer_all

    found = load_set("chemistry")
    small = replace(
        found, train=found.train[::9], selection=found.selection[:8], test=found.test[:8]
    )
    plan = RankPlan(steps=2)
    runs = [
        run for run in plan.final_runs("chemistry", "d", dict.fromkeys(plan.arms, 3e-3))
        if run.seed == 1
    ]  # fmt: skip
    sweep = plan.sweep_runs("chemistry", "d")[0]
    unknown = RankRun("chemistry", "d", "no-such-strategy", 4, 3e-3, 1, 2)
    lines = [json.dumps(asdict(run)) for run in (*runs, sweep, unknown, runs[0])]
    output = io.StringIO()
    answer_all(lines, output, {"chemistry": small})
    *answers, sweep, failed, again = map(json.loads, output.getvalue().splitlines())
    assert {each["outcome"]["parameters"] for each in answers} == {81920}
    assert "exact" not in sweep["outcome"]
    assert failed["kind"] == "failed"
    assert failed["reason"].startswith("ValidationError: ")
    timed = ("seconds", "processor_seconds", "others")
    assert {k: v for k, v in again["outcome"].items() if k not in timed} == {
        k: v for k, v in answers[0]["outcome"].items() if k not in timed
    }


@pytest.mark.slow
def test_runs_side_by_side_come_to_what_they_do_alone():
    from adaptive_moe.experiments.rank_trial import PocketRuns

    found = load_set("chemistry")
    small = replace(
        found, train=found.train[::9], selection=found.selection[:8], test=found.test[:8]
    )
    runs = [
        RankRun("chemistry", "d", "fixed", rank, rate, 1, 2)
        for rank, rate in ((2, 3e-3), (4, 6e-3))
    ]
    unknown = replace(runs[0], strategy="no-such-strategy")
    shorter = replace(runs[0], steps=1)
    asked = [runs[0], unknown, shorter, runs[1]]
    by_size = []
    for at_once in (1, 3):
        with PocketRuns({"chemistry": small}, at_once=at_once) as pocket:
            records = {each["key"]: each for each in pocket.perform(asked)}
        assert records.keys() == {run.key for run in asked}
        assert records[unknown.key]["reason"].startswith("ValidationError: ")
        by_size.append([records[run.key]["outcome"] for run in (*runs, shorter)])
    for alone, together in zip(*by_size, strict=True):
        assert together["loss"] == pytest.approx(alone["loss"], rel=1e-2)
    assert [each["parameters"] for each in by_size[1]] == [40960, 81920, 40960]


def test_a_study_goes_on_where_it_began_and_nowhere_else(tmp_path):
    path = tmp_path / "runs"
    with RunFile(path) as file:
        begin(file, PLAN, [], at_once=1, device=torch.device("cpu"))
        begin(file, PLAN, [], at_once=2, device=torch.device("cpu"))
    with (
        RunFile(path) as file,
        pytest.raises(DataError, match="of cpu, not of meta"),
    ):
        begin(file, PLAN, [], at_once=15, device=torch.device("meta"))
    assert len(read_records(path)) == 2


@pytest.mark.slow
def test_the_program_in_two_processes_writes_every_run(tmp_path):
    import subprocess
    import sys

    from tests.contracts.test_house import ROOT

    path = tmp_path / "runs"
    command = [sys.executable, ROOT / "benchmarks" / "ranks.py", path, "--set", "chemistry"]
    options = ["--workers", "2", "--steps", "1", "--seeds", "1"]
    subprocess.run([*command, *options], check=True, capture_output=True, timeout=280)
    assert len(outcomes(read_records(path))) == FLOOR
    assert "left out" in render(read_records(path))


@pytest.mark.slow  # two interpreters load the model's libraries
def test_processes_that_do_not_begin_are_told_and_none_is_left(monkeypatch):
    begun = []
    start = Workers._start

    def watched(workers):
        begun.append(start(workers))
        return begun[-1]

    monkeypatch.setattr(Workers, "_start", watched)
    with pytest.raises(AdaptiveMoEError, match="did not begin, it ended with"):
        Workers(2, ["no-such-set"])
    assert [process.poll() is not None for process in begun] == [True, True]
