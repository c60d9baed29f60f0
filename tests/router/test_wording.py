"""Words as columns, and whole groups left out of a fit."""

import numpy as np
import pytest

from adaptive_moe.router.folds import fold_numbers
from adaptive_moe.router.wording import COLUMNS, unit, wording, wording_matrix


def shared(first: str, second: str) -> float:
    """The cosine of two wordings."""
    a, b = wording(first), wording(second)
    return len(np.intersect1d(a, b)) * unit(a) * unit(b)


def test_case_order_and_punctuation_say_nothing() -> None:
    assert shared("What is Iron?", "iron: IS what") == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("near", "far"),
    [
        (("constellation", "constellations"), ("constellation", "currency")),
        (("Camelopardalis", "Camelopardolis"), ("Camelopardalis", "Lisbon")),
        (("铁的化学符号是什么", "铁的化学符号"), ("铁的化学符号", "法国的首都")),
    ],
)
def test_forms_of_a_word_share_more_than_other_words(
    near: tuple[str, str], far: tuple[str, str]
) -> None:
    assert shared(*near) > 0.3 > shared(*far)


@pytest.mark.parametrize("text", ["", " ?! ", "\u0000"])
def test_a_text_without_words_has_no_column(text: str) -> None:
    assert wording(text).size == 0
    assert unit(wording(text)) == 0.0


def test_columns_are_bounded_for_any_text() -> None:
    columns = wording("x" * 100_000 + " " + " ".join(map(str, range(20_000))))
    assert 0 <= columns.min() <= columns.max() < COLUMNS
    assert len(wording("y" * 100_000)) < 12


def test_a_matrix_has_each_text_as_a_row_of_unit_length() -> None:
    matrix = wording_matrix(["iron and gold", "", "gold"])
    assert matrix.shape == (3, COLUMNS)
    lengths = np.sqrt((matrix.toarray() ** 2).sum(axis=1))
    assert lengths == pytest.approx([1.0, 0.0, 1.0])


def test_groups_stay_whole_and_no_fold_is_empty() -> None:
    groups = ["a"] * 50 + ["b", "c", "c", "d"]
    folds = fold_numbers(groups, folds=3, seed=0)
    assert set(folds.tolist()) == {0, 1, 2}
    assert all(len({folds[i] for i, each in enumerate(groups) if each == g}) == 1 for g in "abcd")
    assert np.array_equal(folds, fold_numbers(groups, folds=3, seed=0))


def test_two_groups_stay_whole_and_one_alone_is_split_up() -> None:
    two = fold_numbers(["a"] * 5 + ["b"] * 4, folds=3, seed=0)
    assert sorted(np.bincount(two).tolist()) == [4, 5]
    assert np.bincount(fold_numbers(["a"] * 9, folds=3, seed=0)).tolist() == [3, 3, 3]
