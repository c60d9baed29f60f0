"""What people say of trusted answers can take a certified threshold back, and that is kept."""

import json
import logging

import pytest

from adaptive_moe import AdaptiveMoE
from adaptive_moe.config.loading import load_settings
from tests.cli.running import run

RISK = "router.target_risk=0.2"
COUNTRIES = (
    "France", "Japan", "Spain", "Italy", "Norway", "Peru", "Kenya", "Germany", "Greece", "Egypt",
    "Canada", "Portugal", "Poland", "Sweden", "Chile", "Cuba",
)  # fmt: skip
QUESTIONS = [f"What is the capital of {country}?" for country in COUNTRIES]


def opened(store, *overrides):
    # No gap is suspected, so none is checked by sampling.
    quiet = ("gaps.min_prompts=99", "gaps.suspect_prompts=99")
    return AdaptiveMoE.from_settings(
        load_settings(overrides=[f"store={store}", *quiet, *overrides])
    )


def trusted(moe):
    """Answers of the base that it trusts, to distinct questions."""
    answers = moe.generate(QUESTIONS, experts=None, max_new_tokens=8)
    return [answer for answer in answers if not answer.low_confidence]


@pytest.fixture(scope="module")
def voided(tmp_path_factory):
    """A store in which eight trusted answers were marked wrong, and what was seen on the way."""
    store = tmp_path_factory.mktemp("risk") / "store"
    with opened(store, RISK) as moe, opened(store, RISK) as other:
        seen = {"store": store, "certified": moe.router.threshold()}
        answers = trusted(moe)
        for answer in answers[:7]:
            moe.gaps.feedback(answer, correct=False)
        seen["after seven"] = moe.router.threshold()
        moe.gaps.feedback(answers[7], correct=False)
        seen["after eight"] = moe.router.threshold()
        for answer in answers:
            moe.gaps.feedback(answer, correct=True)
        seen["praised"] = moe.router.threshold()
        seen["elsewhere"] = other.router.threshold()
        seen["other answer"] = other.generate(QUESTIONS[0], max_new_tokens=2)
        other.gaps.feedback(seen["other answer"], correct=True)
        seen["elsewhere later"] = other.router.threshold()
    return seen


def test_eight_wrong_answers_take_the_certificate_back(voided):
    assert voided["certified"].certified
    assert voided["after seven"] == voided["certified"]
    found = voided["after eight"]
    assert not found.certified
    assert (found.void.reason, found.void.counted, found.void.failures) == ("errors", 8, 8)
    assert found.value > voided["certified"].value
    assert found.explanation.startswith("not certified any more: 8 of 8 trusted answers")


def test_later_praise_does_not_bring_it_back(voided):
    assert voided["praised"] == voided["after eight"]


def test_another_runtime_on_the_ledger_follows_at_its_next_judgement(voided):
    assert voided["elsewhere"].certified
    assert voided["elsewhere later"].void == voided["after eight"].void


def test_it_outlasts_the_process_and_is_said_once(voided, caplog):
    with caplog.at_level(logging.WARNING, "adaptive_moe"), opened(voided["store"], RISK) as moe:
        answer = moe.generate(QUESTIONS[0], max_new_tokens=2)
        moe.gaps.feedback(answer, correct=False)
        assert moe.router.threshold() == voided["after eight"]
        assert answer.route.threshold == moe.router.current.threshold(point="prefill").value
    (said,) = [message for message in caplog.messages if "not certified any more" in message]
    assert "e-value" in said


def test_another_risk_has_a_certificate_of_its_own(voided):
    with opened(voided["store"], "router.target_risk=0.25") as moe:
        assert moe.router.threshold().certified


def test_the_commands_say_so(voided):
    place = ("--store", voided["store"], "--set", RISK, "--json")
    found = json.loads(run("router", "threshold", *place).stdout)
    assert (found["certified"], found["void"]["failures"]) == (False, 8)
    done = run("doctor", *place)
    assert done.exit_code == 0
    (check,) = [each for each in json.loads(done.stdout)["checks"] if each["name"] == "risk 0.2"]
    assert not check["is_well"]
    assert check["told"] == found["explanation"]


def test_prompts_from_elsewhere_take_it_back_too(tmp_path):
    strange = [f"zq{number}x {'%#' * (number % 5)} vvv{number}" for number in range(64)]
    with opened(tmp_path / "store", RISK) as moe:
        moe.generate(strange, experts=None, max_new_tokens=1)
        void = moe.router.threshold().void
    assert (void.reason, void.allowed) == ("strangers", 0.1)
    assert void.failures > 20
