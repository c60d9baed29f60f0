"""The gate lets through what is proven to help and to harm nothing."""

import json
from pathlib import Path

import pytest
import torch

from adaptive_moe.errors import DataError
from adaptive_moe.experts.weights import LoraPair
from adaptive_moe.training.documents import Passage
from adaptive_moe.training.gate import Respondents, run_gate
from adaptive_moe.training.guarding import GuardItem, Reply, ask_again, measure_guard
from adaptive_moe.training.held_out import Measure, Predecessor
from adaptive_moe.training.ranks import plan_ranks
from adaptive_moe.training.retrieval import measure_retrieval
from adaptive_moe.training.side_effects import general_texts
from adaptive_moe.training.splits import Split
from adaptive_moe.training.synthesis import Example
from adaptive_moe.training.trainer import train_lora
from tests.support.tiny_models import tiny_language_model


def guard(count):
    return [GuardItem((("user", f"known {i}?"),), f"Answer {i}.") for i in range(count)]


def answerer(wrong=0, **other):
    """Knows the guard questions from number `wrong` on; says `other` to everything else."""

    def answer(prompt):
        word, _, number = prompt[-1][1].rstrip("?").partition(" ")
        if word != "known":
            return Reply(**{"text": "no idea", **other})
        text = f"answer {number}" if int(number) >= wrong else "no idea"
        return Reply(text, distance=float(number))

    return lambda prompts: [answer(prompt) for prompt in prompts]


GUARD = guard(300)
GENERAL = [
    Example((("user", f"saying {i}"),), f"It goes on {i}.", str(i), "said", "base", i)
    for i in range(40)
]
RIGHT = answerer()


class Recorder(list):
    """Keeps the record that the expert is asked with."""

    def __call__(self, record):
        self.append(record)
        return RIGHT


@pytest.fixture(scope="module")
def trained(make_bank, examples, quick):
    llama = tiny_language_model("llama")
    settings = quick.model_copy(update={"max_steps": 40, "evaluate_every": 20})
    bank = make_bank(llama)
    plan = plan_ranks(llama.layers, strategy="fixed", reference_rank=4)
    result = train_lora(
        llama, bank, plan, examples, held_out=examples[:12], settings=settings, seed=0
    )

    def gate(
        name="generalise",
        weights=result.weights,
        guards=GUARD,
        automatic=RIGHT,
        before=RIGHT,
        general=GENERAL,
        predecessor=None,
        base=RIGHT,
        **changed,
    ):
        changed_settings = settings.model_copy(update=changed)
        return run_gate(
            Measure(llama, bank, weights, changed_settings, seed=0),
            Split(name, tuple(examples), (), tuple(examples[:12]), "digest"),
            passages=(),
            guard=guards,
            general=general,
            respondents=Respondents(
                live=automatic if isinstance(automatic, Recorder) else lambda _: automatic,
                before=before,
                forced=answerer(9),
                base=base,
            ),
            predecessor=predecessor,
        )

    gate.weights = result.weights
    return gate


def test_a_proven_gain_without_loss_is_accepted(trained):
    report = trained()
    assert report.accepted
    assert report.reasons == ()
    assert report.held_out.metric == "loss"
    assert report.held_out.loss_after < report.held_out.loss_before
    assert report.held_out.gain.low > 0
    assert report.guard.bound == pytest.approx(0.00994, abs=1e-4)
    assert report.guard_forced.lost == 9
    json.dumps(report.to_dict(), allow_nan=False)


def test_the_better_version_serves(trained, examples):
    half = halved(trained.weights)
    weaker = trained(predecessor=Predecessor(1, half, "answer", frozenset()))
    assert weaker.accepted
    assert weaker.versions.gain.mean > 0
    assert weaker.versions.examples == 12

    better = trained(
        weights=half, predecessor=Predecessor(1, trained.weights, "answer", frozenset())
    )
    assert better.held_out.gain.low > 0
    assert not better.accepted
    assert better.versions.gain.mean == pytest.approx(-weaker.versions.gain.mean)
    (reason,) = better.reasons
    assert reason.startswith("version 1, which serves, is better by ")

    equal = trained(predecessor=Predecessor(1, trained.weights, "answer", frozenset()))
    assert equal.accepted
    assert equal.versions.gain.mean == 0


def halved(weights):
    return {name: LoraPair(pair.a, pair.b * 0.5) for name, pair in weights.items()}


def test_versions_are_compared_on_questions_that_are_new_to_both(trained, examples):
    taught = frozenset(example.prompt[-1][1].upper() for example in examples[4:12])
    report = trained(
        weights=halved(trained.weights),
        predecessor=Predecessor(1, trained.weights, "answer", taught),
    )
    assert (report.versions.examples, report.versions.taught) == (4, 0)
    assert report.versions.loss_after > report.versions.loss_before
    assert report.reasons[0].endswith("on 4 held-out questions that it was not taught")


def test_what_only_the_old_version_was_taught_lets_no_worse_one_pass(trained, examples):
    """Three questions are new to both: too few, so all are asked, to the old one's advantage."""
    taught = frozenset(example.prompt[-1][1] for example in examples[3:12])
    weaker = trained(
        weights=halved(trained.weights),
        predecessor=Predecessor(1, trained.weights, "answer", taught),
    )
    assert (weaker.versions.examples, weaker.versions.taught) == (12, 9)
    (reason,) = weaker.reasons
    assert "on 12 held-out questions, of which it was taught 9: too few are new" in reason

    better = trained(predecessor=Predecessor(1, halved(trained.weights), "answer", taught))
    assert better.accepted
    assert better.versions.taught == 9


class Guarded:
    """300 questions, of which the base knows all but the first and every tenth behind it."""

    items = tuple(GuardItem((("user", str(number)),), "yes") for number in range(300))

    def __init__(self):
        self.asked = {"live": [], "base": [], "before": []}

    def measure(self, *, to_experts=(), spoilt=(), before=(), count=1500):
        """The live answers are the base's own but for those `to_experts` and those `spoilt`."""

        def asking(who, *, wrong=(), experts=()):
            def reply(number):
                is_wrong = number in wrong or (number % 10 == 0 and number not in experts)
                return Reply(
                    "no" if is_wrong else "yes",
                    distance=float(number),
                    is_bases=number not in experts,
                )

            def answer(prompts):
                numbers = [int(turns[0][1]) for turns in prompts]
                self.asked[who] += numbers
                return list(map(reply, numbers))

            return answer

        return measure_guard(
            self.items,
            asking("live", wrong=spoilt, experts={*to_experts, *spoilt}),
            base=asking("base"),
            before=asking("before", wrong=before, experts=before),
            count=count,
            seed=0,
        )


def test_what_others_spoilt_before_is_not_held_against_an_expert():
    figures = Guarded().measure(spoilt={1, 2, 151}, before={2, 151, 77}).figures
    assert (figures.items, figures.lost) == (268, 1)
    assert (figures.near_items, figures.near_lost) == (99, 1)
    alone = Guarded().measure(spoilt={1, 2, 151}).figures
    assert (alone.items, alone.lost, alone.near_lost) == (270, 3, 2)


def test_what_the_base_does_not_know_guards_nothing():
    """Not where it answers itself, and not where an expert takes over, rightly or wrongly."""
    guarded = Guarded()
    found = guarded.measure(to_experts={1, 10, 20}, spoilt={30, 31})
    numbers = [int(item.prompt[0][1]) for item in found.items]
    assert sorted(numbers) == [number for number in range(300) if number % 10]
    assert {item.prompt[0][1] for item in found.lost} == {"31"}
    # It is asked itself only what an expert answered.
    assert sorted(guarded.asked["base"]) == [1, 10, 20, 30, 31]
    assert sorted(guarded.asked["live"]) == list(range(300))


def test_as_many_are_asked_as_it_takes_to_find_those_that_the_base_knows():
    """They are drawn from all; the 100 nearest of them are near."""
    guarded = Guarded()
    found = guarded.measure(count=120)
    assert (found.figures.items, found.figures.near_items) == (120, 100)
    numbers = [int(item.prompt[0][1]) for item in found.items]
    assert numbers == sorted(numbers)
    assert max(numbers) > 250
    assert [item.near for item in found.items] == [True] * 100 + [False] * 20
    assert len(guarded.asked["live"]) == len(set(guarded.asked["live"])) < 160


def test_weights_that_change_nothing_are_rejected(trained, llama):
    idle = {
        layer.name: LoraPair(torch.ones(2, layer.in_features), torch.zeros(2, layer.out_features))
        for layer in llama.layers
    }
    report = trained(weights=idle)
    assert not report.accepted
    assert "held-out gain of +0.000" in report.reasons[0]


def test_recall_is_judged_by_exact_answers(trained):
    report = trained(name="recall")
    assert report.held_out.metric == "exact"
    expected = report.held_out.exact_after - report.held_out.exact_before
    assert report.held_out.gain.mean == pytest.approx(expected)


def test_a_lost_guard_prompt_rejects_and_says_which_bound(trained):
    report = trained(automatic=answerer(wrong=1))
    assert not report.accepted
    assert report.guard.lost == report.guard.near_lost == 1
    assert "1 of 300 guard prompts" in report.reasons[0]
    assert "1.57%" in report.reasons[0]


def test_the_guard_is_what_the_base_itself_knows_and_as_large_as_is_wanted(trained):
    """It does not know 40 that other experts answer; 400 are at hand and 330 wanted."""
    report = trained(guards=guard(400), base=answerer(wrong=40), guard_prompts=330)
    assert (report.guard.items, report.guard.lost, report.guard.near_items) == (330, 0, 100)
    # Asked by force, those below 9 are answered wrong; but they guard nothing.
    assert (report.guard_forced.items, report.guard_forced.lost) == (300, 0)


def test_a_prompt_that_nobody_could_be_asked_guards_nothing():
    unasked = [GuardItem((("user", "too long"),), "?!")]
    silent = lambda prompts: [Reply("", was_asked=False) for _ in prompts]  # noqa: E731
    found = measure_guard(unasked, silent, base=silent, before=silent, count=9, seed=0)
    assert found.items == ()


def test_a_small_guard_set_cannot_prove_harmlessness(trained):
    report = trained(guards=guard(50))
    assert not report.accepted
    assert "holds only 50 prompts" in report.reasons[0]


def test_guard_answers_are_graded_after_normalisation():
    figures = ask_again(guard(10), answerer(wrong=3)).figures
    assert (figures.items, figures.lost) == (10, 3)
    assert figures.rate == pytest.approx(0.3)


def test_an_expert_is_asked_with_the_record_it_will_serve_with(trained):
    records = Recorder()
    by_loss = trained(automatic=records)
    by_answers = trained(name="recall", automatic=records)
    assert [record.examples for record in records] == [12, 12]
    assert (records[0].right, records[0].base_right) == (by_loss.held_out.improved, None)
    assert records[1].right == round(12 * by_answers.held_out.exact_after) > 0
    assert records[1].base_right == round(12 * by_answers.held_out.exact_before)


def test_general_text_that_is_sent_elsewhere_forgets_nothing(trained):
    figures = trained().forgetting
    assert (figures.texts, figures.to_expert) == (40, 0)
    assert figures.loss_routed == figures.loss_before
    assert figures.loss_forced != figures.loss_before
    assert (figures.rise.mean, figures.rise.high) == (0, 0)


def test_an_expert_that_garbles_the_text_to_be_kept_is_turned_down(trained, examples):
    """One that unlearned the examples, where they are the text and it is asked about them."""
    reverse = {name: LoraPair(pair.a, -pair.b) for name, pair in trained.weights.items()}
    asked = {
        "weights": reverse,
        "general": examples,
        "automatic": answerer(is_experts=True),
        "general_text": Path("kept.txt"),
    }
    report = trained(**asked)
    assert report.forgetting.to_expert == len(examples)
    assert report.forgetting.loss_routed == report.forgetting.loss_forced
    assert report.forgetting.rise.low > 0.02
    assert "24 of 24 texts are sent to the expert" in report.reasons[-1]

    def objects(**changed):
        return ["general text" in reason for reason in trained(**(asked | changed)).reasons]

    assert objects(max_forgetting=1e9) == [False]
    assert objects(automatic=RIGHT) == [False]
    assert objects(general_text=None) == [False]  # the base's own words have no vote


def test_an_expert_that_is_believed_too_much_is_turned_down(trained):
    """Twelve wrong answers said to be right with 0.2 before and with 0.9 after."""
    before, after = answerer(p_correct=0.2), answerer(p_correct=0.9, is_experts=True)
    report = trained(name="recall", before=before, automatic=after)
    found = report.routed
    assert (found.questions, found.to_expert) == (12, 12)
    assert (found.right_before, found.right_after) == (0, 0)
    assert (found.calibration_before, found.calibration_after) == pytest.approx((0.2, 0.9))
    assert found.worse.mean == pytest.approx(0.7)
    assert report.reasons[-1].startswith("its answers are said to be right with 0.90, and 0.00 are")
    relieved = trained(name="recall", before=after, automatic=before)
    assert not any("said to be right" in reason for reason in relieved.reasons)


def test_free_text_has_no_right_answer_that_calibration_could_be_judged_by(trained):
    after = answerer(p_correct=0.9, is_experts=True)
    report = trained(before=answerer(p_correct=0.2), automatic=after)
    assert report.held_out.metric == "loss"
    assert report.accepted
    assert (report.routed.to_expert, report.routed.right_after, report.routed.worse) == (
        12,
        None,
        None,
    )


def test_what_exceeds_the_context_is_nobodys_answer_and_hides_no_calibration(trained):
    def live(prompts):
        given = [Reply("no idea", 0.9, is_experts=True) for _ in prompts[1:]]
        return [Reply("", was_asked=False), *given]

    report = trained(name="recall", before=answerer(p_correct=0.2), automatic=live)
    assert report.routed.questions == 11
    assert report.routed.worse.mean == pytest.approx(0.7)


def test_without_probabilities_there_is_no_calibration_to_judge(trained):
    report = trained(name="recall", before=answerer(p_correct=0.2), automatic=answerer())
    assert report.routed.right_after == 0
    assert report.routed.worse is None


def test_a_general_text_of_ones_own_is_read_by_paragraphs(tmp_path):
    file = tmp_path / "own.txt"
    file.write_text("\n\n".join(f"Number {i} is up.\nIt waits. Then goes." for i in range(8)))
    (first, *_) = texts = general_texts(file)
    assert len(texts) == 8
    assert (first.prompt, first.answer) == ((("user", "Number 0 is up."),), "It waits. Then goes.")


def test_a_general_text_that_is_missing_or_too_short_is_named(tmp_path):
    short = tmp_path / "short.txt"
    short.write_text("One sentence.\n\nTwo of them. Here.")
    with pytest.raises(DataError, match=r"short\.txt: 1 paragraphs .* at least 8"):
        general_texts(short)
    with pytest.raises(DataError, match=r"none\.txt: this general text cannot be read"):
        general_texts(tmp_path / "none.txt")


def test_retrieval_is_reported_beside_the_expert(examples):
    table = "| Lake | Depth |\n| --- | --- |\n| Garda | 346 |\n| Como | 410 |"
    passages = [Passage(table, ("Lakes",), "lakes.md", 1)]
    asked = [
        examples[0].__class__((("user", f"How deep is {lake}?"),), depth, lake, "x", "q", 1)
        for lake, depth in (("Garda", "346"), ("Como", "410"), ("Garda", "999"))
    ]
    figures = measure_retrieval(passages, (), asked)
    assert (figures.hits, figures.questions) == (2, 3)
    assert figures.asked == 0

    def reads(prompts):  # the last number of the passage in front of the question
        passages = [prompt[-1][1].partition("\n\n")[0] for prompt in prompts]
        return [Reply(text.split("|")[-2].strip()) for text in passages]

    figures = measure_retrieval(passages, (), asked, answer=reads)
    assert (figures.answered, figures.asked) == (2, 3)
