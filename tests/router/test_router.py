"""The router sends prompts where they are answered best, and knows what it does not know."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.special import logit

from adaptive_moe.config.settings import RouterSettings
from adaptive_moe.errors import RouterError, UnknownExpertError
from adaptive_moe.measures.calibration import auroc, expected_calibration_error
from adaptive_moe.models.fingerprint import Numerics
from adaptive_moe.router.boundary import Boundary, Outside, Placed, fit_boundary
from adaptive_moe.router.domains import fit_domain, nearest_distances
from adaptive_moe.router.files import read_model, write_model
from adaptive_moe.router.fitted_on import FittedOn
from adaptive_moe.router.router import ExpertArm, Router, RouterRow
from tests.router.world import NUMERICS, World, make_evidence, make_trace, placed

ACCURACY = {"a": 0.9, "b": 0.6, "c": 0.75, "d": 0.05}


def fit(world: World, count: int = 400, **settings: float) -> Router:
    rows = world.rows(count, accuracy=ACCURACY)
    return Router.fit(
        rows, base_id="base", numerics=NUMERICS, settings=RouterSettings(**settings), seed=0
    )


@pytest.fixture(scope="module")
def trained() -> Router:
    return fit(World(0), 600)


@pytest.fixture(scope="module")
def untrained() -> Router:
    world = World(1)
    return Router.untrained(
        {"first_token_entropy": np.linspace(0, 4, 101).tolist(), "mean_entropy": [1.0, 2.0, 3.0]},
        background=np.concatenate([world.states(name, 40) for name in "abcd"]),
        base_id="base",
        numerics=NUMERICS,
    )


def centre(domain: str) -> np.ndarray:
    """The states of a prompt in the very middle of a domain."""
    return World(0).centres[domain].astype(np.float32)


def arm(router: Router, domain: str, *, name: str = "expert", rate: float = 0.9) -> ExpertArm:
    region = fit_domain(domain, World(7).states(domain, 60), router.whitening, seed=0)
    return ExpertArm(name, 1, f"id of {name}", region, round(98 * rate), 98)


def test_probabilities_rank_and_keep_their_word_on_new_prompts(trained: Router) -> None:
    rows = World(100).rows(1500, accuracy=ACCURACY)
    evidence, correct = [row.evidence for row in rows], [row.correct for row in rows]
    traces = [row.trace for row in rows]
    before = trained.model.prefill_probabilities(evidence)
    after = trained.model.answer_probabilities(evidence, traces)
    entropy = np.array([-trace.entropy.mean() for trace in traces])
    assert auroc(after, correct) > auroc(entropy, correct) + 0.03
    assert auroc(after, correct) > auroc(before, correct)
    assert expected_calibration_error(after, correct) < 0.08


def test_the_base_answers_what_it_knows_even_with_an_expert_at_hand(trained: Router) -> None:
    expert = arm(trained, "g")
    for states in World(2).states("a", 30):
        decision = trained.decide(make_evidence(states, 0.1), [expert])
        assert decision.kind == "base"
        assert not decision.low_confidence


def test_a_prompt_of_the_experts_domain_goes_to_the_expert(trained: Router) -> None:
    expert = arm(trained, "g")
    decisions = [
        trained.decide(make_evidence(states, 3.0), [expert]) for states in World(3).states("g", 100)
    ]
    taken = [decision for decision in decisions if decision.kind == "experts"]
    assert len(taken) >= 95
    assert taken[0].experts == (("expert", 1, 1.0),)
    assert taken[0].domain == "g"
    assert not taken[0].low_confidence


def test_without_an_expert_an_unknown_prompt_is_low_confidence_and_in_no_domain(
    trained: Router,
) -> None:
    decisions = [trained.decide(make_evidence(s, 3.0)) for s in World(4).states("h", 50)]
    assert all(decision.kind == "base" and decision.low_confidence for decision in decisions)
    assert {decision.domain for decision in decisions} == {None}


def test_known_domains_are_those_of_which_the_base_knows_something(trained: Router) -> None:
    assert [domain.label for domain in trained.known_domains] == ["a", "b", "c"]


def test_a_prompt_nearer_to_a_known_domain_is_not_taken_by_a_wide_expert(trained: Router) -> None:
    expert = arm(trained, "g")
    wide = replace(expert, domain=replace(expert.domain, radius=1000.0))
    decisions = [trained.decide(make_evidence(s, 4.0), [wide]) for s in World(5).states("a", 50)]
    assert all(decision.kind == "base" for decision in decisions)


def test_risks_are_certified_on_one_answer_of_each_source(trained: Router) -> None:
    answers = World(11).rows(300, accuracy=ACCURACY)
    rows = [replace(row, source=f"document {place % 100}") for place, row in enumerate(answers)]
    again = trained.recalibrated(rows, numerics=NUMERICS)
    split = again.model.require_learned().calibration
    assert len(split.correct) == len(split.p_correct) == len(split.p_prefill) == 100


@pytest.mark.parametrize("doubt", [0.05, 4.0])
def test_a_topic_that_the_router_knows_is_the_domain_however_unsure_it_is(
    trained: Router, doubt: float
) -> None:
    for topic in ACCURACY:
        decision = trained.decide(make_evidence(centre(topic), doubt))
        assert (decision.domain, decision.topic) == (topic, topic)
        assert f"about {topic}," in " ".join(decision.reasons)
    assert trained.decide(make_evidence(centre("h"), doubt)).topic is None
    forced = trained.decide(make_evidence(centre("a"), doubt), forced=None)
    assert (forced.domain, forced.topic) == ("a", "a")


def test_an_unsure_prompt_at_the_edge_of_one_of_two_domains_is_in_neither() -> None:
    trained = Router.fit(
        World(0).rows(600, accuracy={"a": 0.9, "b": 0.6}),
        base_id="base",
        numerics=NUMERICS,
        seed=0,
    )
    assert trained.model.topics is None
    region = next(domain for domain in trained.known_domains if domain.label == "a")
    outward = World(0).axis
    steps = np.linspace(0, 40, 400)
    distances = [
        float(
            nearest_distances(
                trained.whitening.apply((centre("a") + step * outward)[None]), region.centroids
            )[0]
        )
        for step in steps
    ]
    edge = centre("a") + outward * steps[np.searchsorted(distances, 0.97 * region.radius)]
    assert trained.decide(make_evidence(edge, 0.05)).domain == "a"
    assert trained.decide(make_evidence(edge, 4.0)).domain is None
    assert trained.decide(make_evidence(centre("a"), 4.0)).domain == "a"


def test_an_expert_that_fails_is_not_preferred_to_a_base_that_knows(trained: Router) -> None:
    prompt = make_evidence(centre("g"), 0.0)
    poor = arm(trained, "g", rate=0.05)
    decision = trained.decide(prompt, [poor])
    assert decision.kind == "base"
    assert any("which is not above" in reason for reason in decision.reasons)


def test_the_base_is_trusted_by_its_record_where_an_expert_knows_it(trained: Router) -> None:
    # Sure of itself (p .8 or more), in a domain where it was right on none, or on most, of 98.
    prompt = make_evidence(centre("g"), 0.0)
    fair = arm(trained, "g", rate=0.75)
    unknown = trained.decide(prompt, [fair])
    assert unknown.p_prefill is not None
    assert unknown.p_prefill > 0.75
    ignorant = trained.decide(prompt, [replace(fair, base_successes=0)])
    knowing = trained.decide(prompt, [replace(fair, base_successes=90)])
    assert [unknown.kind, ignorant.kind, knowing.kind] == ["base", "experts", "base"]
    assert "the base alone 0" in ignorant.reasons[-1]


def test_what_is_expected_of_an_expert_falls_towards_the_edge(trained: Router) -> None:
    expert = arm(trained, "g", rate=0.95)
    inside = trained.decide(make_evidence(centre("g"), 3.0), [expert])
    wide = replace(expert, domain=replace(expert.domain, radius=expert.domain.radius * 0.5))
    nearer_the_edge = trained.decide(make_evidence(centre("g"), 3.0), [wide])
    assert expert.success_rate >= inside.expected[0] > nearer_the_edge.expected[0] > 0
    assert trained.decide(make_evidence(centre("g"), 3.0), [expert], forced="expert").expected == ()


def test_two_experts_that_fit_alike_share_the_answer(trained: Router) -> None:
    first = arm(trained, "g", name="first", rate=0.95)
    second = replace(first, name="second", expert_id="other", successes=90)
    decision = trained.decide(make_evidence(centre("g"), 3.0), [second, first])
    assert [name for name, _, _ in decision.experts] == ["first", "second"]
    gates = [gate for _, _, gate in decision.experts]
    assert sum(gates) == pytest.approx(1.0)
    assert gates[0] / gates[1] == pytest.approx((93 + 1) / (90 + 1))


def test_two_experts_that_do_not_fit_alike_do_not_mix(trained: Router) -> None:
    good = arm(trained, "g", name="good", rate=0.95)
    bad = replace(good, name="bad", expert_id="other", successes=30)
    far = arm(trained, "h", name="far", rate=0.95)
    decision = trained.decide(make_evidence(centre("g"), 3.0), [far, bad, good])
    assert decision.experts == (("good", 1, 1.0),)


def test_the_mixture_is_as_small_as_configured(trained: Router) -> None:
    first = arm(trained, "g", name="first")
    twins = [replace(first, name=f"n{i}", expert_id=f"i{i}") for i in range(5)]
    prompt = make_evidence(centre("g"), 3.0)
    assert len(trained.decide(prompt, twins).experts) == 2
    single = trained.with_settings(RouterSettings(max_experts=1))
    assert len(single.decide(prompt, twins).experts) == 1


def test_a_forced_route_is_taken_and_said_so(trained: Router) -> None:
    experts = [arm(trained, "g", name="first"), arm(trained, "h", name="second")]
    prompt = make_evidence(centre("a"), 0.1)
    both = trained.decide(prompt, experts, forced=["second", "first", "second"])
    assert both.experts == (("second", 1, 0.5), ("first", 1, 0.5))
    assert both.forced
    assert trained.decide(prompt, experts, forced="first").experts == (("first", 1, 1.0),)
    unknown = make_evidence(centre("g"), 4.0)
    base = trained.decide(unknown, experts, forced=None)
    assert (base.kind, base.forced, base.low_confidence) == ("base", True, True)


def test_a_forced_expert_that_does_not_exist_is_named(trained: Router) -> None:
    prompt = make_evidence(centre("a"), 0.1)
    with pytest.raises(UnknownExpertError, match=r"'missing'.*active: expert"):
        trained.decide(prompt, [arm(trained, "g")], forced=["missing"])


def test_arms_may_change_between_prompts(trained: Router) -> None:
    prompt = make_evidence(centre("g"), 3.0)
    expert = arm(trained, "g")
    assert trained.decide(prompt, [expert]).kind == "experts"
    assert trained.decide(prompt, []).kind == "base"
    assert trained.decide(prompt, [replace(expert, successes=0)]).kind == "base"
    assert trained.decide(prompt, [expert]).kind == "experts"


def test_the_second_choice_is_the_expert_that_came_closest_and_does_not_answer(
    trained: Router,
) -> None:
    prompt = make_evidence(centre("g"), 3.0)
    better, worse = (
        arm(trained, "g", name=name, rate=rate) for name, rate in (("b", 0.9), ("w", 0.6))
    )
    answered = trained.decide(prompt, [worse, better])
    assert ([name for name, _, _ in answered.experts], answered.runner_up) == (["b"], "w")
    refused = trained.decide(prompt, [replace(better, successes=0)])
    assert (refused.kind, refused.runner_up) == ("base", "b")
    assert trained.decide(prompt, [better]).runner_up is None
    assert trained.decide(make_evidence(centre("a"), 0.1), [better]).runner_up is None


def test_an_expert_of_another_whitening_is_left_out(trained: Router, untrained: Router) -> None:
    prompt = make_evidence(centre("g"), 3.0)
    assert trained.decide(prompt, [arm(untrained, "g")]).kind == "base"


def test_far_from_the_training_prompts_the_entropy_decides(trained: Router) -> None:
    learned = trained.model.learned
    assert learned is not None
    far = make_evidence(World(0).centres["a"] * 50, 2.0)
    trace = make_trace([2.0, 1.0])
    p = trained.judge(far, trace).p_correct
    like_near = trained.judge(make_evidence(World(0).centres["a"], 2.0), trace)
    scores = [{**like_near.scores, "log_length": np.log1p(2)}]
    by_entropy = learned.answer.fallback_probability(scores, far.states[None])[0]
    assert p == pytest.approx(by_entropy, abs=1e-6)


def test_an_empty_answer_is_certainly_wrong(trained: Router) -> None:
    prompt = make_evidence(centre("a"), 0.0)
    confidence = trained.judge(prompt, make_trace([]))
    assert confidence.p_correct == 0.0
    assert trained.is_low(confidence)


def test_a_sure_answer_is_trusted_and_an_unsure_one_is_not(trained: Router) -> None:
    prompt = make_evidence(centre("a"), 0.1)
    sure, unsure = (trained.judge(prompt, make_trace([e, e])) for e in (0.05, 4.0))
    assert sure.calibrated
    assert not trained.is_low(sure)
    assert trained.is_low(unsure)
    assert set(sure.scores) > {"mean_entropy", "first_token_entropy", "ood"}
    assert sure.token_scores["entropy"] == pytest.approx((0.05, 0.05))


@pytest.mark.parametrize("kind", ["trained", "untrained"])
def test_what_the_decision_knew_changes_no_judgement(
    kind: str, request: pytest.FixtureRequest
) -> None:
    router: Router = request.getfixturevalue(kind)
    trace = make_trace([0.5, 1.5])
    for states in (centre("a"), centre("d"), centre("b") * 3):
        prompt = make_evidence(states, 1.0)
        decision = router.decide(prompt)
        for records in ((), (0.7,)):
            anew = router.judge(prompt, trace, records=records)
            assert router.judge(prompt, trace, records=records, decision=decision) == anew


def boundary(inside: np.ndarray, outside: np.ndarray) -> Boundary | None:
    groups = [str(index) for index in range(len(inside))]
    return fit_boundary(placed(inside), Outside(placed(outside)), groups=groups)


def test_the_younger_expert_takes_what_both_claim_and_leaves_the_rest(trained: Router) -> None:
    # The older boundary cannot know the younger domain and claims it; the younger knows both.
    world = World(7)
    old, new, base = (world.states(name, 80) for name in ("g", "h", "a"))
    older = arm(trained, "g", name="older", rate=0.98)
    younger = arm(trained, "h", name="younger", rate=0.9)
    older = replace(
        older,
        created="2026-01-01",
        domain=replace(
            older.domain, radius=1e9, boundary=boundary(np.concatenate([old, new]), base)
        ),
    )
    younger = replace(
        younger,
        created="2026-01-02",
        domain=replace(
            younger.domain, radius=1e9, boundary=boundary(new, np.concatenate([old, base]))
        ),
    )
    for domain, wanted in (("g", "older"), ("h", "younger")):
        for states in World(8).states(domain, 20):
            decision = trained.decide(make_evidence(states, 3.0), [older, younger])
            assert [name for name, _, _ in decision.experts] == [wanted]


def test_among_many_experts_at_one_place_the_words_find_the_one(trained: Router) -> None:
    stars = [
        "Orion",
        "Lyra",
        "Cygnus",
        "Auriga",
        "Lepus",
        "Corvus",
        "Pavo",
        "Vela",
        "Draco",
        "Indus",
        "Hydra",
        "Norma",
    ]
    texts = np.array([f"what is {star}?" for star in stars for _ in range(10)])
    states = World(7).states("g", len(texts))
    place = arm(trained, "g").domain
    experts = []
    for star in stars:
        own = np.char.find(texts, star) >= 0
        sides = [Placed(states[side], tuple(texts[side].tolist())) for side in (own, ~own)]
        drawn = fit_boundary(
            sides[0], Outside(sides[1]), groups=[str(index) for index in range(10)]
        )
        domain = replace(place, label=star, radius=1e9, boundary=drawn)
        experts.append(replace(arm(trained, "g", name=star), domain=domain))
    for star, states_now in zip(stars, World(8).states("g", len(stars)), strict=True):
        decision = trained.decide(make_evidence(states_now, 3.0, f"{star}, what is it?"), experts)
        assert [name for name, _, _ in decision.experts] == [star]


def test_an_experts_answer_is_judged_by_the_experts_record(trained: Router) -> None:
    prompt = make_evidence(centre("g"), 3.0)
    good, poor = arm(trained, "g", rate=0.95), arm(trained, "g", rate=0.2)
    trace = make_trace([1.5, 1.5])
    by_good, by_poor, by_both = (
        trained.judge(prompt, trace, records=[arm.success_rate for arm in arms])
        for arms in ([good], [poor], [good, poor])
    )
    assert not by_good.calibrated
    assert by_good.p_correct is not None
    assert by_poor.p_correct is not None
    assert by_both.p_correct is not None
    # Success rates (93 + 1) / 100 and (20 + 1) / 100 enter as odds.
    odds = np.log(0.94 / 0.06) - np.log(0.21 / 0.79)
    assert logit(by_good.p_correct) - logit(by_poor.p_correct) == pytest.approx(odds)
    assert by_good.p_correct > by_both.p_correct > by_poor.p_correct


def test_an_untrained_router_goes_by_percentiles(untrained: Router) -> None:
    states = centre("a")
    low, high = (untrained.decide(make_evidence(states, e)) for e in (1.0, 3.9))
    assert (low.p_prefill, low.low_confidence, high.low_confidence) == (None, False, True)
    assert low.uncertainty == pytest.approx(25.5 / 101)
    assert low.domain is None
    confidence = untrained.judge(make_evidence(states, 1.0), make_trace([2.0]))
    assert (confidence.p_correct, confidence.calibrated) == (None, False)
    # Among (1, 2, 3), 2 stands at .5 and 3.5 at 1; the threshold is .7.
    assert not untrained.is_low(confidence)
    unsure = untrained.judge(make_evidence(states, 1.0), make_trace([3.5]))
    assert untrained.is_low(unsure)


def test_an_untrained_router_uses_a_proven_expert_inside_its_domain_only(
    untrained: Router,
) -> None:
    expert = arm(untrained, "g")
    inside = [untrained.decide(make_evidence(s, 1.0), [expert]) for s in World(3).states("g", 50)]
    outside = [untrained.decide(make_evidence(s, 3.9), [expert]) for s in World(3).states("a", 50)]
    assert sum(decision.kind == "experts" for decision in inside) >= 45
    assert all(decision.kind == "base" for decision in outside)


def test_too_few_and_one_sided_labels_are_refused_with_counts() -> None:
    rows = World(0).rows(200, accuracy={"a": 1.0})
    with pytest.raises(RouterError, match=r"200 labels \(200 right, 0 wrong\) .* one-sided"):
        Router.fit(rows, base_id="base", numerics=NUMERICS, seed=0)
    with pytest.raises(RouterError, match=r"30 labels .* too few"):
        Router.fit(rows[:30], base_id="base", numerics=NUMERICS, seed=0)
    same = [replace(row, source="one") for row in rows]
    with pytest.raises(RouterError, match="from 1 sources are too few"):
        Router.fit(same, base_id="base", numerics=NUMERICS, seed=0)


def test_a_router_can_be_calibrated_on_labels_of_other_traffic(trained: Router) -> None:
    harder = {name: rate / 2 for name, rate in ACCURACY.items()}
    rows = World(50).rows(1200, accuracy=harder)
    evidence, traces = [row.evidence for row in rows], [row.trace for row in rows]
    correct = [row.correct for row in rows]
    other = Numerics(dtype="bfloat16", quantization=None, device="cpu")
    again = trained.recalibrated(World(51).rows(300, accuracy=harder), numerics=other)
    before, after = (
        expected_calibration_error(each.model.answer_probabilities(evidence, traces), correct)
        for each in (trained, again)
    )
    assert after < before / 2
    assert again.model.numerics == other.to_dict()
    assert again.known_domains == trained.known_domains
    with pytest.raises(RouterError, match="10 labels"):
        trained.recalibrated(World(51).rows(10, accuracy=harder), numerics=other)


def test_grades_make_a_router_of_agreement_one_of_right_answers() -> None:
    rows = World(0).rows(300, accuracy=ACCURACY)
    made = FittedOn.of(rows, target="agreement", samples=5)
    agreeing = Router.fit(rows, base_id="base", numerics=NUMERICS, seed=0, fitted_on=made)
    assert not agreeing.is_calibrated
    graded = [
        replace(row, source=f"new {row.source}") for row in World(1).rows(100, accuracy=ACCURACY)
    ]
    again = agreeing.recalibrated(graded, numerics=NUMERICS)
    assert again.is_calibrated
    assert again.target == "answers"
    known = again.model.learned
    assert known is not None
    assert known.fitted_on is not None
    sources = [rows[0].source, graded[0].source, "neither"]
    assert known.fitted_on.holds(["?"] * 3, sources).tolist() == [True, True, False]


def test_calibration_rows_of_ones_own_choice_share_no_source(trained: Router) -> None:
    rows = World(0).rows(300, accuracy=ACCURACY)
    other = [replace(row, source=f"other {row.source}") for row in rows[:100]]

    def fitted(calibration: list[RouterRow]) -> Router:
        return Router.fit(rows, base_id="base", numerics=NUMERICS, calibration=calibration, seed=0)

    learned = fitted(other).model.learned
    assert learned is not None
    assert learned.calibration.correct.size == 100
    with pytest.raises(RouterError, match="stand on both sides"):
        fitted([*other, rows[0]])


def test_thresholds_by_risk_coverage_and_value(trained: Router) -> None:
    by_risk = trained.threshold(target_risk=0.3)
    assert by_risk.certified
    assert trained.threshold(coverage=0.5).coverage == pytest.approx(0.5, abs=0.03)
    assert trained.threshold(value=0.9).value == 0.9
    assert trained.threshold().value == 0.7
    with pytest.raises(RouterError, match="one of"):
        trained.threshold(value=0.9, coverage=0.5)
    strict = trained.with_settings(RouterSettings(target_risk=0.3))
    assert strict.threshold() == by_risk


def test_an_untrained_router_promises_no_risk(untrained: Router) -> None:
    with pytest.raises(RouterError, match="untrained"):
        untrained.threshold(target_risk=0.1)
    assert untrained.with_settings(RouterSettings(target_risk=0.1)).threshold().value == 0.7


def test_references_must_exist() -> None:
    with pytest.raises(RouterError, match="no finite mean_entropy"):
        Router.untrained(
            {"first_token_entropy": [1.0]},
            background=World(0).states("a", 10),
            base_id="base",
            numerics=NUMERICS,
        )


def test_a_kept_whitening_keeps_experts_valid(untrained: Router) -> None:
    rows = World(0).rows(200, accuracy=ACCURACY)
    router = Router.fit(
        rows, base_id="base", numerics=NUMERICS, whitening=untrained.whitening, seed=0
    )
    expert = arm(untrained, "g")
    decisions = [router.decide(make_evidence(s, 3.0), [expert]) for s in World(3).states("g", 20)]
    assert sum(decision.kind == "experts" for decision in decisions) >= 17


_DECIDE = """
import sys
from pathlib import Path
from adaptive_moe.router.router import Router
from tests.router.world import NUMERICS, World, make_evidence, make_trace
for folder in sys.argv[1:]:
    router = Router.load(Path(folder), base_id="base", numerics=NUMERICS)
    for index, states in enumerate(World(11).states("a", 20)):
        evidence = make_evidence(states, index / 5)
        sys.stdout.write(repr(router.decide(evidence)))
        sys.stdout.write(repr(router.judge(evidence, make_trace([index / 7, 0.5]))))
"""


def test_a_fresh_process_decides_exactly_alike(
    trained: Router, untrained: Router, tmp_path: Path
) -> None:
    folders, expected = [], ""
    for router in (trained, untrained):
        folders.append(str(tmp_path / str(router.is_trained)))
        router.save(Path(folders[-1]))
        for index, states in enumerate(World(11).states("a", 20)):
            evidence = make_evidence(states, index / 5)
            expected += repr(router.decide(evidence))
            expected += repr(router.judge(evidence, make_trace([index / 7, 0.5])))
    fresh = subprocess.run(
        [sys.executable, "-c", _DECIDE, *folders], capture_output=True, text=True, check=True
    )
    assert fresh.stdout == expected


def test_same_rows_and_seed_give_the_same_files(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        fit(World(0), 120).save(tmp_path / folder)
    for name in ("router.json", "router.safetensors"):
        first, second = ((tmp_path / folder / name).read_bytes() for folder in ("one", "two"))
        assert first == second


def test_another_base_is_refused_by_name(trained: Router, tmp_path: Path) -> None:
    trained.save(tmp_path)
    with pytest.raises(RouterError, match="fitted on base base, this model is other"):
        Router.load(tmp_path, base_id="other", numerics=NUMERICS)
    forced = Router.load(tmp_path, base_id="other", numerics=NUMERICS, force_uncalibrated=True)
    assert not forced.is_calibrated


def test_other_numerics_load_but_are_not_calibrated(trained: Router, tmp_path: Path) -> None:
    trained.save(tmp_path)
    other = replace(NUMERICS, quantization="nf4")
    router = Router.load(tmp_path, base_id="base", numerics=other)
    prompt = make_evidence(centre("a"), 0.1)
    confidence = router.judge(prompt, make_trace([0.1]))
    assert not router.is_calibrated
    assert not confidence.calibrated
    assert confidence.p_correct == trained.judge(prompt, make_trace([0.1])).p_correct


def test_a_damaged_router_is_refused(trained: Router, tmp_path: Path) -> None:
    trained.save(tmp_path)
    weights = tmp_path / "router.safetensors"
    content = bytearray(weights.read_bytes())
    content[-5] ^= 1
    weights.write_bytes(content)
    with pytest.raises(RouterError, match="damaged"):
        Router.load(tmp_path, base_id="base", numerics=NUMERICS)


@pytest.mark.parametrize(
    "change",
    [
        {"labels": ("a", "b", "c")},
        {"words": np.zeros((5, 4), np.float16)},
        {"states": np.zeros((2, 4), np.float32)},
        {"least": -5.0},
        {"radius": -1.0},
    ],
)
def test_topics_that_cannot_be_found_are_refused(
    trained: Router, tmp_path: Path, change: dict[str, object]
) -> None:
    model = trained.model
    assert model.topics is not None
    write_model(tmp_path, replace(model, topics=replace(model.topics, **change)))
    with pytest.raises(RouterError, match="damaged"):
        read_model(tmp_path)


@pytest.mark.parametrize(
    ("old", "new"),
    [('"schema_version": 2', '"schema_version": 9'), ('"base_id"', '"bass_id"'), ("{", "[")],
)
def test_a_foreign_description_is_refused(
    trained: Router, tmp_path: Path, old: str, new: str
) -> None:
    trained.save(tmp_path)
    path = tmp_path / "router.json"
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(RouterError):
        Router.load(tmp_path, base_id="base", numerics=NUMERICS)


def test_a_missing_router_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RouterError, match="no router can be read"):
        Router.load(tmp_path / "nowhere", base_id="base", numerics=NUMERICS)


def test_states_of_another_model_are_refused(trained: Router) -> None:
    with pytest.raises(RouterError, match="another model"):
        trained.decide(make_evidence(np.zeros(5), 1.0))
