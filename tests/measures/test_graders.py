"""Graders accept the same answer in other clothes and refuse another answer."""

import pytest

from adaptive_moe.measures.graders import (
    GRADERS,
    choice,
    exact,
    normalise,
    normalised,
    numeric,
    token_f1,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("  The  Eiffel Tower. ", "eiffel tower"),
        ("U.S.A.", "usa"),
        ("well-known", "well known"),
        ("-5 °C", "-5 °c"),
        ("\u22125", "-5"),
        ("3.50", "3.50"),
        ("1,000", "1000"),
        ("C++ / C#", "c++ c#"),
        ("\ufb01re", "fire"),
        ("the", "the"),
        ("A", "a"),
        ("", ""),
    ],
)
def test_normalise(text: str, expected: str) -> None:
    assert normalise(text) == expected


def test_exact_forgives_only_outer_white_space() -> None:
    assert exact(" Fe\n", "Fe")
    assert not exact("fe", "Fe")


def test_normalised_keeps_signs_and_languages_apart() -> None:
    assert normalised("The Seine!", "seine")
    assert not normalised("-5", "5")
    assert not normalised("C#", "C")


@pytest.mark.parametrize(
    ("answer", "reference"),
    [("12 + 30 = 42", "42"), ("It is 1,000 m.", "1e3"), ("-0.5", "-.5"), ("so x is 7.", "#### 7")],
)
def test_numeric_compares_the_last_number(answer: str, reference: str) -> None:
    assert numeric(answer, reference)


@pytest.mark.parametrize(
    ("answer", "reference"), [("5.01", "5"), ("-5", "5"), ("five", "5"), ("", "0"), ("H2", "2")]
)
def test_numeric_refuses_other_numbers_and_none(answer: str, reference: str) -> None:
    assert not numeric(answer, reference)


def test_token_f1_by_hand() -> None:
    # Words: "marie curie" and "marie sklodowska curie": 2 in common, 2 * 2 / (2 + 3).
    assert token_f1("Marie Curie", "Marie Sklodowska Curie") == pytest.approx(0.8)
    assert token_f1("Paris Paris", "Paris") == pytest.approx(2 / 3)
    assert token_f1("", "") == 1.0
    assert token_f1("", "Paris") == 0.0


@pytest.mark.parametrize("answer", ["B", "b)", "(B)", "B. iron", "The answer is B", "Answer: (B)"])
def test_choice_finds_the_letter(answer: str) -> None:
    assert choice(answer, "B")
    assert not choice(answer, "C")


@pytest.mark.parametrize("answer", ["A cat", "The answer is a cat", "", "iron"])
def test_choice_takes_no_word_for_a_letter(answer: str) -> None:
    assert not choice(answer, "A")


@pytest.mark.parametrize("name", sorted(GRADERS))
def test_every_grader_gives_one_for_the_reference_and_zero_for_another(name: str) -> None:
    right = {"numeric": "42", "choice": "B"}.get(name, "iron")
    wrong = {"numeric": "41", "choice": "C"}.get(name, "gold")
    assert GRADERS[name](right, right) == 1.0
    assert GRADERS[name](wrong, right) == 0.0
