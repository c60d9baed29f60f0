"""Grouping by direction."""

import numpy as np
import pytest

from adaptive_moe.gaps.clusters import learn_radius, nearest, regroup, unit

WIDTH = 48
NONE = np.empty((0, WIDTH), np.float32)


def topic(generator, count, *, spread=0.6, centre=None):
    centre = generator.normal(size=WIDTH) if centre is None else centre
    rows = centre / np.linalg.norm(centre) + spread * generator.normal(
        size=(count, WIDTH)
    ) / np.sqrt(WIDTH)
    return np.stack([unit(row) for row in rows])


@pytest.mark.parametrize("vector", [[], [0.0, 0.0], [np.nan, 1.0], [np.inf, 1.0]])
def test_some_vectors_have_no_direction(vector):
    assert unit(np.array(vector)) is None


def test_five_vectors_of_one_topic_are_one_group():
    rows = topic(np.random.default_rng(0), 5)
    radius = learn_radius({}, strays=NONE, unknown=rows)

    assert regroup(rows, radius=radius, min_size=5) == ((0, 1, 2, 3, 4),)


def test_a_prompt_of_another_topic_is_not_swallowed():
    generator = np.random.default_rng(1)
    rows = np.concatenate([topic(generator, 5), topic(generator, 1)])
    radius = learn_radius({}, strays=NONE, unknown=rows)

    assert regroup(rows, radius=radius, min_size=5) == ((0, 1, 2, 3, 4), (5,))


def test_large_mixed_traffic_falls_into_its_topics_in_any_order():
    generator = np.random.default_rng(2)
    rows = np.concatenate([topic(generator, 20) for _ in range(4)])
    truth = np.repeat(np.arange(4), 20)
    order = generator.permutation(80)
    radius = learn_radius({}, strays=NONE, unknown=rows[order])

    groups = regroup(rows[order], radius=radius, min_size=5)

    assert [len(group) for group in groups[:4]] == [20, 20, 20, 20]
    assert all(len({truth[order[row]] for row in group}) == 1 for group in groups)


def test_known_domains_teach_how_wide_a_topic_is():
    generator = np.random.default_rng(3)
    known = {name: topic(generator, 10, spread=1.0) for name in "abcdef"}
    wide = learn_radius(known, strays=NONE, unknown=NONE)
    tight = {name: topic(generator, 10, spread=0.2) for name in "abcdef"}

    assert learn_radius(tight, strays=NONE, unknown=NONE) < wide


def test_topics_are_told_apart_even_in_states_that_all_lie_close_together():
    generator = np.random.default_rng(4)
    shared = 5.0 * np.eye(WIDTH)[0]
    rows = np.concatenate([topic(generator, 6, spread=0.1) for _ in range(4)]) + shared
    rows = np.stack([unit(row) for row in rows])

    radius = learn_radius({}, strays=NONE, unknown=rows)

    assert [len(group) for group in regroup(rows, radius=radius, min_size=5)] == [6, 6, 6, 6]


def test_traffic_on_one_topic_does_not_make_topics_look_narrow():
    generator = np.random.default_rng(5)
    rows = topic(generator, 30)

    assert len(regroup(rows, radius=learn_radius({}, strays=rows, unknown=NONE), min_size=5)) == 1


def test_the_nearest_group_has_the_smallest_average_distance():
    generator = np.random.default_rng(5)
    groups = {key: topic(generator, 6) for key in (7, 8)}
    means = {key: rows.mean(axis=0) for key, rows in groups.items()}
    prompt = groups[8][0]

    key, distance = nearest(prompt, means)

    assert key == 8
    assert distance == pytest.approx(np.mean([1.0 - row @ prompt for row in groups[8]]), abs=1e-6)
    assert nearest(prompt, {}) is None
