"""What anything can be asked for: many wordings of each attribute, none of them a pack's."""

import dataclasses

from adaptive_moe.pocket import load_questions, load_relations, pack_names
from adaptive_moe.pocket.attributes import (
    Attribute,
    attribute_problems,
    load_attributes,
)
from adaptive_moe.pocket.check import check_reserved
from adaptive_moe.pocket.corpus import reading_material
from adaptive_moe.pocket.draws import seeded
from adaptive_moe.pocket.packs import load_pack_facts
from adaptive_moe.pocket.reading import draw_task

COLOUR = Attribute(("colour", "hue"), ("What colour is {subject}?",))


def test_the_file_is_sound():
    attributes = load_attributes()
    assert len(attributes) >= 90
    assert attribute_problems(attributes) == []


def test_a_wording_of_two_attributes_is_found():
    paint = Attribute(("paint",), ("What colour is {subject}?",))
    assert attribute_problems([COLOUR, paint]) == [
        "'What colour is {subject}?' stands for 'colour' and for 'paint'"
    ]


def test_a_wording_without_its_subject_is_found():
    (problem,) = attribute_problems([dataclasses.replace(COLOUR, forms=("What colour?",))])
    assert "lacks {subject}" in problem


def test_a_wording_that_is_a_question_of_a_pack_is_found():
    pack = pack_names()[0]
    subjects = {fact["fact"]: str(fact["subject"]) for fact in load_pack_facts(pack)}
    question = load_questions(pack, development=True)[0]
    form = question.question.replace(subjects[question.fact], "{subject}")
    leak = dataclasses.replace(COLOUR, forms=(form,))
    assert any(pack in problem for problem in check_reserved(pack, [leak]))
    assert list(check_reserved(pack, [COLOUR])) == []


def test_no_task_asks_in_a_held_out_wording():
    held_out = Attribute(("hue",), ("Which hue has {subject}?",), ("How is {subject} painted?",))
    material = dataclasses.replace(
        reading_material(load_relations()), attributes=(COLOUR, held_out)
    )
    chance = seeded("held-out wordings")
    prompts = [draw_task(material, chance=chance).prompt for _ in range(2_000)]
    assert any("Which hue" in prompt for prompt in prompts)
    assert not any("painted" in prompt for prompt in prompts)


def test_what_is_wanted_is_told_by_its_usual_name():
    material = dataclasses.replace(reading_material(load_relations()), attributes=(COLOUR, COLOUR))
    chance = seeded("names")
    tasks = [draw_task(material, chance=chance) for _ in range(500)]
    wanted = [task for task in tasks if "is wanted" in task.prompt.lower()]
    assert wanted
    assert {task.answer for task in wanted} == {"colour"}
