"""Which topic a prompt is of, and how wide one is, learned from domains that were left out."""

from dataclasses import replace

import numpy as np
import pytest

from adaptive_moe.router.domains import topic_columns
from adaptive_moe.router.topics import Topics, fit_topics, units
from adaptive_moe.router.whitening import fit_whitening
from adaptive_moe.router.wording import COLUMNS, wording
from tests.router.world import STATE, World

NOUNS = {
    "a": "river",
    "b": "planet",
    "c": "copper",
    "d": "violin",
    "e": "recipe",
    "f": "harbour",
}


def labelled(names, count=60):
    """Graded prompts that say what they are about, in states of their domain."""
    rows = World(3).rows(count * len(names), accuracy=dict.fromkeys(names, 0.5))
    return [
        replace(
            row, evidence=replace(row.evidence, text=f"tell me of the {NOUNS[row.domain]} {number}")
        )
        for number, row in enumerate(rows)
    ]


def states_of(rows):
    return np.stack([row.evidence.states for row in rows])


def whitening_of(rows):
    return fit_whitening(
        states_of(rows), labels=[row.domain for row in rows], columns=topic_columns(STATE)
    )


def found(topics, whitening, rows):
    return [
        topics.find(whitening.apply(row.evidence.states), wording(row.evidence.text))
        for row in rows
    ]


def test_words_and_directions_are_weighed_and_too_little_is_no_topic():
    words = np.zeros((COLUMNS, 2), np.float16)
    words[[3, 8], 0] = 2.0
    topics = Topics(
        radius=0.5,
        labels=("first", "second"),
        words=words,
        states=np.array([[0.0, 1.0], [0.0, 0.0]], np.float32),
        bias=np.zeros(2, np.float32),
        least=0.7,
    )
    aside = np.array([0.0, 7.0], np.float32)
    # Four marks of length 1/2 each: 2 * 2 / 2 = 2 for the first, whose share is 1 / (1 + e^-2).
    assert topics.find(aside, np.array([3, 8, 11, 12])) == "first"
    # One mark of four: 1 against 0, and 1 / (1 + e^-1) = .731; with the direction 1 against 1.
    assert topics.find(aside, np.array([3, 9, 11, 12])) == "first"
    assert topics.find(np.array([5.0, 0.0], np.float32), np.array([3, 9, 11, 12])) is None
    # The direction alone: 1 / (1 + e^-1), however far out.
    for length in (0.1, 1000.0):
        assert topics.find(np.array([length, 0.0], np.float32), wording("")) == "second"
    assert topics.find(np.zeros(2, np.float32), wording("")) is None


def test_new_prompts_find_their_topic_and_those_of_others_none():
    rows = labelled("abcde")
    whitening = whitening_of(rows)
    topics = fit_topics(rows, whitening, seed=0)
    assert topics is not None
    assert topics.labels == tuple("abcde")
    other = World(9)
    new = [
        replace(row, evidence=replace(row.evidence, states=other.states(row.domain, 1)[0]))
        for row in labelled("abcde", 20)
    ]
    right = np.mean(
        [name == row.domain for name, row in zip(found(topics, whitening, new), new, strict=True)]
    )
    assert right > 0.95
    strangers = found(topics, whitening, labelled("f", 40))
    assert np.mean([name is None for name in strangers]) > 0.9


def test_the_radius_tells_a_new_domain_from_the_others():
    rows = labelled("abcdef")
    topics = fit_topics(rows, whitening_of(rows), seed=0)
    assert topics is not None
    known = [row for row in rows if row.domain != "f"]
    rest = whitening_of(known)
    own = units(rest.apply(states_of([row for row in rows if row.domain == "f"])))
    mean = own.mean(axis=0)
    assert (1 - own @ mean <= topics.radius).mean() > 0.9
    assert (1 - units(rest.apply(states_of(known))) @ mean > topics.radius).mean() > 0.9


def test_domains_of_few_sources_are_enough():
    rows = [
        replace(row, source=f"{row.domain}{number % 2}")
        for number, row in enumerate(labelled("abc"))
    ]
    topics = fit_topics(rows, whitening_of(rows), seed=0)
    assert topics is not None
    one_each = [replace(row, source=row.domain) for row in rows]
    assert fit_topics(one_each, whitening_of(rows), seed=0) is not None


@pytest.mark.parametrize(("names", "count"), [("ab", 60), ("abcd", 7)])
def test_two_domains_or_a_few_prompts_say_nothing(names, count):
    rows = labelled(names, count)
    assert fit_topics(rows, whitening_of(rows), seed=0) is None
