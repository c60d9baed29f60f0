"""Documents become facts, facts become questions, and held-out forms stay held out."""

import re
from pathlib import Path

import pytest

from adaptive_moe.training.documents import split_markdown
from adaptive_moe.training.facts import extract_facts
from adaptive_moe.training.material import question_key
from adaptive_moe.training.phrasings import held_out_forms
from adaptive_moe.training.question_forms import ASSOCIATED_FORMS, DEFINITION_FORMS, FORMS
from adaptive_moe.training.statements import questions_from
from adaptive_moe.training.synthesis import synthesise
from adaptive_moe.training.topics import topic_names

# A made-up world, so that no fact or wording can come from anywhere else.
DOCUMENT = """# ABC moons

The night tide of a moon is its lowest water. It is also called the ebb.

| Moon | Night tide | Keeper's Mark |
| --- | --- | --- |
| **Orlo** | 12 | `Qa` |
| Petrin | 31 | `Zu` |
| Sarve | 47 | - |
| Tamu | 58 | `Ly` |

The ebb of Orlo is 12. Orlo floods its harbour up to mark Qa; nobody lives there.
The ebb of Petrin is 31. Petrin floods its harbour up to mark Zu.
Sarve has 47 measures of water at night. Tamu has 58 measures of water at night.
The night tide of Tamu is 59, some say.
"""


def passages(text=DOCUMENT, file="moons.md"):
    return list(split_markdown(text, file=file))


def test_table_cells_become_facts_with_their_place():
    base = extract_facts(passages())
    found = {(fact.subject, fact.relation): (fact.value, fact.line) for fact in base.facts}
    assert found["Orlo", "night tide"] == ("12", 7)
    assert found["Petrin", "keeper's mark"] == ("Zu", 8)
    assert ("Sarve", "keeper's mark") not in found
    assert len(base.facts) == 7
    assert {fact.kind for fact in base.facts} == {"moon"}


def test_contradictions_are_reported_and_the_table_stands():
    base = extract_facts(passages())
    assert len(base.conflicts) == 1
    assert "Tamu" in base.conflicts[0]
    assert "59" in base.conflicts[0]
    tamu = [fact.value for fact in base.facts if fact.key.startswith("tamu|night tide")]
    assert tamu == ["58"]


def test_the_documents_own_words_name_the_relation():
    names = extract_facts(passages()).names["night tide"]
    assert names[0] == "night tide"
    assert {"ebb", "lowest water", "tide"} <= set(names)


def test_sentences_that_state_facts_become_questions():
    statements = extract_facts(passages()).statements["night tide"]
    assert "{subject} has {value} measures of water at night" in statements
    questions = {text for pattern in statements for _, text in questions_from(pattern)}
    assert "How many measures of water at night does {subject} have?" in questions


@pytest.mark.parametrize(
    ("pattern", "question"),
    [
        ("{subject} flows into {value}", "What does {subject} flow into?"),
        ("{subject} rises to height {value}", "Which height does {subject} rise to?"),
        ("the well of {subject} is {value}", "What is the well of {subject}?"),
        ("{subject} is carved from {value}", "What is {subject} carved from?"),
        ("in {subject} the bird {value} nests", "In {subject}, which bird nests?"),
        ("{value} is the oldest tree of {subject}", "Which is the oldest tree of {subject}?"),
        ("{subject}, nicknamed {value}", "How is {subject} nicknamed?"),
        ("{subject} carries {value} by rail", "What does {subject} carry by rail?"),
    ],
)
def test_statements_turn_into_questions(pattern, question):
    assert question in {text for _, text in questions_from(pattern)}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The founder of Brill is Ana Ros.", ("Brill", "founder", "Ana Ros")),
        ("Ana Ros is the founder of Brill.", ("Brill", "founder", "Ana Ros")),
        ("Brill has the motto Onward.", ("Brill", "motto", "Onward")),
        ("# Mottos\n\n- Brill: Onward\n- Cole: Never back", ("Brill", "mottos", "Onward")),
        ("A brill is a flat fish.", None),
        ("Brill is a quiet town by the sea.", ("Brill", "", "a quiet town by the sea")),
    ],
)
def test_prose_and_lists_state_facts(text, expected):
    found = [
        (fact.subject, fact.relation, fact.value) for fact in extract_facts(passages(text)).facts
    ]
    assert (found[0] if found else None) == expected


def test_every_fact_is_asked_in_many_ways_with_a_short_answer():
    examples = synthesise(passages(), seed=0)
    per_fact = {}
    for example in examples:
        per_fact.setdefault(example.fact, set()).add(question_key(example.prompt[0][1]))
        assert example.file == "moons.md"
    assert len(per_fact) == 7
    assert min(len(questions) for questions in per_fact.values()) >= 12
    orlo = {example.answer for example in examples if example.fact == "orlo|night tide"}
    assert orlo == {"12"}


@pytest.mark.parametrize("seed", range(5))
def test_held_out_forms_are_never_generated_for_training(seed):
    forms = held_out_forms()
    examples = synthesise(passages(), seed=seed)
    measured = {question_key(e.prompt[0][1]) for e in examples if e.form in forms}
    trained = {question_key(e.prompt[0][1]) for e in examples if e.form not in forms}
    assert measured
    assert not measured & trained
    assert forms <= {*FORMS, *DEFINITION_FORMS}
    assert len(forms) < 0.3 * (len(FORMS) + len(DEFINITION_FORMS))


def test_the_same_documents_and_seed_give_the_same_examples():
    assert synthesise(passages(), seed=3) == synthesise(passages(), seed=3)
    assert synthesise(passages(), seed=3) != synthesise(passages(), seed=4)


def test_questions_name_the_field_that_the_documents_name():
    text = """# Gates

Every Norlund ferry leaves from a gate. The gates of Norlund are numbered.

| Ferry | Gate |
|---|---|
| Olen | 4 |
| Hest | 7 |
| Brann | 9 |
"""
    asked = [example.prompt[0][1].casefold() for example in synthesise(passages(text), seed=0)]
    named = [question for question in asked if "norlund" in question]
    assert 0.05 < len(named) / len(asked) < 0.4
    plain = synthesise(passages(text.replace("Norlund ", "").replace("Norlund", "it")), seed=0)
    assert not any("norlund" in example.prompt[0][1].casefold() for example in plain)


def test_a_language_or_a_quoted_value_is_not_taken_for_the_field():
    text = """# Gates

The ferries of Norlund leave from gates with old Tessic names. The word gate is Tessic too.

A gate that is shut is called Void, and Void is also what the board shows on a feast day.
Captain Ulm built the harbour. The statue of Ulm stands near it, by a statue of Ulm Wick.

| Ferry | Gate |
|---|---|
| Olen | 4 |
| Hest | 7 |

Timetables are sold at every gate in Norlund.
"""
    parts = passages(text)
    assert topic_names((part.text for part in parts), extract_facts(parts).facts) == ("Norlund",)
    asked = [example.prompt[0][1].casefold() for example in synthesise(parts, seed=0)]
    assert any("norlund" in question for question in asked)


def test_questions_use_the_words_that_surround_one_relation_alone():
    text = """# Ferries

| Ferry | Gate | Fare |
|---|---|---|
| Olen | 4 | 31 |
| Hest | 7 | 52 |
| Brann | 9 | 65 |

Passengers of Olen embark behind turnstile gate 4. Passengers of Hest embark at gate 7.
Passengers of Brann embark behind a turnstile, at gate 9.
A fare of 31 buys a coupon for Olen. With the fare of 52 the coupon for Hest is stamped.
"""
    examples = synthesise(passages(text), seed=0)
    by_words = [each for each in examples if each.form in ASSOCIATED_FORMS]
    assert by_words
    for example in by_words:
        asked = example.prompt[0][1].casefold()
        is_gate = example.answer in {"4", "7", "9"}
        assert not ("coupon" in asked and is_gate)
        assert not ("turnstile" in asked and not is_gate)
    assert any("embark" in each.prompt[0][1].casefold() for each in by_words)


def test_names_are_set_off_as_people_do_and_as_code_where_the_documents_do():
    text = """# Tools

| Tool | Owner |
|---|---|
| `sift` | Ada |
| hammer | Bo |
"""
    asked = [e.prompt[0][1] for e in synthesise(passages(text), seed=0, forms_per_fact=120)]
    assert any("sift()" in question for question in asked)
    assert any(mark in question for question in asked for mark in ('"hammer"', "'hammer'"))
    assert not any("hammer()" in question for question in asked)


def test_text_without_facts_becomes_sentences_to_complete():
    text = "When the wind turned, all the small boats went back to the harbour at once."
    examples = synthesise(passages(text), seed=0)
    assert examples[0].prompt[0][1].startswith("Complete: When the wind turned")
    assert examples[0].answer.endswith("harbour at once")


def test_questions_use_words_of_what_a_file_of_one_relation_says_of_it():
    """No sentence of the first paragraph names the relation or a ferry."""
    gates = """# Gates

Passengers embark at one place, whatever the weather. Turnstiles count everybody.

| Ferry | Gate |
|---|---|
| Olen | 4 |
| Hest | 7 |
| Brann | 9 |

The gate of Olen is 4, as printed on the ticket.
"""
    fares = gates.replace("Gate", "Fare").replace("gate", "fare").replace("4", "31")
    fares = (
        fares.replace("7", "52")
        .replace("9", "65")
        .replace("embark at one place", "settle with coins")
        .replace("Turnstiles", "Clerks")
    )
    parts = (*split_markdown(gates, file="gates.md"), *split_markdown(fares, file="fares.md"))
    asked = {"gate": "", "fare": ""}
    for example in synthesise(parts, seed=0):
        relation = "gate" if example.file == "gates.md" else "fare"
        asked[relation] += example.prompt[0][1].casefold() + " "
    for relation, own in (("gate", ("embark", "turnstiles")), ("fare", ("coins", "clerks"))):
        assert all(word in asked[relation] for word in own)
        assert not any(word in asked[other] for other in asked if other != relation for word in own)


def test_the_synthesiser_knows_no_pack():
    folder = Path(__file__).parents[2] / "adaptive_moe" / "training"
    names = [
        "facts.py",
        "aliases.py",
        "associations.py",
        "phrasings.py",
        "prose.py",
        "question_forms.yaml",
        "statements.py",
        "synthesis.py",
        "tables.py",
        "topics.py",
    ]
    source = " ".join((folder / name).read_text().lower() for name in names)
    for word in ["symbol", "atomic", "element", "status code", "exception", "constellation"]:
        assert word not in source


def test_only_what_the_documents_write_as_code_is_asked_about_inside_of_code():
    """Names join with the marks around them into other tokens, so both are taught."""
    text = "# Calls\n\n| Call | Result |\n|---|---|\n| `{}` | int |\n| {} | text |\n"
    found = {}
    for code, plain_name in (("oneof", "twoof"), ("twoof", "oneof")):
        passages_of = tuple(split_markdown(text.format(code, plain_name), file="calls.md"))
        asked = [each.prompt[-1][1].casefold() for each in synthesise(passages_of, seed=0)]
        for name in (code, plain_name):
            inside = rf"{name}\.(?=\w)|= {name}\(|\w\({name}"
            found[name, name == code] = sum(bool(re.search(inside, each)) for each in asked)
    assert min(found["oneof", True], found["twoof", True]) > 0
    assert found["oneof", False] == found["twoof", False] == 0


def test_a_question_about_a_code_name_always_holds_it():
    text = "# Calls\n\n| Call | Return type |\n|---|---|\n| `sorted` | list |\n"
    asked = synthesise(tuple(split_markdown(text, file="calls.md")), seed=0, forms_per_fact=2000)
    assert len(asked) > 200
    assert all("sorted" in each.prompt[-1][1].casefold() for each in asked)
