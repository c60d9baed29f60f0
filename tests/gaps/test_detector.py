"""From prompts to a declared gap and through its life."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from adaptive_moe.config.settings import GapSettings
from adaptive_moe.errors import GapError, GapStateError, UnknownGapError
from adaptive_moe.gaps.detector import GapDetector
from adaptive_moe.gaps.evidence import Observation
from adaptive_moe.gaps.ledger import GapLedger
from adaptive_moe.gaps.states import GapState


def observe(detector, observations):
    return [detector.observe(observation) for observation in observations]


def fail(detector, noticed, *, correct=False, origin="grade"):
    gap = None
    for found in noticed:
        gap = detector.outcome(found.observation_id, correct=correct, origin=origin)
    return gap


def test_one_session_alone_opens_a_gap_with_eight_distinct_prompts(detector, world):
    noticed = observe(detector, world.elements(8))
    assert [found.gap.state for found in noticed] == ["OBSERVED"] * 4 + ["SUSPECTED"] * 4
    assert [found.changed for found in noticed].count(True) == 1

    members = detector.unchecked_members(noticed[-1].gap.id)
    for observation_id, _ in members:
        gap = detector.outcome(observation_id, correct=False, origin="consistency")

    assert gap.state is GapState.VERIFIED
    assert (gap.failures, gap.successes) == (8, 0)
    assert gap.lower_bound > 0.5
    assert gap.terms[0] == "symbol"


def test_low_confidence_alone_never_verifies(detector, world):
    noticed = observe(detector, world.elements(27, p_correct=0.0))

    assert noticed[-1].gap.state is GapState.SUSPECTED


def test_uncalibrated_doubt_can_suspect_too(detector, world):
    noticed = observe(detector, world.elements(5, p_correct=None))

    assert noticed[-1].gap.state is GapState.SUSPECTED
    assert noticed[-1].gap.p_correct_mean is None


def test_repeated_prompts_count_once(detector, world):
    for _ in range(10):
        noticed = detector.observe(world.ask("What is the symbol of iron?"))
        detector.observe(world.ask("what is the symbol of IRON"))

    assert noticed.gap.figures.distinct == 1
    assert noticed.gap.state is GapState.OBSERVED


def test_near_duplicates_count_once_but_filled_templates_do_not(detector, world):
    vector = world.vector("chemistry")
    prompts = ["the symbol of iron", "the symbol of iron, quickly", "the symbol of gold"]
    noticed = [
        detector.observe(Observation(prompt, "?", 0.1, True, None, vector, "s"))
        for prompt in prompts
    ]

    assert [found.gap.figures.distinct for found in noticed] == [1, 1, 2]


def test_an_outcome_of_a_repeated_prompt_speaks_for_the_first(detector, world):
    first, again = observe(detector, [world.ask("symbol of iron"), world.ask("Symbol of iron?")])

    gap = detector.outcome(again.observation_id, correct=False, origin="feedback")

    assert [member.observation_id for member in gap.members] == [first.observation_id]
    assert gap.failures == 1


def test_a_grade_outranks_feedback_and_the_newest_of_equals_counts(detector, world):
    (noticed,) = observe(detector, world.elements(1))
    judge = detector.outcome
    judge(noticed.observation_id, correct=False, origin="feedback")
    assert judge(noticed.observation_id, correct=True, origin="consistency").failures == 1
    assert judge(noticed.observation_id, correct=True, origin="feedback").failures == 0
    assert judge(noticed.observation_id, correct=False, origin="grade").failures == 1
    assert judge(noticed.observation_id, correct=True, origin="feedback").failures == 1


def test_one_session_among_several_gives_at_most_half(detector, world):
    detector.observe(world.ask("weather in Rome", topic="weather", session="visitor"))
    observe(detector, world.elements(8, session="loud"))
    detector.observe(world.ask("weather in Oslo", topic="weather", session="visitor"))
    gap = observe(detector, world.elements(1, start=8, session="loud"))[-1].gap
    assert gap.figures.distinct == 0
    assert gap.held_back == 9

    others = world.elements(4, start=9, session="quiet")
    gap = observe(detector, others)[-1].gap

    assert gap.figures.distinct == 8


def test_other_topics_open_other_gaps(detector, world):
    ports = [f"Which service listens on port {number}?" for number in (21, 22, 25, 53, 80, 110)]
    chemistry = observe(detector, world.elements(6))
    network = observe(detector, [world.ask(prompt, topic="network") for prompt in ports])

    assert chemistry[-1].gap.id != network[-1].gap.id
    assert len(detector.list()) == 2
    assert {"port", "service"} <= set(network[-1].gap.terms)


def test_a_named_domain_is_one_group_whatever_its_states(detector, world):
    noticed = observe(
        detector,
        [
            world.ask("symbol of iron", domain="science"),
            world.ask("moons of Mars", topic="space", domain="science"),
        ],
    )

    assert noticed[0].gap.id == noticed[1].gap.id
    assert noticed[1].gap.label == "science"


def test_confident_prompts_of_a_domain_keep_a_gap_from_opening(detector, world):
    observe(detector, world.elements(20, domain="chemistry", low=False, p_correct=0.95))
    noticed = observe(detector, world.elements(7, start=20, domain="chemistry"))
    gap = fail(detector, noticed)

    assert gap.state is GapState.OBSERVED
    assert "no gap at present" in detector.explain(gap)[-1]


def test_confident_prompts_without_domain_count_for_the_cluster_they_lie_in(detector, world):
    observe(detector, world.elements(20, low=False, p_correct=0.95))
    gap = observe(detector, world.elements(7, start=20))[-1].gap

    assert gap.state is GapState.OBSERVED
    assert gap.figures.confident == 20


def test_a_wrong_confident_answer_is_evidence(detector, world):
    noticed = detector.observe(world.ask("symbol of iron", low=False, p_correct=0.9))
    assert noticed.gap is None

    gap = detector.outcome(noticed.observation_id, correct=False, origin="feedback")

    assert gap.failures == 1
    assert gap.prompts == ("symbol of iron",)


def test_a_right_confident_answer_opens_nothing(detector, world):
    noticed = detector.observe(world.ask("symbol of iron", low=False, p_correct=0.9))

    assert detector.outcome(noticed.observation_id, correct=True, origin="grade") is None
    assert detector.list() == ()


def test_prompts_without_a_topic_are_no_evidence(detector, world):
    noticed = detector.observe(world.ask("And what about it?"))

    assert noticed.gap is None
    assert detector.outcome(noticed.observation_id, correct=False, origin="grade") is None


def test_what_was_no_lack_of_knowledge_is_taken_out(detector, world):
    noticed = observe(detector, world.elements(5))
    assert noticed[-1].gap.state is GapState.SUSPECTED

    for found in noticed:
        gap = detector.exclude(found.observation_id, cause="routing_miss")

    assert gap.figures.distinct == 0


@pytest.mark.parametrize("vector", [np.zeros(4), np.array([np.nan, 1.0]), np.empty(0)])
def test_a_vector_without_direction_needs_a_domain(detector, vector):
    homeless = detector.observe(Observation("symbol of iron", "?", 0.1, True, None, vector, "s"))
    housed = detector.observe(Observation("symbol of iron", "?", 0.1, True, "x", vector, "s"))

    assert homeless.gap is None
    assert housed.gap.label == "x"


def test_right_answers_send_a_suspect_back_and_it_stays_there(detector, world):
    noticed = observe(detector, world.elements(8))
    gap = fail(detector, noticed, correct=True)
    assert gap.state is GapState.OBSERVED

    later = observe(detector, world.elements(4, start=8))

    assert [found.gap.state for found in later] == [GapState.OBSERVED] * 4


def test_filling_takes_the_allowed_way_and_is_written_down(detector, verify):
    gap = verify()
    for state in ("QUEUED", "TRAINING", "EVALUATING"):
        gap = detector.transition(gap.id, GapState(state), "next")
    gap = detector.transition(gap.id, GapState.FILLED, "passed", expert="chemistry")

    assert gap.expert == "chemistry"
    assert [step.after for step in gap.history] == [
        "SUSPECTED", "VERIFIED", "QUEUED", "TRAINING", "EVALUATING", "FILLED",
    ]  # fmt: skip
    assert gap.history[1].figures["failures"] >= 5


def test_steps_outside_the_table_are_refused(detector, verify):
    gap = verify()

    with pytest.raises(GapStateError, match=r"is VERIFIED and cannot become TRAINING; it can"):
        detector.transition(gap.id, GapState.TRAINING, "hasty")
    with pytest.raises(GapStateError, match="never filled"):
        detector.transition(gap.id, GapState.FILLED, "wishful", expert="x")
    with pytest.raises(UnknownGapError):
        detector.show(99)
    with pytest.raises(GapError, match="no observation 999"):
        detector.outcome(999, correct=True, origin="grade")


def test_only_evidence_verifies_and_only_a_person_trains_without_it(detector, world):
    gap = observe(detector, world.elements(5))[-1].gap

    with pytest.raises(GapStateError, match="evidence does not show it"):
        detector.transition(gap.id, GapState.VERIFIED, "because I say so")
    with pytest.raises(GapStateError, match="unless a person asks"):
        detector.transition(gap.id, GapState.QUEUED, "automatic")
    gap = detector.transition(gap.id, GapState.QUEUED, "wanted", by_person=True)
    with pytest.raises(GapStateError, match="evidence does not show it"):
        detector.transition(gap.id, GapState.VERIFIED, "withdrawn")
    assert detector.transition(gap.id, GapState.OBSERVED, "withdrawn").state is GapState.OBSERVED


def test_a_filled_gap_reopens_on_fresh_evidence_only(detector, world, verify):
    gap = verify()
    for state in ("QUEUED", "TRAINING", "EVALUATING"):
        detector.transition(gap.id, GapState(state), "next")
    detector.transition(gap.id, GapState.FILLED, "passed", expert="chemistry")

    again = observe(detector, world.elements(4, domain="chemistry"))
    assert {found.gap.id for found in again} == {gap.id}
    assert again[-1].gap.state is GapState.FILLED

    reopened = observe(detector, world.elements(4, start=4, domain="chemistry"))
    assert reopened[-1].gap.state is GapState.SUSPECTED
    assert fail(detector, again + reopened).state is GapState.VERIFIED


def test_after_each_rejection_the_pause_doubles_up_to_four_times(detector, world, verify):
    gap = verify()
    lengths = []
    for _ in range(4):
        detector.transition(gap.id, GapState.QUEUED, "try", by_person=True)
        detector.transition(gap.id, GapState.REJECTED, "no material")
        start = len(lengths)
        prompts = 0
        while True:
            prompts += 1
            noticed = detector.observe(world.ask(f"symbol of element {start} {prompts}"))
            if noticed.gap.state is GapState.OBSERVED:
                break
            assert noticed.gap.state is GapState.COOLDOWN
        lengths.append(prompts)
        assert noticed.gap.figures.distinct == 0

    assert lengths == [2, 4, 8, 8]


def test_a_dismissed_gap_stays_away_until_reopened(detector, world, verify):
    gap = verify()
    assert detector.dismiss(gap.id).state is GapState.DISMISSED

    assert all(found.gap is None for found in observe(detector, world.elements(8, start=8)))
    reopened = detector.transition(gap.id, GapState.OBSERVED, "reconsidered")
    assert reopened.figures.distinct == 0


def test_equal_clusters_become_one_gap(ledger, world):
    detector = GapDetector(ledger, GapSettings())
    with ledger.transaction():
        ledger.set_clustering("", radius=0.001, unassigned=100)  # far too narrow
    for observation in world.elements(4, spread=0.25):
        detector.observe(observation)
    assert len(detector.list()) == 4
    with ledger.transaction():
        ledger.set_clustering("", radius=0.6, unassigned=100)
    noticed = observe(detector, world.elements(5, start=4, spread=0.25))

    assert len(detector.list()) == 1
    assert noticed[-1].gap.figures.distinct == 9
    assert detector.show(2).id == detector.show(4).id


def test_gaps_of_different_bases_never_meet(ledger, world):
    one = GapDetector(ledger, GapSettings(), base_id="one")
    other = GapDetector(ledger, GapSettings(), base_id="other")
    gap = observe(one, world.elements(5))[-1].gap

    assert other.list() == ()
    with pytest.raises(UnknownGapError):
        other.show(gap.id)


def test_states_of_another_width_are_kept_apart(detector, world):
    observe(detector, world.elements(5))
    wide = Observation("symbol of iron", "?", 0.1, True, None, np.ones(7), "s")

    assert detector.observe(wide).gap.figures.distinct == 1
    assert len(detector.list()) == 2


def test_a_detector_made_anew_knows_everything(tmp_path, world):
    file = tmp_path / "gaps.sqlite"
    with GapLedger(file) as ledger:
        observe(GapDetector(ledger, GapSettings()), world.elements(7))
    with GapLedger(file) as ledger:
        detector = GapDetector(ledger, GapSettings())
        before = detector.list()[0]
        after = observe(detector, world.elements(1, start=7))[0].gap

    assert before.state is GapState.SUSPECTED
    assert after.id == before.id
    assert after.figures.distinct == 8


def test_threads_share_a_detector(detector, world):
    observations = world.elements(24, domain="chemistry")
    with ThreadPoolExecutor(6) as pool:
        noticed = list(pool.map(detector.observe, observations))

    assert len({found.observation_id for found in noticed}) == 24
    (gap,) = detector.list()
    assert gap.figures.distinct == 24
    assert [step.after for step in gap.history] == ["SUSPECTED"]


def test_checks_are_asked_for_in_rounds_and_not_for_ever(detector, world):
    noticed = observe(detector, world.elements(27))
    gap_id = noticed[-1].gap.id
    assert len(detector.unchecked_members(gap_id)) == 8
    assert len(detector.unchecked_members(gap_id, limit=3)) == 3

    small = GapDetector(detector._ledger, GapSettings(consistency_members=2))
    for turn, found in enumerate(noticed[:8]):
        detector.outcome(found.observation_id, correct=turn % 2 == 0, origin="consistency")

    assert small.unchecked_members(gap_id) == ()


def test_a_gap_explains_itself(detector, world):
    few = detector.explain(observe(detector, world.elements(2))[-1].gap)
    assert "missing: 3 more distinct prompts" in few
    some = detector.explain(observe(detector, world.elements(4, start=2))[-1].gap)
    assert "missing: 2 more distinct prompts" in some
    assert any(line.startswith("missing: outcomes") for line in some)
    noticed = observe(detector, world.elements(8, start=6))
    verified = detector.explain(fail(detector, noticed))
    assert verified[0].startswith("VERIFIED since 2026-01-01")
    assert any("checked answers wrong" in line for line in verified)


def test_every_state_can_be_explained_and_written_as_json(detector, world, verify):
    import json

    gap = verify()
    seen = set()
    for state in ("QUEUED", "TRAINING", "EVALUATING", "REJECTED"):
        gap = detector.transition(gap.id, GapState(state), "next")
        assert len(detector.explain(gap)) >= 2
        seen.add(json.loads(json.dumps(gap.to_dict()))["state"])
    cooling = detector.observe(world.ask("symbol of unobtainium")).gap

    assert "paused for 1 more prompt" in detector.explain(cooling)[-1]
    assert "1 more prompt of" in detector.explain(cooling)[-1]
    assert seen == {"QUEUED", "TRAINING", "EVALUATING", "REJECTED"}
