"""A router says what its labels stand for, and recognises what it learned from."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from adaptive_moe.config.settings import RouterSettings
from adaptive_moe.errors import RouterError
from adaptive_moe.pocket import model_path
from adaptive_moe.router.files import read_model, write_model
from adaptive_moe.router.fitted_on import FittedOn, prompt_key
from adaptive_moe.router.router import Router
from tests.router.world import NUMERICS, World, make_evidence, make_trace

ROWS = World(0).rows(300, accuracy={"a": 0.9, "b": 0.6, "c": 0.3})


def fit(**settings: float) -> Router:
    fitted_on = FittedOn.of(ROWS, target="agreement", samples=5, repeated=3, left_out=1)
    return Router.fit(
        ROWS,
        base_id="base",
        numerics=NUMERICS,
        settings=RouterSettings(**settings),
        seed=0,
        fitted_on=fitted_on,
    )


@pytest.fixture(scope="module")
def agreeing() -> Router:
    return fit()


def load(folder: Path) -> Router:
    return Router.load(folder, base_id="base", numerics=NUMERICS)


def test_what_nobody_graded_is_not_calibrated(agreeing: Router) -> None:
    evidence = make_evidence(World(0).centres["a"], 0.1)
    confidence = agreeing.judge(evidence, make_trace([0.1]))
    assert confidence.p_correct is not None
    assert not confidence.calibrated
    assert not agreeing.is_calibrated
    (reason, *_) = agreeing.decide(evidence).reasons
    assert reason.startswith("the base would say the same again with probability")


def test_without_grades_no_risk_is_known(
    agreeing: Router, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(RouterError, match=r"agreement of sampled answers, which nobody graded"):
        agreeing.threshold(target_risk=0.3)
    with pytest.raises(RouterError, match="knows no errors"):
        agreeing.threshold(error_cost=2.0)
    assert agreeing.threshold(coverage=0.5).coverage == pytest.approx(0.5, abs=0.03)
    strict = agreeing.with_settings(RouterSettings(target_risk=0.3, threshold=0.6))
    assert (strict.threshold().value, strict.threshold().certified) == (0.6, False)
    assert "router.target_risk is not used" in caplog.text


def test_the_file_says_so(agreeing: Router, tmp_path: Path) -> None:
    agreeing.save(tmp_path)
    read = load(tmp_path)
    assert (read.target, read.is_calibrated) == ("agreement", False)
    assert read.model.learned is not None
    lessons = read.model.learned.fitted_on
    assert lessons is not None
    assert (lessons.samples, lessons.repeated, lessons.left_out) == (5, 3, 1)
    assert lessons.holds(["new"], [ROWS[7].source]).tolist() == [True]


def test_a_file_that_does_not_say_so_was_fitted_on_graded_answers(tmp_path: Path) -> None:
    shipped = read_model(model_path() / "router")
    assert shipped.learned is not None
    write_model(tmp_path, replace(shipped, learned=replace(shipped.learned, fitted_on=None)))
    path = tmp_path / "router.json"
    described = json.loads(path.read_text())
    del described["model"]["learned"]["fitted_on"]
    path.write_text(json.dumps(described))
    learned = read_model(tmp_path).learned
    assert learned is not None
    assert (learned.fitted_on, learned.target) == (None, "answers")


@pytest.mark.parametrize(("old", "new"), [('"agreement"', '"hearsay"'), ('"samples"', '"some"')])
def test_what_cannot_be_said_is_refused(
    agreeing: Router, tmp_path: Path, old: str, new: str
) -> None:
    agreeing.save(tmp_path)
    path = tmp_path / "router.json"
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(RouterError, match="damaged"):
        load(tmp_path)


def test_a_share_of_agreement_is_learned_as_that_share() -> None:
    # What is said again in every, in six of ten, or in no sample, by domain; entropy tells nothing.
    shares = {"a": 1.0, "b": 0.6, "c": 0.0}
    rows = World(0).rows(240, accuracy=dict.fromkeys(shares, 0.5))
    rows = [replace(row, agreement=shares[str(row.domain)]) for row in rows]
    rows = [replace(row, correct=row.label >= 0.5) for row in rows]
    router = Router.fit(rows, base_id="base", numerics=NUMERICS, seed=0)
    assert router.model.learned is not None
    assert router.model.learned.accuracy == pytest.approx((80 * 1.6 + 1) / 242)
    for domain, share in shares.items():
        evidence = [make_evidence(states, 1.5) for states in World(9).states(domain, 40)]
        traces = [make_trace([1.5, 1.5])] * len(evidence)
        said = router.model.answer_probabilities(evidence, traces)
        assert said.mean() == pytest.approx(share, abs=0.1)


def test_one_sided_agreement_is_refused_in_its_own_words() -> None:
    rows = World(0).rows(80, accuracy={"a": 1.0})
    with pytest.raises(RouterError, match=r"80 labels \(80 with agreement, 0 without\) .* sure of"):
        Router.fit(
            rows,
            base_id="base",
            numerics=NUMERICS,
            seed=0,
            fitted_on=FittedOn.of(rows, target="agreement", samples=5),
        )


def test_where_the_router_is_not_calibrated_no_risk_is_certified(tmp_path: Path) -> None:
    Router.fit(ROWS, base_id="base", numerics=NUMERICS, seed=0).save(tmp_path)
    known = load(tmp_path).threshold(target_risk=0.4)
    forced = Router.load(tmp_path, base_id="other", numerics=NUMERICS, force_uncalibrated=True)
    there = forced.threshold(target_risk=0.4)
    assert (known.certified, there.certified) == (True, False)
    assert there.value == known.value
    assert "another base" in there.explanation


@pytest.mark.parametrize(
    ("first", "second"),
    [("What is it?", " what  IS it"), ("\uff37hat is it", "What is it!"), ("?", "?")],
)
def test_case_white_space_and_outer_marks_make_no_other_prompt(first: str, second: str) -> None:
    assert prompt_key(first) == prompt_key(second) != ""


@pytest.mark.parametrize(
    ("first", "second"),
    [("What is C#?", "What is C++?"), ("What is x[1]?", "What is x(1)?"), ("-5", "5"), ("?", "!")],
)
def test_marks_with_a_meaning_make_another_prompt(first: str, second: str) -> None:
    assert prompt_key(first) != prompt_key(second)


def test_digests_recognise_prompts_and_sources() -> None:
    lessons = FittedOn.of(ROWS)
    asked = [ROWS[0].evidence.text.upper(), "another", "another"]
    sources = ["new", ROWS[0].source, "new"]
    assert lessons.holds(asked, sources).tolist() == [True, True, False]
    assert len(lessons.sources) == len({row.source for row in ROWS})
    assert lessons.prompts.dtype == np.uint64
