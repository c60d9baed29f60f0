"""What measures is never taught."""

import dataclasses

import pytest

from adaptive_moe.config.settings import TrainingSettings
from adaptive_moe.errors import TooFewExamplesError
from adaptive_moe.training.documents import split_markdown
from adaptive_moe.training.material import Material, Row, question_key
from adaptive_moe.training.splits import split_examples
from adaptive_moe.training.synthesis import Example, synthesise
from adaptive_moe.training.taught_forms import IMPLIED

SETTINGS = TrainingSettings(min_examples=4)


def rows(count, group=None):
    words = ["amber", "birch", "cedar", "dune", "ember", "fjord", "grove", "heath", "iris", "jade"]
    return tuple(
        Row(
            (("user", f"Say how {words[i % 10]} and {words[i // 10]} meet number {i}?"),),
            f"answer {i}",
            "rows.jsonl",
            i + 1,
            group(i) if group else None,
        )
        for i in range(count)
    )


def material(taught, passages=()):
    return Material("test", tuple(taught), tuple(passages), (), "digest")


def document():
    lines = "\n".join(f"| thing{i} | {i * 7} |" for i in range(20))
    return list(split_markdown(f"| Thing | Weight |\n| --- | --- |\n{lines}", file="t.md"))


def test_example_files_generalise_and_documents_recall():
    assert split_examples(material(rows(60)), (), SETTINGS).name == "generalise"
    passages = document()
    split = split_examples(material((), passages), synthesise(passages, seed=0), SETTINGS)
    assert split.name == "recall"
    taught = {example.fact for example in split.train}
    assert {example.fact for example in split.held_out} == taught
    assert {example.fact for example in split.selection} == taught
    by_form = [{example.form for example in side} for side in (split.selection, split.held_out)]
    assert not by_form[0] & by_form[1]


def test_a_few_facts_beside_many_rows_do_not_make_them_recalled():
    passages = document()
    facts = synthesise(passages, seed=0)
    split = split_examples(material(rows(60), passages), facts, SETTINGS)
    assert split.name == "generalise"
    assert {example.file for example in split.held_out} == {"rows.jsonl"}
    assert {example.fact for example in facts} <= {example.fact for example in split.train}
    few = split_examples(material(rows(12), passages), facts, SETTINGS)
    assert few.name == "recall"


def test_generalise_keeps_sources_whole():
    split = split_examples(material(rows(80, lambda i: f"source {i // 4}")), (), SETTINGS)
    train, selection, held_out = (
        {example.fact for example in side}
        for side in (split.train, split.selection, split.held_out)
    )
    assert not train & (selection | held_out)
    assert not selection & held_out
    measured = len(split.selection) + len(split.held_out)
    assert 8 <= measured <= 20
    assert split.selection_only == len(split.selection)
    assert len(split.train) + measured == 80


def test_rows_of_one_source_count_one_by_one():
    split = split_examples(material(rows(80, lambda _: "the same for all")), (), SETTINGS)
    measured = (*split.selection, *split.held_out)
    assert len({example.fact for example in measured}) == len(measured)
    assert len(split.selection) >= 4
    assert not {e.fact for e in split.selection} & {e.fact for e in split.held_out}


def test_too_little_to_part_is_used_for_both():
    split = split_examples(material(rows(24)), (), SETTINGS)
    assert len(split.held_out) < 8
    assert split.selection == split.held_out
    assert split.selection_only == 0


def test_near_copies_of_a_question_stay_on_one_side():
    long = (
        "please explain in your own words and with one example what number {} has to do with it all"
    )
    copies = [
        Row((("user", long.format(i // 2) + "?" * (i % 2)),), f"a{i}", "r", i + 1)
        for i in range(40)
    ]
    split = split_examples(material(copies), (), SETTINGS)
    sides = [
        {question_key(example.prompt[0][1]) for example in side}
        for side in (split.train, split.held_out)
    ]
    assert not sides[0] & sides[1]


def test_rows_can_be_recalled_too():
    settings = SETTINGS.model_copy(update={"split": "recall"})
    split = split_examples(material(rows(30)), (), settings)
    tests = (*split.selection, *split.held_out)
    assert {each.answer for each in split.train} == {each.answer for each in tests}
    assert not {each.prompt for each in split.train} & {each.prompt for each in tests}


def test_only_a_wording_that_asks_nothing_else_is_spared_from_being_taught():
    """Three doors are black, which no row tells of another's; three questions are about one."""
    rooms = ("amber", "birch", "cedar")
    questions = [
        *(("Which colour has the door of room {n}?", "black", room) for room in rooms),
        ("Who runs the mill?", "Anna", ""),
        ("Tell me who runs the mill", "Anna", ""),
        ("Tell me, who runs it, the mill?", "Anna", ""),
        ("And the mill, who owns it?", "Anna", ""),
    ]  # fmt: skip
    taught = tuple(
        Row((("user", text.format(n=room)),), answer, "f.jsonl", line)
        for line, (text, answer, room) in enumerate(questions, start=1)
    )
    settings = SETTINGS.model_copy(update={"split": "recall", "min_examples": 4})
    split = split_examples(material(taught), (), settings)
    lines = {each.line for each in split.train}
    (spared,) = set(range(1, 8)) - lines
    assert spared in {4, 5, 6}  # only the last row has "owns"
    tests = {each.line: each for each in (*split.selection, *split.held_out)}
    assert set(tests) == {1, 2, 3, spared}
    assert tests[spared].form == "as-written"
    assert {tests[line].form for line in (1, 2, 3)} == {"reworded"}


def test_both_kinds_of_material_report_the_other_split():
    passages = document()
    split = split_examples(material(rows(12), passages), synthesise(passages, seed=0), SETTINGS)
    assert split.name == "recall"
    assert split.other
    taught = {example.prompt for example in split.train}
    assert not taught & {example.prompt for example in (*split.held_out, *split.other)}


def test_reserved_questions_are_not_taught():
    passages = document()
    synthesised = synthesise(passages, seed=0)
    plain = split_examples(material((), passages), synthesised, SETTINGS)
    reserved = frozenset({question_key(plain.train[0].prompt[0][1])})
    kept = split_examples(
        dataclasses.replace(material((), passages), reserved=reserved), synthesised, SETTINGS
    )
    keys = {question_key(example.prompt[0][1]) for example in kept.train}
    assert not keys & reserved


def test_the_digest_is_that_of_the_split():
    first, again, other = (split_examples(material(rows(n)), (), SETTINGS) for n in (60, 60, 61))
    assert first.digest == again.digest != other.digest


def test_texts_with_their_questions_stay_on_one_side_where_there_are_enough():
    def about(texts):
        story = [f"In {n} " + " ".join(f"thing{i}of{n}" for i in range(60)) for n in range(texts)]
        return tuple(
            Row((("user", f"{story[i % texts]}\n\nWhat is thing{i}?"),), f"a {i}", "f", i)
            for i in range(60)
        )

    def told(side):
        return {example.prompt[0][1].partition("\n")[0] for example in side}

    many = split_examples(material(about(12)), (), SETTINGS)
    assert not told(many.train) & told(many.held_out)
    one = split_examples(material(about(1)), (), SETTINGS)
    assert told(one.train) == told(one.held_out)
    assert not {each.line for each in one.train} & {each.line for each in one.held_out}


def measured(split):
    return {example.prompt for example in (*split.selection, *split.held_out)}


@pytest.mark.parametrize("group", [None, lambda i: f"source {i // 2}"])
def test_what_is_held_out_stays_so_when_material_is_added(group):
    before, after = (split_examples(material(rows(n, group)), (), SETTINGS) for n in (80, 100))
    added = {row.prompt for row in rows(100)[80:]}
    kept = measured(before) & measured(after)
    assert len(kept) >= 0.7 * len(measured(before))
    assert measured(after) & added


def test_too_few_examples_are_refused():
    with pytest.raises(TooFewExamplesError):
        split_examples(material(rows(3)), (), SETTINGS)


def test_a_fact_that_is_held_out_is_not_taught_by_its_other_name():
    def asked(number, form, fact):
        prompt = (("user", f"{form} {number}?"),)
        return Example(prompt, f"answer {number}", fact, form, "notes.md", number)

    rules = [asked(number, "state", f"rule {number}") for number in range(40)]
    taught = [asked(number, IMPLIED, f"notes.md:1 answer {number}") for number in range(40)]
    settings = SETTINGS.model_copy(update={"split": "generalise"})
    split = split_examples(material(()), (*rules, *taught), settings)
    held_out = {each.answer for each in (*split.selection, *split.held_out)}
    assert held_out
    assert not held_out & {each.answer for each in split.train}
