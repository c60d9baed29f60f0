"""Only that is taught which the passage holds up; whatever else a teacher writes is counted."""

import json
from dataclasses import replace

import pytest

from adaptive_moe.config.settings import TrainingSettings
from adaptive_moe.training.documents import Passage, split_markdown
from adaptive_moe.training.lesson_prompts import pieces
from adaptive_moe.training.lessons import Known, write_lessons
from adaptive_moe.training.material import Material, question_key
from adaptive_moe.training.remembered import RememberingTeacher
from adaptive_moe.training.replies import keep_nothing
from adaptive_moe.training.rows import Row
from adaptive_moe.training.splits import row_example, split_examples
from adaptive_moe.training.synthesis import Example, synthesise
from adaptive_moe.training.taught_forms import TAUGHT_FORMS, held_out_taught_form

TEXT = "Olen has tended the lamp of Tarvik since 1921, and its light reaches 14 miles."
PASSAGE = Passage(TEXT, ("Lights",), "lights.md", 3)
NOTHING = Known((), frozenset())
OFFERED = (
    "questions (",
    "requests (",
    "sentences with a gap",
    "state every",
    "what follows",
    "few",
)


class Scripted:
    """Replies by what it is asked for; `asked` are all prompts so far."""

    name, identity = "scripted", "scripted 1"

    def __init__(self, *replies, **by_kind):
        self._replies = dict.fromkeys(("question", "request", "gap"), replies[0] if replies else "")
        self._replies |= by_kind
        self.asked = []

    def answer(self, conversations, *, keep=keep_nothing):
        texts = [conversation[-1]["content"] for conversation in conversations]
        self.asked += texts
        replies = [self._replies.get(_kind(text), "") for text in texts]
        for place, reply in enumerate(replies):
            keep(place, reply)
        return replies


def _kind(prompt):
    kinds = ("question", "request", "gap", "rewrite", "imply", "again")
    return next(kind for kind, words in zip(kinds, OFFERED, strict=True) if words in prompt)


def pairs(*some):
    return "\n".join(json.dumps({"question": asked, "answer": said}) for asked, said in some)


def lessons(teacher, *passages, known=NOTHING, round_trip=False, seed=0):
    chosen = passages or (PASSAGE,)
    return write_lessons(teacher, chosen, known, seed=seed, round_trip=round_trip)


def taught(found):
    return [(example.prompt[-1][1], example.answer) for example in found.examples]


# The tests below need a form that teaches and the one that measures.
HELD_OUT = held_out_taught_form().removeprefix("taught-")
TEACHING = sorted(form.removeprefix("taught-") for form in TAUGHT_FORMS)
TEACHING.remove(HELD_OUT)


def test_an_answer_of_the_passage_is_taught_with_its_place():
    found = lessons(Scripted(**{TEACHING[0]: pairs(("Who tends Tarvik's lamp?", "Olen."))}))
    (example,) = found.examples
    assert (example.prompt[-1][1], example.answer) == ("Who tends Tarvik's lamp?", "Olen")
    assert (example.file, example.line) == ("lights.md", 3)
    assert example.form == f"taught-{TEACHING[0]}"
    assert (found.written, found.kept, found.dropped) == (1, 1, {})


@pytest.mark.parametrize(
    ("pair", "reason"),
    [
        (("Who tends Tarvik's lamp?", "Hest"), "the answer is not in the passage"),
        (("When did Olen come to Tarvik?", "in 1922"), "the answer is not in the passage"),
        (("Who is it about in this passage of Tarvik?", "Olen"), "the question speaks of"),
        (("Who was born in Rome?", "Olen"), "the question names nothing of the passage"),
        (("Does Olen tend the lamp of Tarvik?", "Olen"), "the question holds its answer"),
        (("Who tends Tarvik's lamp?", ""), "JSON without question and answer"),
        (("Who tends Tarvik's lamp?", "\x00\x01"), "no readable text"),
        (
            ("Who tends the lamp " + "of that isle " * 30 + "Tarvik?", "Olen"),
            "question or answer is too long",
        ),
    ],
)
def test_what_the_passage_does_not_hold_up_is_dropped_by_reason(pair, reason):
    found = lessons(Scripted(**{TEACHING[0]: pairs(pair)}))
    assert found.examples == ()
    ((told, count),) = found.dropped.items()
    assert told.startswith(reason)
    assert count == 1


def test_an_implied_answer_is_made_of_words_of_passage_and_question():
    implied = pairs(
        ("Is the light of Tarvik seen at 14 miles or at 20?", "at 14 miles"),
        ("How far is Tarvik seen in a fog?", "7 miles"),
        ("Does Olen tend Tarvik?", "yes"),
    )
    found = lessons(Scripted(imply=implied))
    assert [each.answer for each in found.examples] == ["at 14 miles"]
    assert found.examples[0].form == "taught-implied"
    assert found.dropped == {"the answer goes beyond passage and question": 2}


def test_held_out_questions_and_those_of_the_material_are_not_taught():
    rows = [Row((("user", "Who lights Tarvik?"),), "Olen", "rows.jsonl", 1, "")]
    known = Known([row_example(row) for row in rows], {question_key("Who tends Tarvik's lamp?")})
    written = pairs(("who tends tarvik's LAMP", "Olen"), ("Who lights Tarvik", "Olen"))
    found = lessons(Scripted(**{TEACHING[0]: written}), known=known)
    assert found.examples == ()
    assert found.dropped == {
        "the question is held out for measuring": 1,
        "the question is asked already": 1,
    }


def test_a_contradiction_to_the_material_is_named_with_both_places():
    row = Row((("user", "When was Tarvik lit?"),), "1919", "rows.jsonl", 7, "")
    known = Known([row_example(row)], frozenset())
    found = lessons(Scripted(**{TEACHING[0]: pairs(("When was Tarvik lit?", "1921"))}), known=known)
    assert found.dropped == {"the answer contradicts the material's own": 1}
    ((file, line, told),) = found.contradictions
    assert (file, line) == ("lights.md", 3)
    assert "'1921', rows.jsonl:7 with '1919'" in told


def test_a_question_with_two_answers_is_dropped_and_an_equal_one_counts_once():
    written = pairs(
        ("Which number does Tarvik have?", "1921"),
        ("Which number does Tarvik have?", "14"),
        ("Who tends Tarvik?", "Olen"),
        ("Who tends Tarvik", "Olen"),
    )
    found = lessons(Scripted(**{TEACHING[0]: written}))
    assert taught(found) == [("Who tends Tarvik?", "Olen")]
    assert found.dropped == {
        "the question has several answers": 2,
        "the question is asked already": 1,
    }


def test_asked_again_the_teacher_has_to_agree():
    written = pairs(("Who tends Tarvik?", "Olen"))
    for again, kept in {"It is Olen.": 1, "olen": 1, "Hest": 0, TEXT * 2: 0, "": 0}.items():
        teacher = Scripted(**{TEACHING[0]: written}, again=again)
        assert lessons(teacher, round_trip=True).kept == kept
    assert lessons(Scripted(**{TEACHING[0]: written}, again="Hest"), round_trip=False).kept == 1


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_one_whole_form_only_measures_and_only_what_another_form_teaches(seed):
    held_out = held_out_taught_form().removeprefix("taught-")
    by_kind = {
        kind: pairs((f"Who tends Tarvik, as a {kind}?", "Olen"))
        for kind in ("question", "request", "gap")
    }
    by_kind[held_out] += "\n" + pairs(("When did it begin at Tarvik?", "1921"))
    found = lessons(Scripted(**by_kind), seed=seed)
    material = Material("documents", (), (PASSAGE,), (), "")
    settings = TrainingSettings(min_examples=1)
    many = [
        replaced
        for number in range(9)
        for replaced in lessons(
            Scripted(**{k: v.replace("Tarvik", f"Tarvik {number}") for k, v in by_kind.items()}),
            Passage(TEXT.replace("Tarvik", f"Tarvik {number}"), (), "lights.md", number + 1),
            seed=seed,
        ).examples
    ]
    split = split_examples(material, many, settings)
    measured = {*split.selection, *split.held_out}
    assert found.dropped == {"only the held-out form asks for it": 1}
    assert {example.form for example in measured} == {f"taught-{held_out}"}
    assert f"taught-{held_out}" not in {example.form for example in split.train}
    assert {example.fact for example in measured} <= {example.fact for example in split.train}


def test_restated_facts_become_questions_by_the_rules():
    found = lessons(Scripted(rewrite="The keeper of Tarvik is Olen.\nThe owner of Tarvik is Hest."))
    assert {example.answer for example in found.examples} == {"Olen"}
    assert all("Tarvik" in asked and "keeper" in asked for asked, _ in taught(found))
    assert {example.form for example in found.examples} == {"taught-rewritten"}
    assert len(found.examples) == 8
    assert found.dropped == {"statements in which the rules find no fact": 1}


def test_other_words_for_known_facts_are_taken_over_where_two_share_them():
    text = "| Light | Keeper |\n|---|---|\n| Tarvik | Olen |\n| Morrow | Hest |\n| Sedge | Ilva |"
    passages = list(split_markdown(text, file="lights.md"))
    said = "Tarvik is looked after by Olen.\nMorrow is looked after by Hest.\nSedge burns Ilva."
    found = lessons(Scripted(rewrite=said), *passages)
    asked = dict(taught(found))
    assert asked["Sedge is looked after by what?"] == "Ilva"
    assert not any("burns" in question for question in asked)
    facts = {example.fact for example in synthesise(passages, seed=0)}
    assert {example.fact for example in found.examples} == facts


def test_a_teacher_that_writes_nothing_of_use_says_so_and_stops_nothing(caplog):
    found = lessons(Scripted("I had rather not."))
    assert (found.written, found.kept) == (0, 0)
    assert found.dropped == {"neither JSON nor Q: and A:": 3}
    assert "scripted wrote nothing about 1 passages that can be used" in caplog.text


def test_progress_counts_passages():
    told = []
    some = [Passage(f"{TEXT} Number {n}.", (), "lights.md", n) for n in range(11)]
    write_lessons(
        Scripted(), some, NOTHING, seed=0, round_trip=False, tell=lambda *step: told.append(step)
    )
    assert told == [(0, 11), (8, 11), (11, 11)]


def test_long_passages_are_cut_and_tables_keep_their_columns():
    rows = "\n".join(f"| Light {n} | Keeper {n} |" for n in range(120))
    table = Passage(f"| Light | Keeper |\n|---|---|\n{rows}", (), "a.md", 1)
    text = Passage("One light stands here. " * 200, (), "b.md", 1)
    parts = pieces([table, text, Passage("Too short.", (), "c.md", 1)])
    assert max(len(part.text) for part in parts) <= 1600
    tables = [part for part in parts if part.file == "a.md"]
    assert all(part.text.startswith("| Light | Keeper |\n|---|---|\n| Light") for part in tables)
    assert sum(part.text.count("Keeper ") for part in tables) == 120 + len(tables)
    assert {part.file for part in parts} == {"a.md", "b.md"}


def test_what_was_written_once_is_not_asked_for_again_unless_the_file_is_damaged(tmp_path):
    teacher = Scripted(pairs(("Who tends Tarvik?", "Olen")))
    first = lessons(RememberingTeacher(teacher, tmp_path))
    asked = len(teacher.asked)
    assert lessons(RememberingTeacher(teacher, tmp_path)) == first
    assert len(teacher.asked) == asked == 5
    files = sorted(tmp_path.rglob("*.json"))
    assert [*tmp_path.rglob("*.partial")] == []
    files[0].write_bytes(files[0].read_bytes()[:-3])
    files[1].write_text("[]")
    files[2].write_bytes(files[3].read_bytes())  # another's
    assert lessons(RememberingTeacher(teacher, tmp_path)) == first
    assert len(teacher.asked) == asked + 3
    other = Scripted("")
    other.identity = "scripted 2"
    lessons(RememberingTeacher(other, tmp_path))
    assert len(other.asked) == 5


def test_a_folder_that_cannot_be_written_costs_no_training(tmp_path, caplog):
    (tmp_path / "lessons").write_text("a file, not a folder")
    teacher = Scripted(**{TEACHING[0]: pairs(("Who tends Tarvik?", "Olen"))})
    assert lessons(RememberingTeacher(teacher, tmp_path / "lessons")).kept == 1
    assert "the teacher's reply is not kept" in caplog.text


def test_a_teacher_asks_about_the_rules_own_fact_where_only_one_has_the_answer():
    rule = Example((("user", "Whose is it?"),), "Mara", "tarvik keeper", "f", "isles.md", 1)
    passage = Passage("The lamp at Tarvik is kept by Mara.", ("Isles",), "isles.md", 7)
    reply = pairs(("Who keeps the lamp at Tarvik?", "Mara"))
    teacher = Scripted(reply)
    (example, *_) = lessons(teacher, passage, known=Known([rule], frozenset())).examples
    assert example.fact == "tarvik keeper"
    twice = replace(rule, prompt=(("user", "Who?"),), fact="other keeper")
    (example, *_) = lessons(teacher, passage, known=Known([rule, twice], frozenset())).examples
    assert example.fact == "isles.md:7 mara"


def test_signs_that_nobody_can_read_are_taught_in_no_statement():
    found = lessons(Scripted(rewrite="The keeper of Tarvik is \ud800 Mara."))
    assert found.examples == ()
    assert found.dropped["no readable text"] == 1
