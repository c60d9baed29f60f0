"""However a teacher keeps to the form, its pairs are read, and what cannot be read is counted."""

import pytest

from adaptive_moe.training.replies import Pair, read_pairs, read_statements

ONE = (Pair("Who keeps it?", "Olen"),)


@pytest.mark.parametrize(
    "reply",
    [
        '{"question": "Who keeps it?", "answer": "Olen"}',
        '[{"Question": "Who keeps it?", "Answer": "Olen"}]',
        '```json\n{"pairs": [{"q": "Who keeps it?", "a": "Olen"}]}\n```',
        '<think>Q: what? A: nothing</think>\n{"question": "Who keeps it?", "answer": "Olen"},',
        "Q: Who keeps it?\nA: Olen",
        "Q: Who keeps it? A: Olen",
        "1. **Question:** Who keeps it?\n   **Answer:** Olen",
        "- Q1. Who keeps it?\n- A1. Olen\n",
    ],
    ids=["json line", "list", "fenced", "thoughts", "two lines", "one line", "bold", "numbered"],
)
def test_many_spellings_are_one_pair(reply):
    read = read_pairs(reply)
    assert read.pairs == ONE
    assert read.unreadable == {}


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        ("Certainly, here they are", "neither JSON nor Q: and A:"),
        ('{"question": "Who keeps it?", "ans', "JSON that is broken"),
        ('{"topic": "lights"}', "JSON without question and answer"),
        ("Q: Who keeps it?", "a question without an answer"),
        ("A: Olen", "an answer without a question"),
        ("Q: " + "a" * 3000, "a line too long for a question"),
        ("[" * 5000, "a line too long for a question"),
    ],
)
def test_what_cannot_be_read_is_counted_by_reason_and_the_rest_is_kept(reply, reason):
    assert read_pairs(reply).unreadable == {reason: 1}
    assert read_pairs(f"Q: Who keeps it?\nA: Olen\n{reply}").pairs == ONE


def test_numbers_are_answers_and_nothing_is_no_reply():
    assert read_pairs('{"question": "How many?", "answer": 3}').pairs == (Pair("How many?", "3"),)
    assert read_pairs("").pairs == ()


def test_statements_are_sentences_on_lines_or_in_json():
    reply = 'Here:\n- The keeper of Tarvik is Olen.\n{"statement": "Olen lives there."}\n["It is."]'
    assert read_statements(reply) == (
        "The keeper of Tarvik is Olen.",
        "Olen lives there.",
        "It is.",
    )
