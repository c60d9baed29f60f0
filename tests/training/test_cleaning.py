"""Garbage is dropped with its reason, clean rows stay, and every stage leaves its record."""

import base64
import json
import random
import string

import pytest

from adaptive_moe.config.settings import TrainingSettings
from adaptive_moe.errors import NoUsableRowsError
from adaptive_moe.pocket import load_questions, pack_names, pack_path
from adaptive_moe.training.cleaning import clean
from adaptive_moe.training.filters import FILTERS, Candidate
from adaptive_moe.training.material import question_key, read_material
from adaptive_moe.training.secrets import secret_in
from adaptive_moe.training.splits import split_examples
from adaptive_moe.training.synthesis import synthesise

PLAIN = "river harbour copper window garden letter silver market candle winter bridge orchard"
WORDS = PLAIN.split()
LETTERS = string.ascii_letters + string.digits


def read_rows(tmp_path, pairs, name="rows.jsonl"):
    lines = [json.dumps({"prompt": question, "completion": answer}) for question, answer in pairs]
    (tmp_path / name).write_text("\n".join(lines) + "\n")
    return read_material([tmp_path / name])


def some(chance, alphabet, count):
    return "".join(chance.choices(alphabet, k=count))


def prose(chance, count):
    return " ".join(chance.choices(WORDS, k=count))


GARBAGE = {
    "empty": lambda chance: chance.choice(["", "   ", "...", "N/A", "[removed]"]),
    "long": lambda chance: " ".join(prose(chance, 9) for _ in range(900)),
    "loop": lambda chance: f"{prose(chance, chance.randint(1, 6))} " * chance.randint(12, 40),
    "drawl": lambda chance: chance.choice(string.ascii_letters) * chance.randint(25, 90),
    "refusal": lambda chance: chance.choice(
        [
            "As an AI language model, I cannot have a view on that.",
            "I'm sorry, but I can\u2019t help with that request.",
            "Unfortunately, I am unable to open files.",
            "I cannot assist with this.",
            "I don't have access to current data.",
        ]
    ),
    "key": lambda chance: chance.choice(
        [
            f"The key is AKIA{some(chance, string.ascii_uppercase + string.digits, 16)}.",
            f"Use ghp_{some(chance, LETTERS, 36)} for it.",
            f"-----BEGIN RSA PRIVATE KEY-----\nMII{some(chance, LETTERS, 60)}",
            f"postgres://admin:{some(chance, LETTERS, 12)}@host.net/base",
            f"It is {some(chance, LETTERS, 48)} and nothing else.",
        ]
    ),
    "misread": lambda chance: (
        f"{prose(chance, 4)} d\u00e9j\u00e0 vu \u2013 caf\u00e9".encode().decode("cp1252", "ignore")
    ),
    "unreadable": lambda chance: f"{prose(chance, 3)} \ufffd\ufffd {prose(chance, 2)}",
    "base64": lambda chance: base64.b64encode(chance.randbytes(120)).decode(),
    "hex": lambda chance: chance.randbytes(90).hex(),
    "script": lambda chance: some(chance, "абвгдежзиклмнопрст", 40),
}


@pytest.mark.slow
def test_garbage_is_caught_and_clean_rows_stay(tmp_path):
    """95 of 100 rows of every kind of garbage go, and 5 of 100 clean ones at most."""
    chance = random.Random(7)  # noqa: S311  not for security
    good = [
        (example.prompt[-1][1], example.answer)
        for pack in pack_names()
        for example in synthesise(read_material([pack_path(pack)]).passages, seed=1)[::80]
    ]
    bad = [
        (kind, f"{prose(chance, 5)}, {kind} {number}?", make(chance))
        for kind, make in GARBAGE.items()
        for number in range(20)
    ]
    rows = [*good, *((question, answer) for _, question, answer in bad)]
    # The packs' own forms come near to questions that they hold out; that is no garbage.
    material = read_rows(tmp_path, rows)
    cleaned, _ = clean(material)
    kept = {row.prompt[-1][1] for row in cleaned.rows}
    contaminated = {line for _, line, reason in cleaned.dropped if "held out" in reason}
    clean_rows = [q for line, (q, _) in enumerate(good, start=1) if line not in contaminated]
    for kind in GARBAGE:
        passed = [question for named, question, _ in bad if named == kind and question in kept]
        assert len(passed) <= 1, kind
    assert sum(question not in kept for question in clean_rows) <= 0.05 * len(clean_rows)


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("Which operator compares?", "!="),
        ("How deep is it?", "-5.5 m"),
        ("What is the hash of nothing?", "d41d8cd98f00b204e9800998ecf8427e"),
        ("What is in the row?", "0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0"),
        ("How do I log in?", "psql postgres://user:{{password}}@host/base"),
        ("What is the German for size?", "Größe"),
        ("How do you say hello in Russian?", "Здравствуйте, дорогие друзья"),
        ("Is Tokyo big?", "Yes"),
        ("What did he say?", "He was sorry for the cat."),
        ("Draw a line.", "| a | b |\n| --- | --- |\n| 1 | 2 |"),
        ("What is the café called?", "CAF\u00c9\u2019S and „Spaß“"),
    ],
)
def test_odd_but_honest_rows_pass(question, answer):
    candidate = Candidate(question, answer, frozenset({"LATIN"}))
    assert [name for name, reason in FILTERS.items() if reason(candidate)] == []


def test_a_near_copy_with_the_same_answer_is_dropped_and_names_the_row_it_copies(tmp_path):
    asked = "How many metres deep is the northern lake near the old town of Garda"
    pairs = [
        (f"{asked}?", "346 m"),
        (f"{asked}, please?", "346 m"),
        ("What depth does Garda's lake reach?", "346 m"),
        (f"{asked.replace('Garda', 'Como')}?", "346 m"),
        (f"{asked} really?", "340 m"),
    ]
    material, _ = clean(read_rows(tmp_path, pairs))
    assert [row.line for row in material.rows] == [1, 3, 4, 5]
    reason = "it nearly repeats the question of rows.jsonl, row 1"
    assert material.dropped == (("rows.jsonl", 2, reason),)


def test_near_copies_of_held_out_questions_are_dropped(tmp_path):
    held_out = load_questions("chemistry", development=True)[0].question
    guarded = "Which river flows through the town of Brimhold?"
    pairs = [
        (f"Please tell me: {held_out}", "x"),
        ("Tell me, which river flows through the town of Brimhold?", "y"),
        ("Which river flows through the town of Eastmere?", "z"),
    ]
    material, stages = clean(read_rows(tmp_path, pairs), evaluated=[guarded])
    assert [row.line for row in material.rows] == [3]
    reason = "it nearly repeats a question that is held out for measuring"
    assert stages[-1].dropped == {reason: 2}


def test_every_stage_tells_what_it_let_through(tmp_path):
    pairs = [("How deep?", "Deep."), ("Why?", "I cannot help with that."), ("Who?", "")]
    material, stages = clean(read_rows(tmp_path, pairs))
    read, filtered, *others = stages
    assert [stage.name for stage in others] == ["duplicates", "contamination"]
    assert (read.entered, read.left) == ({"records": 3}, {"rows": 2, "passages": 0})
    assert filtered.dropped == {"the answer refuses": 1}
    assert filtered.left == {"rows": 1, "passages": 0}
    assert read.sha256 != filtered.sha256 == others[-1].sha256 == material.digest


def test_filters_are_chosen_by_name(tmp_path):
    pairs = [("Why?", "I cannot help with that."), ("Who?", "ha " * 19)]
    material = read_rows(tmp_path, pairs)
    assert len(clean(material, "none")[0].rows) == 2
    assert [row.line for row in clean(material, ["refusal"])[0].rows] == [2]
    with pytest.raises(NoUsableRowsError, match=r"row 1: the answer refuses"):
        clean(material)


@pytest.mark.parametrize(
    "text",
    [
        "AWS_SECRET_ACCESS_KEY=wJalrXUtnFEMI/K7MDENG/bPxRfiCYzzKEYQWERT",
        "TOKEN=k3J9x0Lq2mZ8vB7nT5rW1yU4cD6fG0hA",
        "api_key=9f86d081884c7d659a2feaa0c55ad015a3bf4f1b",
        "https://host.net/?key=k3J9x0Lq2mZ8vB7nT5rW1yU4cD6fG0hA",
        "password: Tr0ub4dor$9x",
        "DB_PASSWORD=hunter2hunter",
    ],
)
def test_what_is_assigned_to_a_secrets_name_is_a_secret(text):
    assert secret_in(text) == "a password"
    assert secret_in(f"Set it: {text} and go on.") == "a password"


@pytest.mark.parametrize(
    "text",
    [
        "password: ${DB_PASSWORD}",
        "api_key=os.environ['KEY1']",
        "max_tokens=512",
        "num_tokens: 4096tokens",
        "token = tokenizer.encode(text)",
        "sha256: 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b",
    ],
)
def test_what_only_looks_like_a_secret_is_none(text):
    assert secret_in(text) is None


def test_a_heading_is_looked_at_too(tmp_path):
    file = tmp_path / "notes.md"
    file.write_text("# Harbour\n\nIt is old.\n\n# password: Tr0ub4dor$9x\n\nIt is deep.\n")
    material, _ = clean(read_material([file]))
    assert [passage.text for passage in material.passages] == ["It is old."]


def test_an_instruction_that_all_rows_share_makes_none_a_copy(tmp_path):
    chance = random.Random(4)  # noqa: S311  not for security
    names = [f"{first}{last}" for first in WORDS for last in WORDS]
    instruction = f"Say what mood this is in: {' '.join(chance.sample(names, 140))}"
    asked = [f"{instruction} {' '.join(chance.sample(names, 8))}" for _ in range(300)]
    material = read_rows(tmp_path, [(each, "calm") for each in (*asked, f"{asked[7]} now")])
    material, _ = clean(material)
    assert [row.prompt[-1][1] for row in material.rows] == asked
    split = split_examples(material, (), TrainingSettings(split="generalise"))
    assert len(split.held_out) + len(split.selection) > 30


def test_no_example_made_of_documents_asks_what_an_evaluation_asks():
    material, _ = clean(read_material([pack_path("chemistry")]))
    made = synthesise(material.passages, seed=0)
    asked = [example.prompt[-1][1] for example in made[::50]]
    again, _ = clean(read_material([pack_path("chemistry")]), evaluated=asked)
    split = split_examples(again, made, TrainingSettings())
    taught = {question_key(example.prompt[-1][1]) for example in split.train}
    assert not taught & set(map(question_key, asked))
    assert len(split.train) > 0.9 * 0.9 * len(made)


def test_questions_about_one_text_are_told_apart_and_held_out_ones_found_behind_it(tmp_path):
    text = "The lake of Tarvik is deep and wide, old and cold; nobody has ever swum in it at night."
    asked = ["Is the lake deep?", "Is the lake cold?", "Is the lake really deep?"]
    held_out = load_questions("chemistry", development=True)[0].question
    pairs = [(f"{text}\n\n{question}", "yes") for question in (*asked, held_out)]
    material, _ = clean(read_rows(tmp_path, pairs))
    assert [row.line for row in material.rows] == [1, 2]
    assert [(line, reason[:16]) for _, line, reason in material.dropped] == [
        (3, "it nearly repeat"),
        (4, "it nearly repeat"),
    ]
    assert "held out" in material.dropped[1][2]
